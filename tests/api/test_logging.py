"""The one line that is logged for a request."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.api.conftest import Serve
from tests.fakes import FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

Lines = list[MutableMapping[str, Any]]


def request_lines(lines: Lines) -> Lines:
    return [line for line in lines if line["event"] == "request"]


async def test_a_transcription_is_one_line_without_a_word_of_it(serve: Serve, log_lines: Lines) -> None:
    async with serve(FakeEngine([result("the secret plan")]), FakeDecoder()) as client:
        await client.post("/transcribe?prompt=hidden+names", content=b"private audio")

    (line,) = request_lines(log_lines)
    assert set(line) == {
        *("event", "log_level", "method", "route", "status", "code", "bytes", "audio_s", "segments", "model"),
        *("upload_ms", "decode_ms", "vad_ms", "queue_ms", "encode_ms", "decode_steps_ms", "total_ms", "request_ms"),
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
