"""The one line that is logged for a request."""

import asyncio
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from asr_service.errors import EngineError
from tests.api.conftest import Serve
from tests.fakes import FakeDecoder, FakeEngine, result, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

DOCS = Path(__file__).parents[2] / "docs" / "logs.md"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Lines = list[MutableMapping[str, Any]]


def request_lines(lines: Lines) -> Lines:
    return [line for line in lines if line["event"] == "request"]


async def test_a_transcription_is_one_line_without_a_word_of_it(serve: Serve, log_lines: Lines) -> None:
    async with serve(FakeEngine([result("the secret plan")]), FakeDecoder()) as client:
        await client.post("/transcribe?prompt=hidden+names", content=b"private audio")

    (line,) = request_lines(log_lines)
    assert set(line) == {
        *("event", "log_level", "method", "route", "status", "code", "caller", "model"),
        *("files", "bytes", "audio_s", "segments", "upload_ms", "decode_ms", "vad_ms", "queue_ms", "encode_ms"),
        *("first_token_ms", "decode_steps_ms", "align_ms", "total_ms", "request_ms"),
    }
    assert (line["log_level"], line["route"], line["status"], line["code"]) == ("info", "/transcribe", 200, "ok")
    assert (line["bytes"], line["audio_s"], line["model"]) == (13, 1.0, "whisper-test")
    for private in ("secret", "hidden", "private"):
        assert private not in str(log_lines)


async def test_errors_are_logged_with_their_code(serve: Serve, log_lines: Lines) -> None:
    async with serve(FakeEngine([RuntimeError("a bug")])) as client:
        await client.post("/transcribe", content=b"")
        await client.post("/transcribe", content=b"x")

    refused, failed = request_lines(log_lines)
    assert (refused["log_level"], refused["status"], refused["code"]) == ("info", 400, "missing_audio")
    assert "holds no audio" in refused["error"]
    assert (failed["log_level"], failed["status"], failed["code"]) == ("warning", 500, "internal_error")
    (unexpected,) = [line for line in log_lines if line["event"] == "unexpected error"]
    assert unexpected["exc_info"]


async def test_probes_are_quiet(serve: Serve, log_lines: Lines) -> None:
    async with serve(FakeEngine()) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            await client.get(path)

    assert [line["log_level"] for line in request_lines(log_lines)] == ["debug"] * 3


async def test_a_request_that_fails_has_what_was_known_until_then(serve: Serve, log_lines: Lines) -> None:
    engine = FakeEngine()
    async with serve(engine) as client:
        asking = asyncio.create_task(client.post("/transcribe", content=b"audio"))
        call = await engine.next_call()
        await settle()
        call.fail(EngineError("it broke"))
        await asking

    (line,) = request_lines(log_lines)
    assert (line["code"], line["bytes"], line["audio_s"], line["decode_ms"]) == ("engine_error", 5, 1.0, 5.0)
    assert line["model"] == "whisper-test"
    assert "total_ms" not in line


async def test_several_recordings_are_summed_up_and_their_longest_stages_kept(serve: Serve, log_lines: Lines) -> None:
    async with serve(FakeEngine([result("a", ms=30.0), result("b", ms=10.0)])) as client:
        files = [("file", ("1.wav", b"one")), ("file", ("2.wav", b"three"))]
        await client.post("/transcribe", files=files)

    (line,) = request_lines(log_lines)
    assert (line["files"], line["bytes"], line["audio_s"], line["segments"]) == (2, 8, 2.0, 2)
    assert (line["encode_ms"], line["decode_ms"]) == (30.0, 5.0)


async def test_all_lines_of_a_request_name_the_callers_trace(serve: Serve) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with serve(FakeEngine([RuntimeError("a bug"), result("text")])) as client:
            await client.post("/transcribe", content=b"x", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
            await client.post("/transcribe", content=b"x", headers={"traceparent": f"00-{TRACE}-{CALLER}"})

    unexpected, failed, done = [line for line in lines if "request_id" in line]
    for line in (unexpected, failed):
        assert (line["trace_id"], line["span_id"]) == (TRACE, CALLER)
    assert "trace_id" not in done


async def test_every_field_of_the_line_is_documented_and_no_other(serve: Serve) -> None:
    fields: set[str] = set()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with serve(FakeEngine([result("a"), EngineError("broken")])) as client:
            for path in ("/transcribe", "/transcribe", "/nowhere"):
                await client.post(path, content=b"x", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
    for line in request_lines(lines):
        fields |= set(line)

    table = DOCS.read_text(encoding="utf-8").split("| field |")[1].split("\n\n")[0]
    assert fields - {"event", "log_level"} == set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
