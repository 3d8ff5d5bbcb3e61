"""The real service when its clients vanish, and when it is told to end while it works."""

import asyncio
import io
import json
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import soundfile

from tests.e2e.service import Service, serve
from tests.recordings import load_pcm, packaged_clips

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(300)]

LINES = {"Accept": "application/x-ndjson"}


def speech(seconds: float) -> bytes:
    """A recording of so many seconds."""
    clips = [load_pcm(path) for path in packaged_clips() if path.parent.name == "en"]
    joined = np.concatenate([np.concatenate([clip, np.zeros(8000, np.int16)]) for clip in clips])
    tiled = np.tile(joined, int(np.ceil(seconds * 16_000 / len(joined))))[: int(seconds * 16_000)]
    file = io.BytesIO()
    soundfile.write(file, tiled, 16_000, format="FLAC")
    return file.getvalue()


@pytest.fixture(scope="module")
def long_recording() -> bytes:
    """A minute and a half of speech, which keeps the service busy for a while."""
    return speech(90)


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=service.url, timeout=200)


async def metric(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@pytest.fixture
def service() -> Iterator[Service]:
    # Window by window, so that a first segment is far from the end.
    with serve(ASR_WINDOWS_IN_FLIGHT="1", ASR_SHUTDOWN_GRACE_S="200") as running:
        running.wait_for("ready")
        yield running


async def test_a_service_that_is_told_to_end_finishes_what_it_has_begun(
    service: Service, long_recording: bytes
) -> None:
    async with client_of(service) as client, client_of(service) as other:
        whole = asyncio.create_task(client.post("/transcribe?language=en", content=long_recording))
        async with client.stream("POST", "/transcribe?language=en", content=long_recording, headers=LINES) as stream:
            lines = stream.aiter_lines()
            first = json.loads(await anext(lines))
            assert first["type"] == "segment"
            assert (await other.get("/readyz")).status_code == 200

            service.process.terminate()
            await asyncio.to_thread(service.wait_for, "shutting down")
            ready = await other.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (503, "the service is shutting down")
            assert ready.headers["connection"] == "close"
            late = await other.post("/transcribe", content=b"RIFF")
            assert (late.status_code, late.json()["code"]) == (503, "shutting_down")
            assert int(late.headers["retry-after"]) > 0

            rest = [json.loads(line) async for line in lines]
        response = await whole
    assert rest[-1]["type"] == "transcript"
    assert rest[-1]["duration_s"] >= 90
    assert response.status_code == 200, response.text
    assert response.headers["connection"] == "close"
    assert response.json()["text"] == rest[-1]["text"]
    assert await asyncio.to_thread(service.process.wait, 20) == 0


async def test_what_takes_longer_than_the_grace_time_is_told_so(long_recording: bytes) -> None:
    with serve(ASR_SHUTDOWN_GRACE_S="3", ASR_WINDOWS_IN_FLIGHT="1") as service:
        await asyncio.to_thread(service.wait_for, "ready")
        async with client_of(service) as client:
            work = [asyncio.create_task(client.post("/transcribe", content=long_recording)) for _ in range(3)]
            async with client.stream("POST", "/transcribe", content=long_recording, headers=LINES) as stream:
                await anext(stream.aiter_lines())
                service.process.terminate()
                told = time.monotonic()
                answers = await asyncio.gather(*work)
        assert await asyncio.to_thread(service.process.wait, 20) == 0
        # Far less than the work would take, even on a busy machine.
        assert time.monotonic() - told < 20
    assert {answer.json().get("code") for answer in answers} == {"shutting_down"}
    assert {answer.status_code for answer in answers} == {503}


_LOOK_S = 0.05


async def vanish(service: Service, recording: bytes, count: int = 100) -> tuple[float, float]:
    """Let so many clients leave in the middle of their requests: seconds until the service has let go of all of them,
    and until the engine has.
    """
    port = httpx.URL(service.url).port
    head = (
        "POST /transcribe?language=en HTTP/1.1\r\nHost: asr\r\nContent-Type: audio/flac\r\n"
        f"Content-Length: {len(recording)}\r\n\r\n"
    )
    async with client_of(service) as client:
        writers = []
        for number in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            # Every fourth is still uploading when it leaves.
            body = recording if number % 4 else recording[:10_000]
            writer.write(head.encode() + body)
            await writer.drain()
        while await metric(client, "asr_queue_requests") < 0.9 * count or not await metric(
            client, "asr_engine_running"
        ):
            continue

        for writer in writers:
            writer.transport.abort()
        left = time.monotonic()
        while any([await metric(client, name) for name in ("asr_queue_requests", "asr_queue_audio_seconds")]):
            assert time.monotonic() - left < 10
            await asyncio.sleep(_LOOK_S)  # noqa: TID251 - asking all the time would take a core from the engine
        released_s = time.monotonic() - left
        # The engine is in the middle of a step, which ends first; what a busy machine makes of its threads is slow.
        while any([await metric(client, name) for name in ("asr_engine_running", "asr_engine_waiting")]):
            assert time.monotonic() - left < 60
            await asyncio.sleep(_LOOK_S)  # noqa: TID251 - as above
        return released_s, time.monotonic() - left


async def test_100_clients_that_disconnect_leave_the_service_empty(service: Service) -> None:
    recording = speech(12)
    await vanish(service, recording)
    async with client_of(service) as client:
        answer = await client.post("/transcribe?language=en", content=recording)
        assert answer.status_code == 200
        # Their requests ended one by one, each as one whose client has gone.
        gone = 'asr_requests_total{code="client_gone",method="POST",route="/transcribe",status="499"} '
        (count,) = (line for line in (await client.get("/metrics")).text.splitlines() if line.startswith(gone))
        assert float(count.removeprefix(gone)) >= 90


@pytest.mark.slow
async def test_100_clients_that_disconnect_are_let_go_of_at_once(service: Service) -> None:
    """On a quiet machine. The engine first ends its step, which encodes two of these windows while the machine is full
    of what else the clients wanted: that takes a second.
    """
    recording = speech(12)
    times = [await vanish(service, recording) for _ in range(3)]
    assert min(released_s for released_s, _ in times) <= 1.0, times
    assert min(empty_s for _, empty_s in times) <= 2.0, times
