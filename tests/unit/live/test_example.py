"""examples/realtime.py, as it is started, against a service that says what it is told to say."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.unit.live.scripted import Call, Script, polite, scripted
from tests.unit.live.test_sources import write_wav

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[3] / "examples" / "realtime.py"


async def run(recording: Path, script: Script) -> tuple[int | None, str, str]:
    async with scripted(script) as service:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(EXAMPLE), str(recording), service.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_text_grows_and_ends(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", 4800)

    status, output, errors = await run(tmp_path / "a.wav", polite)

    assert (status, errors) == (0, "")
    assert output == "\r\033[KGood\033[2m mourning\033[m\r\033[KGood morning.\n"


async def test_an_error_is_a_sentence(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        await call.error("overloaded", "The service is full.")
        await call.socket.close(1013)

    write_wav(tmp_path / "a.wav", 4800)

    assert await run(tmp_path / "a.wav", script) == (1, "", "The service is full.\n")
