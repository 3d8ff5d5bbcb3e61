"""What a child writes to stderr is logged by its parent."""

import asyncio
import logging
import os
from pathlib import Path

import pytest
import structlog

from asr_service.ipc import ChannelClosed, spawn
from tests.fakes import nothing_left_behind

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.unit.talking_child"


async def test_messages_keep_their_level_and_tracebacks_stay_together(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=MODULE)
    async with nothing_left_behind():
        child = await spawn(MODULE, {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PYTHONWARNINGS": "default"})
        with pytest.raises(ChannelClosed):
            await child.channel.receive()
        await child.kill()

    records = [record for record in caplog.records if record.name == MODULE]
    assert [(record.levelname, record.getMessage()) for record in records[:1]] == [("INFO", "a.b:it works: 3")]
    text = {level: "\n".join(r.getMessage() for r in records if r.levelname == level) for level in ("WARNING", "ERROR")}
    assert "old thing" in text["WARNING"]
    assert text["ERROR"] == "a:failed"
    (trace,) = [r.getMessage() for r in records if r.getMessage().startswith("Traceback")]
    assert trace.count("\n") >= 2
    assert "ValueError: cause" in text["WARNING"]
    assert "from C \ufffd\ufffd[2J\ufffd\ufffd" in text["WARNING"]
    assert sum(record.getMessage().count("x") for record in records) >= 20_000
    assert max(len(record.getMessage()) for record in records) < 10_000


async def test_messages_have_the_fields_of_what_the_child_is_about(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=MODULE)
    said: list[object] = []

    def note(record: logging.LogRecord) -> bool:
        said.append(structlog.contextvars.get_contextvars())
        return True

    caplog.handler.addFilter(note)
    child = await spawn(MODULE, {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"})
    child.about["request_id"] = "r1"
    with pytest.raises(ChannelClosed):
        await child.channel.receive()
    await child.kill()
    caplog.handler.removeFilter(note)

    assert said
    assert all(fields == {"request_id": "r1"} for fields in said)


async def test_a_child_that_is_killed_leaves_nothing() -> None:
    async with nothing_left_behind():
        child = await spawn(
            "tests.unit.engine.scripted_process", {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        )
        await asyncio.wait_for(child.kill(), 20)
