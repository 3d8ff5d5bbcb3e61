"""POST /transcribe: what comes back, what is refused, and that nobody's work outlives them."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message

from asr_service.errors import (
    AsrError,
    AudioTooLong,
    EngineCrashed,
    EngineError,
    ModelUnavailable,
    Unavailable,
    UnreadableAudio,
)
from asr_service.observability.metrics import Metrics
from tests.api.conftest import Serve, build
from tests.fakes import GLM_ASR, FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

WAV = b"RIFF, some audio"


async def test_a_file_becomes_text(serve: Serve) -> None:
    engine, decoder = FakeEngine([result("One."), result("Two.")]), FakeDecoder(2, warnings=("It breaks off.",))

    async with serve(engine, decoder) as client:
        response = await client.post("/transcribe", files={"file": ("a.wav", WAV)}, data={"prompt": " Names. "})

    assert response.status_code == 200
    reply = response.json()
    assert re.fullmatch("[0-9a-f]{32}", reply["request_id"])
    assert response.headers["x-request-id"] == reply["request_id"]
    timings = reply.pop("timings_ms")
    assert list(timings) == ["decode", "vad", "queue", "encode", "decode_steps", "align", "total"]
    assert timings["decode"] == 5.0
    assert timings["total"] > 0
    assert reply == {
        "text": "One. Two.",
        "language": "en",
        "duration_s": 2.0,
        "model": "whisper-test",
        "request_id": reply["request_id"],
        "segments": [{"start": 0.1, "end": 0.9, "text": "One."}, {"start": 1.1, "end": 1.9, "text": "Two."}],
        "warnings": ["It breaks off."],
    }
    assert decoder.uploads == [WAV]
    assert engine.calls[0].options.prompt == "Names."
    assert engine.calls[0].request_id == reply["request_id"]


@pytest.mark.parametrize("content_type", ["audio/wav", "video/mp4", "application/octet-stream", "Audio/MPEG", None])
async def test_a_raw_body_takes_its_options_from_the_query(serve: Serve, content_type: str | None) -> None:
    engine, decoder = FakeEngine([result("Gut.", "de")]), FakeDecoder()
    headers = {} if content_type is None else {"Content-Type": content_type}

    async with serve(engine, decoder) as client:
        response = await client.post("/transcribe?language=german&prompt=Ein+Wort", content=WAV, headers=headers)

    assert response.status_code == 200, response.text
    assert response.json()["language"] == "de"
    assert decoder.uploads == [WAV]
    assert (engine.calls[0].options.language, engine.calls[0].options.prompt) == ("de", "Ein Wort")


async def test_form_options_may_come_in_the_query_too(serve: Serve) -> None:
    engine = FakeEngine([result("x")])
    async with serve(engine) as client:
        response = await client.post("/transcribe?language=zh-CN", files={"file": WAV}, data={"prompt": ""})

    assert response.status_code == 200
    assert (engine.calls[0].options.language, engine.calls[0].options.prompt) == ("zh", None)


async def test_silence_gives_an_empty_text(serve: Serve) -> None:
    async with serve(FakeEngine([]), FakeDecoder(0)) as client:
        reply = (await client.post("/transcribe", content=WAV)).json()

    assert (reply["text"], reply["segments"], reply["language"]) == ("", [], None)


async def test_a_model_that_takes_no_language_says_so(serve: Serve) -> None:
    engine = FakeEngine([result("x", None), result("x", None)], model=GLM_ASR)
    async with serve(engine) as client:
        given = (await client.post("/transcribe?language=en", content=WAV)).json()
        automatic = (await client.post("/transcribe?language=auto", content=WAV)).json()

    assert given["warnings"] == ["The language 'en' was not used: glm-asr-test always finds the language by itself."]
    assert automatic["warnings"] == []
    assert [call.options.language for call in engine.calls] == [None, None]


@pytest.mark.parametrize(
    ("query", "code", "detail"),
    [
        ("language=klingon", "invalid_option", "does not know the language 'klingon'"),
        ("lang=en", "invalid_option", "no option 'lang'; the options are hotwords, language, prompt"),
        ("language=en&language=de", "invalid_option", "'language' is given twice"),
        ("prompt=" + "x" * 4001, "invalid_option", "4001 characters"),
    ],
)
async def test_bad_options_are_refused(serve: Serve, query: str, code: str, detail: str) -> None:
    engine = FakeEngine([])
    async with serve(engine) as client:
        response = await client.post(f"/transcribe?{query}", content=WAV)

    assert response.status_code == 422
    assert response.json()["code"] == code
    assert detail in response.json()["detail"]
    assert engine.calls == []


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (UnreadableAudio("It is not audio."), 400, None),
        (AudioTooLong("It is too long."), 413, None),
        (EngineError("The model failed."), 500, None),
        (EngineCrashed("The engine died.", retry_after_s=1.2), 503, "2"),
        (Unavailable("Busy.", retry_after_s=0.1), 503, "1"),
        (ModelUnavailable("There is no such model."), 503, None),
    ],
)
async def test_errors_are_problems(serve: Serve, error: AsrError, status: int, retry_after: str | None) -> None:
    async with serve(FakeEngine([error])) as client:
        response = await client.post("/transcribe", content=WAV, headers={"X-Request-ID": "my-id.1"})

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get("retry-after") == retry_after
    assert response.json() == {
        "type": f"urn:asr-service:problem:{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": status,
        "detail": error.message,
        "code": error.code,
        "request_id": "my-id.1",
    }


async def test_an_unexpected_error_tells_nothing_about_the_inside(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(FakeEngine([RuntimeError("secret path /etc")])) as client:
        response = await client.post("/transcribe", content=WAV)

    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert "secret" not in response.text


async def test_before_the_model_is_loaded_requests_are_sent_away_without_reading_them(serve: Serve) -> None:
    decoder = FakeDecoder()
    async with serve(FakeEngine([], model=None, not_ready="the model is loading"), decoder) as client:
        response = await client.post("/transcribe", content=WAV)

    assert response.status_code == 503
    assert response.json()["code"] == "engine_not_ready"
    assert "the model is loading" in response.json()["detail"]
    assert response.headers["retry-after"] == "5"
    assert decoder.uploads == []


async def test_while_the_engine_restarts_requests_wait(serve: Serve) -> None:
    engine = FakeEngine(not_ready="the engine died and is being restarted")
    async with serve(engine) as client:
        answer = asyncio.ensure_future(client.post("/transcribe?language=en", content=WAV))
        (await engine.next_call()).finish("Still here.")
        response = await answer

    assert response.json()["text"] == "Still here."


@pytest.mark.parametrize("given", ["x" * 129, "a b", "ü", "", "a\tb"])
async def test_odd_request_ids_are_replaced(serve: Serve, given: str) -> None:
    async with serve(FakeEngine([result("x")])) as client:
        response = await client.post("/transcribe", content=WAV, headers=[(b"X-Request-ID", given.encode("latin-1"))])

    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


class Connection:
    """A client at the ASGI level, which can leave at any moment."""

    def __init__(self, chunks: list[bytes], headers: dict[str, str] | None = None) -> None:
        self.sent: list[Message] = []
        self.read = 0
        self._chunks = chunks
        self._headers = headers or {}
        self._left = asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    @property
    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/transcribe",
            "raw_path": b"/transcribe",
            "root_path": "",
            "query_string": b"language=en",
            "headers": [(name.lower().encode(), value.encode()) for name, value in self._headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    async def receive(self) -> Message:
        if self.read < len(self._chunks):
            self.read += 1
            more = self.read < len(self._chunks) or self._left.is_set()
            return {"type": "http.request", "body": self._chunks[self.read - 1], "more_body": more}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.fixture
async def metrics() -> AsyncIterator[Metrics]:
    metrics = Metrics()
    yield metrics
    assert metrics.registry.get_sample_value("asr_requests_in_flight") == 0


def requests_counted(metrics: Metrics, status: str, code: str) -> float | None:
    labels = {"route": "/transcribe", "method": "POST", "status": status, "code": code}
    return metrics.registry.get_sample_value("asr_requests_total", labels)


async def test_a_client_that_leaves_while_its_file_is_transcribed_ends_the_work(metrics: Metrics) -> None:
    engine, decoder = FakeEngine(), FakeDecoder(3, hang=True)
    app = build(engine, decoder, metrics)
    connection = Connection([WAV])
    async with app.router.lifespan_context(app):
        answer = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))
        calls = [await engine.next_call() for _ in range(3)]
        await decoder.hanging.wait()
        assert metrics.registry.get_sample_value("asr_requests_in_flight") == 1
        connection.leave()
        await answer

    assert all(call.cancelled for call in calls)
    assert decoder.open == 0
    assert connection.sent == []
    assert requests_counted(metrics, "499", "client_gone") == 1


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "multipart/form-data; boundary=b"}])
async def test_a_client_that_leaves_during_the_upload_leaves_nothing(metrics: Metrics, headers: dict[str, str]) -> None:
    decoder = FakeDecoder()
    app = build(FakeEngine([]), decoder, metrics, max_upload_mb=8)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    connection = Connection([head, b"x" * 3_000_000], headers)
    connection.leave()
    async with app.router.lifespan_context(app):
        await app(connection.scope, connection.receive, connection.send)

    assert decoder.uploads == []
    assert connection.sent == []
    assert requests_counted(metrics, "499", "client_gone") == 1


async def test_a_cancelled_handler_leaves_nothing(metrics: Metrics) -> None:
    engine = FakeEngine()
    app = build(engine, FakeDecoder(), metrics)
    connection = Connection([WAV])
    async with app.router.lifespan_context(app):
        answer = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))
        call = await engine.next_call()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer

    assert call.cancelled


async def test_requests_are_measured(serve: Serve, metrics: Metrics) -> None:
    async with serve(FakeEngine([result("a"), result("b", guard="loop")]), FakeDecoder(2), metrics) as client:
        await client.post("/transcribe", content=WAV)
        await client.post("/transcribe", content=b"")
        await client.get("/nowhere/at/all")
        await client.request("BREW", "/livez")

    sample = metrics.registry.get_sample_value
    assert requests_counted(metrics, "200", "ok") == 1
    assert requests_counted(metrics, "400", "missing_audio") == 1
    assert sample("asr_requests_total", {"route": "unmatched", "method": "GET", "status": "404", "code": "not_found"})
    assert sample(
        "asr_requests_total", {"route": "/livez", "method": "other", "status": "405", "code": "method_not_allowed"}
    )
    assert sample("asr_audio_seconds_total") == 2.0
    assert sample("asr_rtf_count") == 1
    assert sample("asr_guard_hits_total", {"kind": "loop"}) == 1
    assert sample("asr_request_seconds_count", {"route": "/transcribe", "caller": "address"}) == 2
    assert sample("asr_request_seconds_count", {"route": "/livez", "caller": "none"}) == 1
    for stage in ("upload", "decode", "vad", "queue", "encode", "first_token", "generation", "align", "total"):
        assert sample("asr_request_stage_seconds_count", {"stage": stage}) == 1, stage
