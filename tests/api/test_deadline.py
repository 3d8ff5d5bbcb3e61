"""Time limits: uploads that stop or trickle, work that takes too long, and answers that nobody reads."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from starlette.types import Message

from asr_service.api.deadline import Deadline, Pace
from asr_service.errors import DeadlineExceeded, UploadTimeout
from asr_service.observability.metrics import Metrics
from tests.api.conftest import Serve, build
from tests.api.test_transcribe import Connection
from tests.fakes import FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

WAV = b"RIFF, some audio"
SOON_S = 0.05
LINES = {"Accept": "application/x-ndjson"}


class SlowBody:
    """Chunks that come `pause_s` apart, by a clock of its own."""

    def __init__(self, chunks: list[bytes], pause_s: float) -> None:
        self.now = 0.0
        self._chunks = chunks
        self._pause_s = pause_s

    def clock(self) -> float:
        return self.now

    async def stream(self) -> AsyncGenerator[bytes, None]:
        for chunk in self._chunks:
            self.now += self._pause_s
            yield chunk


async def read(body: SlowBody) -> bytes:
    pace, stream, received = Pace(60, clock=body.clock), body.stream(), b""
    while (chunk := await pace.next(stream)) is not None:
        received += chunk
    return received


async def test_a_body_that_trickles_is_given_up() -> None:
    body = SlowBody([b"x"] * 1000, pause_s=7)

    with pytest.raises(UploadTimeout, match="9 bytes came within 63 s"):
        await read(body)


async def test_a_body_that_slows_down_is_given_up_a_while_later() -> None:
    body = SlowBody([b"x" * 1_000_000, *[b"x"] * 100], pause_s=7)

    with pytest.raises(UploadTimeout):
        await read(body)
    assert 60 < body.now <= 130


async def test_a_slow_body_with_pauses_is_read_to_its_end() -> None:
    chunks = [b"x" * 70_000, b"", b"y"] * 20
    assert await read(SlowBody(chunks, pause_s=20)) == b"".join(chunks)


async def test_an_upload_that_stops_is_answered_and_the_connection_closed(serve: Serve) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"RIFF"
        await asyncio.Event().wait()

    metrics, decoder = Metrics(), FakeDecoder()
    async with serve(FakeEngine([]), decoder, metrics, upload_timeout_s=SOON_S) as client:
        response = await client.post("/transcribe", content=body())

    assert (response.status_code, response.json()["code"]) == (408, "upload_timeout")
    assert response.headers["connection"] == "close"
    assert decoder.uploads == []
    assert metrics.registry.get_sample_value("asr_queue_requests") == 0


@pytest.mark.parametrize("files", [1, 3])
async def test_work_that_takes_too_long_is_cancelled(serve: Serve, files: int) -> None:
    engine, decoder, metrics = FakeEngine(), FakeDecoder(2, hang=True), Metrics()
    parts = [("file", (f"{number}.wav", WAV)) for number in range(files)]
    async with serve(engine, decoder, metrics, request_timeout_s=SOON_S) as client:
        response = await client.post("/transcribe?language=en", files=parts)

    problems = [response.json()] if files == 1 else response.json()["results"]
    assert [(problem["status"], problem["code"]) for problem in problems] == [(504, "deadline_exceeded")] * files
    assert response.status_code == (504 if files == 1 else 200)
    assert len(engine.calls) == 2 * files
    assert all(call.cancelled for call in engine.calls)
    assert decoder.open == 0
    assert metrics.registry.get_sample_value("asr_queue_requests") == 0


async def test_the_deadline_counts_from_the_end_of_the_upload(serve: Serve) -> None:
    engine = FakeEngine([result("x")])
    arrived = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield WAV
        asyncio.get_running_loop().call_later(2 * SOON_S, arrived.set)
        await arrived.wait()
        yield WAV

    async with serve(engine, request_timeout_s=SOON_S) as client:
        response = await client.post("/transcribe", content=body())

    assert response.status_code == 200


async def test_a_stream_ends_with_the_error_at_the_deadline(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine, FakeDecoder(2), request_timeout_s=SOON_S) as client:
        answer = asyncio.create_task(client.post("/transcribe?language=en", content=WAV, headers=LINES))
        first, second = await engine.next_call(), await engine.next_call()
        first.finish("x")
        response = await answer

    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["type"] for line in lines] == ["segment", "error"]
    assert lines[1]["code"] == "deadline_exceeded"
    assert second.cancelled


async def test_a_client_that_does_not_read_its_stream_does_not_keep_its_place() -> None:
    class Stalled(Connection):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

    engine, metrics = FakeEngine([result("x"), result("y")]), Metrics()
    app = build(engine, FakeDecoder(2), metrics, request_timeout_s=SOON_S)
    connection = Stalled([WAV], LINES)
    async with app.router.lifespan_context(app):
        await app(connection.scope, connection.receive, connection.send)

    assert [message["type"] for message in connection.sent] == ["http.response.start", "http.response.body"]
    assert metrics.registry.get_sample_value("asr_queue_requests") == 0
    labels = {"route": "/transcribe", "method": "POST", "status": "499", "code": "client_gone"}
    assert metrics.registry.get_sample_value("asr_requests_total", labels) == 1


async def test_items_pass_until_the_deadline_and_their_source_is_closed() -> None:
    ended: list[str] = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
            await asyncio.Event().wait()
        finally:
            ended.append("closed")

    seen: list[int] = []

    async def consume() -> None:
        async for item in Deadline(SOON_S).items(source()):
            seen.append(item)  # noqa: PERF401 - what came before the error is to be kept

    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
        await consume()
    assert (seen, ended) == ([1, 2], ["closed"])


async def test_a_timeout_of_the_work_itself_is_not_taken_for_the_deadline() -> None:
    with pytest.raises(TimeoutError, match="mine"):
        async with Deadline(60).enforced():
            raise TimeoutError("mine")
