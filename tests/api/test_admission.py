"""Requests at the door: a full queue, clients that vanish, and the end of the service."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message

from asr_service.observability.metrics import Metrics
from tests.api.conftest import Serve, build
from tests.api.test_transcribe import Connection
from tests.fakes import FakeDecoder, FakeEngine, result, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

WAV = b"RIFF, some audio"
LINES = {"Accept": "application/x-ndjson"}


@pytest.fixture
async def metrics() -> AsyncIterator[Metrics]:
    metrics = Metrics()
    yield metrics
    assert in_queue(metrics) == (0, 0)
    assert metrics.registry.get_sample_value("asr_requests_in_flight") == 0


def in_queue(metrics: Metrics) -> tuple[float | None, float | None]:
    sample = metrics.registry.get_sample_value
    return sample("asr_queue_requests"), sample("asr_queue_audio_seconds")


def refusals(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("asr_refusals_total", {"reason": reason})


def send(client: httpx.AsyncClient) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(client.post("/transcribe?language=en", content=WAV))


async def test_of_64_clients_a_queue_of_32_serves_32_and_tells_the_others_when_to_come_back(
    serve: Serve, metrics: Metrics
) -> None:
    engine = FakeEngine()
    async with serve(engine, metrics=metrics, max_queue=32) as client:
        waiting = {send(client) for _ in range(64)}
        calls = [await engine.next_call() for _ in range(32)]
        refused: list[httpx.Response] = []
        while len(refused) < 32:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused += [task.result() for task in done]
        assert in_queue(metrics) == (32, 32.0)
        for call in calls:
            call.finish("Served.")
        served = await asyncio.gather(*waiting)

        for response in refused:
            assert (response.status_code, response.json()["code"]) == (503, "overloaded")
            assert 1 <= int(response.headers["retry-after"]) <= 300
        assert [response.json()["text"] for response in served] == ["Served."] * 32
        assert refusals(metrics, "requests") == 32

        again = [send(client) for _ in refused]
        for _ in refused:
            (await engine.next_call()).finish("Served too.")
        assert [response.json()["text"] for response in await asyncio.gather(*again)] == ["Served too."] * 32


async def test_a_full_queue_is_known_before_the_upload_is_read(serve: Serve, metrics: Metrics) -> None:
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield WAV

    engine = FakeEngine()
    async with serve(engine, metrics=metrics, max_queue=1) as client:
        first = send(client)
        call = await engine.next_call()
        second = await client.post("/transcribe", content=body())
        call.finish("x")
        await first

    assert second.json()["code"] == "overloaded"
    assert read == []


async def test_too_much_audio_is_refused_when_it_is_decoded(serve: Serve, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serve(engine, FakeDecoder(3), metrics=metrics, max_queue_audio_s=5) as client:
        first = send(client)
        calls = [await engine.next_call() for _ in range(3)]
        await settle()
        assert in_queue(metrics) == (1, 3.0)
        second = await send(client)
        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        assert in_queue(metrics) == (1, 3.0)
        assert len(engine.running) == 3
        for call in calls:
            call.finish("x")
        assert (await first).status_code == 200

    assert refusals(metrics, "audio") == 1


async def test_audio_that_is_transcribed_makes_room_while_its_request_goes_on(serve: Serve, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serve(engine, FakeDecoder(3), metrics=metrics) as client:
        first = send(client)
        calls = [await engine.next_call() for _ in range(3)]
        calls[0].finish("x")
        calls[1].finish("x")
        await settle()
        requests, audio_s = in_queue(metrics)
        calls[2].finish("x")
        await first

    assert requests == 1
    # The second segment ends 1.9 s into the recording.
    assert audio_s == pytest.approx(3 - 1.9)


@pytest.mark.parametrize("headers", [{}, LINES])
async def test_100_clients_that_vanish_leave_nothing(metrics: Metrics, headers: dict[str, str]) -> None:
    engine, decoder = FakeEngine(), FakeDecoder(2)
    app = build(engine, decoder, metrics)
    connections = [Connection([WAV], headers) for _ in range(100)]
    async with app.router.lifespan_context(app):
        answers = [asyncio.create_task(app(c.scope, c.receive, c.send)) for c in connections]
        calls = [await engine.next_call() for _ in range(200)]
        await settle()
        assert in_queue(metrics) == (100, 200.0)
        for connection in connections:
            connection.leave()
        await settle()
        # No timer and no further event: one turn of the loop after the other, and all is gone.
        assert all(call.cancelled for call in calls)
        assert in_queue(metrics) == (0, 0)
        await asyncio.gather(*answers)

    assert decoder.open == 0
    assert all(connection.sent == [] for connection in connections)
    labels = {"route": "/transcribe", "method": "POST", "status": "499", "code": "client_gone"}
    assert metrics.registry.get_sample_value("asr_requests_total", labels) == 100


async def test_a_client_that_leaves_in_the_middle_of_its_stream_ends_the_work(metrics: Metrics) -> None:
    engine = FakeEngine()
    app = build(engine, FakeDecoder(3), metrics)
    connection = Connection([WAV], LINES)
    async with app.router.lifespan_context(app):
        answer = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
        calls = [await engine.next_call()]
        calls[0].finish("x")
        calls += [await engine.next_call() for _ in range(2)]
        await settle()
        assert json.loads(connection.sent[1]["body"])["text"] == "x"
        connection.leave()
        await settle()
        assert [call.cancelled for call in calls] == [False, True, True]
        await answer


async def test_at_the_end_of_the_service_nobody_comes_in_and_those_inside_finish(metrics: Metrics) -> None:
    engine = FakeEngine()
    app = build(engine, FakeDecoder(), metrics)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://asr") as client,
    ):
        inside = send(client)
        call = await engine.next_call()
        assert "connection" not in (await client.get("/readyz")).headers
        app.state.parts.admission.close()

        late = await send(client)
        assert (late.status_code, late.json()["code"]) == (503, "shutting_down")
        assert (late.headers["retry-after"], late.headers["connection"]) == ("5", "close")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "the service is shutting down")
        assert ready.headers["connection"] == "close"
        assert metrics.registry.get_sample_value("asr_ready") == 0
        assert (await client.get("/livez")).status_code == 200

        call.finish("Still served.")
        response = await inside
        assert (response.status_code, response.json()["text"]) == (200, "Still served.")
        assert response.headers["connection"] == "close"
        await app.state.parts.admission.emptied()

    assert refusals(metrics, "shutting_down") == 1


async def test_what_the_end_of_the_service_cancels_is_told_so(metrics: Metrics) -> None:
    engine = FakeEngine()
    app = build(engine, FakeDecoder(), metrics)
    connection = Connection([WAV])
    async with app.router.lifespan_context(app):
        answer = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
        call = await engine.next_call()
        app.state.parts.admission.close()
        answer.cancel()
        await answer

    assert call.cancelled
    start, body = connection.sent
    assert start["status"] == 503
    assert (b"connection", b"close") in start["headers"]
    assert (b"retry-after", b"5") in start["headers"]
    assert json.loads(body["body"])["code"] == "shutting_down"


async def test_a_stream_that_the_end_of_the_service_cancels_breaks_off(metrics: Metrics) -> None:
    engine = FakeEngine()
    app = build(engine, FakeDecoder(2), metrics)
    connection = Connection([WAV], LINES)
    async with app.router.lifespan_context(app):
        answer = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
        calls = [await engine.next_call(), await engine.next_call()]
        calls[0].finish("x")
        await settle()
        app.state.parts.admission.close()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer

    assert calls[1].cancelled
    assert statuses(connection.sent) == [200]


def statuses(messages: list[Message]) -> list[int]:
    return [message["status"] for message in messages if message["type"] == "http.response.start"]


async def test_the_same_door_is_in_front_of_every_route(serve: Serve, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serve(engine, metrics=metrics, max_queue=1) as client:
        first = send(client)
        call = await engine.next_call()
        second = await client.post("/v1/audio/transcriptions", files={"file": WAV}, data={"model": "whisper-1"})
        call.finish("x")
        await first

    assert (second.status_code, second.json()["error"]["code"]) == (503, "overloaded")
    assert 1 <= int(second.headers["retry-after"]) <= 300


async def test_other_errors_give_their_places_back(serve: Serve, metrics: Metrics) -> None:
    async with serve(FakeEngine([result("x")]), metrics=metrics, max_queue=1) as client:
        for body, status in ((b"", 400), (b"x" * 2_000_000, 413), (WAV, 200)):
            assert (await client.post("/transcribe", content=body)).status_code == status
