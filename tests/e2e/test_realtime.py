"""Live transcription by the real service: OpenAI's own client, through nginx, and what dies or misbehaves meanwhile."""

import asyncio
import base64
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import jiwer
import numpy as np
import psutil
import pytest
import soxr
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr_service.evaluation.normalise import scale
from tests.e2e.conftest import OUTSIDE
from tests.e2e.proxy import Certificates, free_port, needs_nginx, proxy
from tests.e2e.service import Service, serve
from tests.recordings import load_pcm, packaged_clips

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(600)]

CLIP = next(path for path in packaged_clips() if path.stem == "quick_brown_fox")
REFERENCE = CLIP.with_suffix(".txt").read_text(encoding="utf-8").strip()
PCM = load_pcm(CLIP)
OTHER = next(path for path in packaged_clips() if path.stem == "counting")
PAUSE = np.zeros(16_000, np.int16)
PREFIX = "conversation.item.input_audio_transcription"
PIECE_S = 0.1


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve(ASR_REALTIME__MAX_SESSIONS="250", ASR_REALTIME__IDLE_TIMEOUT_S="20") as running:
        running.wait_for("ready")
        yield running


def error_rate(text: str, reference: str = REFERENCE) -> float:
    normalise = scale("en").normalise
    return float(jiwer.wer(normalise(reference), normalise(text)))


@asynccontextmanager
async def session(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A session that takes 16 kHz PCM in English."""
    address = url.replace("http", "ws", 1) + "/v1/realtime"
    async with connect(address, proxy=None, **options) as socket:
        await until(socket, "session.created")
        wished = {"format": {"type": "audio/pcm", "rate": 16_000}, "transcription": {"language": "en"}}
        await socket.send(json.dumps({"type": "session.update", "session": {"audio": {"input": wished}}}))
        await until(socket, "session.updated")
        yield socket


async def until(socket: ClientConnection, kind: str) -> dict[str, Any]:
    while (event := json.loads(await socket.recv()))["type"] != kind:
        assert event["type"] != "error", event
    found: dict[str, Any] = event
    return found


async def say(socket: ClientConnection, samples: np.ndarray[Any, np.dtype[np.int16]]) -> None:
    """Send samples at their own pace."""
    piece = round(PIECE_S * 16_000)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for number, start in enumerate(range(0, len(samples), piece)):
        await asyncio.sleep(max(0.0, began_s + number * PIECE_S - loop.time()))  # noqa: TID251 - the pace of speech
        await socket.send(samples[start : start + piece].tobytes())


async def test_openais_own_client_in_transcription_mode(service: Service) -> None:
    client = AsyncOpenAI(api_key="none", base_url=f"{service.url}/v1")
    # Two sentences, without a pause that would end the utterance.
    samples = soxr.resample(np.concatenate([PAUSE, PCM, load_pcm(OTHER), PAUSE, PAUSE]), 16_000, 24_000)
    deltas: list[str] = []
    said_before_the_end = 0
    async with client.realtime.connect(model="whisper-1", extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24_000},
                        "transcription": {"model": "whisper-1", "language": "en"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 1200},
                    }
                },
            }
        )

        async def speak() -> None:
            nonlocal said_before_the_end
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            for number, start in enumerate(range(0, len(samples), 2400)):
                await asyncio.sleep(max(0.0, began_s + number * PIECE_S - loop.time()))  # noqa: TID251 - the pace
                audio = base64.b64encode(samples[start : start + 2400].tobytes()).decode()
                await connection.input_audio_buffer.append(audio=audio)
                if start < len(samples) - 2 * 24_000:
                    said_before_the_end = len(deltas)

        speaking = asyncio.create_task(speak())
        kinds = []
        async for event in connection:
            kinds.append(event.type)
            if event.type == "conversation.item.input_audio_transcription.delta":
                deltas.append(event.delta or "")
            if event.type == "conversation.item.input_audio_transcription.completed":
                transcript = event.transcript
                break
        await speaking
    assert kinds[:2] == ["session.created", "session.updated"]
    assert "input_audio_buffer.speech_started" in kinds
    assert "input_audio_buffer.committed" in kinds
    assert transcript == "".join(deltas)
    # Digits or words, as the model likes: the first sentence tells.
    assert error_rate(transcript.partition(".")[0]) <= 0.15
    assert re.search(r"(nine|9)\W+(ten|10)", transcript.lower())
    assert said_before_the_end >= 1, "text comes while somebody speaks"


async def test_a_recording_faster_than_it_was_spoken(service: Service) -> None:
    async with session(service.url) as socket:
        for _ in range(5):
            await socket.send(np.concatenate([PAUSE, PCM]).tobytes())
        await socket.send(PAUSE.tobytes())
        texts = [(await until(socket, f"{PREFIX}.completed"))["transcript"] for _ in range(5)]
    assert max(map(error_rate, texts)) <= 0.15


@pytest.mark.parametrize("victim", ["listener_process", "engine.process"])
async def test_a_part_that_is_killed_while_somebody_speaks_costs_no_word(service: Service, victim: str) -> None:
    async with session(service.url) as socket:
        half = len(PCM) // 2
        await say(socket, np.concatenate([PAUSE, PCM[:half]]))
        for child in psutil.Process(service.process.pid).children():
            if any(victim in argument for argument in child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
        await say(socket, np.concatenate([PCM[half:], PAUSE]))
        completed = await until(socket, f"{PREFIX}.completed")
    assert error_rate(completed["transcript"]) <= 0.15


def api_memory(service: Service) -> float:
    """Of the API process, in MB."""
    return float(psutil.Process(service.process.pid).memory_info().rss / 1e6)


def listener_memory(service: Service) -> float:
    children = psutil.Process(service.process.pid).children()
    return sum(c.memory_info().rss / 1e6 for c in children if any("listener_process" in a for a in c.cmdline()))


async def _silent(socket: ClientConnection, number: int) -> None:
    """Connects, and says nothing."""


async def _garbage(socket: ClientConnection, number: int) -> None:
    for text in ("{", "[]", '{"type": "x"}', "\x00" * 1000, '{"type": "session.update", "session": {"audio": 7}}'):
        await socket.send(text)


async def _text_as_audio(socket: ClientConnection, number: int) -> None:
    await socket.send((f"{REFERENCE} " * 2000)[: 2 * 30_000].encode())
    await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": REFERENCE}))


async def _dropped(socket: ClientConnection, number: int) -> None:
    await socket.send(np.concatenate([PCM, PAUSE]).tobytes())
    socket.transport.abort()


@pytest.mark.parametrize("rounds", [24, pytest.param(40, marks=pytest.mark.slow)])
async def test_two_hundred_sockets_that_misbehave_leave_nothing_behind(service: Service, rounds: int) -> None:
    """What allocators keep settles in the first rounds; after them nothing may grow."""
    async with session(service.url) as socket:
        await socket.send(np.concatenate([PCM, PAUSE]).tobytes())
        await until(socket, f"{PREFIX}.completed")

    async def misbehave(number: int) -> None:
        how = (_silent, _garbage, _text_as_audio, _dropped)[number % 4]
        try:
            async with connect(service.url.replace("http", "ws", 1) + "/v1/realtime", proxy=None) as socket:
                await socket.recv()
                await how(socket, number)
                open_now.append(number)
                if len(open_now) == 200:
                    all_open.set()
                await all_open.wait()
        except ConnectionClosed:
            return

    memories: list[tuple[float, float]] = []
    for _ in range(rounds):
        open_now: list[int] = []
        all_open = asyncio.Event()
        await asyncio.gather(*(misbehave(number) for number in range(200)))
        async with asyncio.timeout(60):
            while service.metric("asr_live_sessions"):  # noqa: ASYNC110 - see below
                await asyncio.sleep(0.1)  # noqa: TID251 - a metric cannot be waited for
        async with session(service.url) as socket:
            await socket.send(np.concatenate([PCM, PAUSE]).tobytes())
            completed = await until(socket, f"{PREFIX}.completed")
            assert error_rate(completed["transcript"]) <= 0.15
        memories.append((api_memory(service), listener_memory(service)))
    third = rounds // 3
    for name, megabytes in zip(("API", "listener"), zip(*memories, strict=True), strict=True):
        assert min(megabytes[-third:]) <= 1.05 * max(megabytes[:third]), (name, megabytes)


@needs_nginx
async def test_through_nginx_and_back_after_the_service_was_restarted(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    command = ("asr_service", "serve", "--port", str(port))
    settings = {"ASR_TRUSTED_PROXIES": "127.0.0.1"}
    folder = tmp_path_factory.mktemp("live") / "nginx"
    with proxy(folder, certificates, [f"127.0.0.1:{port}"]) as front:
        trusted = {"ssl": certificates.trusted(), "local_addr": (OUTSIDE, 0)}
        with serve(command, **settings) as service:
            service.wait_for("ready")
            async with session(front.url, **trusted) as socket:
                await socket.send(np.concatenate([PCM, PAUSE]).tobytes())
                completed = await until(socket, f"{PREFIX}.completed")
                assert error_rate(completed["transcript"]) <= 0.15
                await socket.send(PCM[: len(PCM) // 2].tobytes())
                await until(socket, "input_audio_buffer.speech_started")
                service.process.send_signal(signal.SIGTERM)
                events = [json.loads(message) async for message in _all(socket)]
            assert events[-1]["error"]["code"] == "shutting_down"
            assert any(event["type"] == f"{PREFIX}.completed" for event in events), "what was said became text"
            assert socket.close_code == 1012
            assert await asyncio.to_thread(service.process.wait, 60) == 0
        with pytest.raises(InvalidStatus) as refused:
            async with session(front.url, **trusted):
                raise AssertionError("nobody is there")
        assert refused.value.response.status_code == 502
        with serve(command, **settings) as service:
            service.wait_for("ready")
            async with session(front.url, **trusted) as socket:
                await socket.send(np.concatenate([PCM, PAUSE]).tobytes())
                completed = await until(socket, f"{PREFIX}.completed")
            assert error_rate(completed["transcript"]) <= 0.15
            line = service.wait_for("request")
            assert (line["method"], line["caller"]) == ("WEBSOCKET", f"address:{OUTSIDE}")


async def _all(socket: ClientConnection) -> AsyncIterator[str | bytes]:
    """All messages until the connection is closed, however that is."""
    while True:
        try:
            yield await socket.recv()
        except ConnectionClosed:
            return


@pytest.mark.slow
@pytest.mark.timeout(2400)
@needs_nginx
@pytest.mark.parametrize("minutes", [30])
async def test_half_an_hour_through_nginx(
    service: Service, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory, minutes: int
) -> None:
    """A sentence at the beginning, one a minute, and one at the end; silence for minutes in between."""
    folder = tmp_path_factory.mktemp("long") / "nginx"
    with proxy(folder, certificates, [service.url.removeprefix("http://")]) as front:
        async with session(front.url, ssl=certificates.trusted()) as socket:
            texts: list[str] = []
            memories = []
            for _ in range(minutes):
                await say(socket, np.concatenate([PCM, PAUSE]))
                texts.append((await until(socket, f"{PREFIX}.completed"))["transcript"])
                memories.append(api_memory(service))
                quiet_s = 60 - len(PCM) / 16_000 - 1
                await say(socket, np.zeros(int(quiet_s * 16_000), np.int16))
    assert len(texts) == minutes
    assert max(map(error_rate, texts)) <= 0.15
    assert memories[-1] <= 1.05 * memories[minutes // 6]
