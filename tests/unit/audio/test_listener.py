"""The listening process: real speech through it, and what its death costs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asr_service.audio.listener import Listener, Stream
from asr_service.audio.listener_messages import Ended, StreamSettings
from asr_service.errors import Unavailable
from tests.fakes import nothing_left_behind
from tests.recordings import load_pcm, packaged_clips

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
ENV = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": os.environ["PATH"]}
SETTINGS = StreamSettings(rate_hz=16_000)
CLIP = load_pcm(next(path for path in packaged_clips() if path.stem == "quick_brown_fox")).tobytes()
SILENCE = bytes(32_000)
PIECE = 3200


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with nothing_left_behind():
        listening = Listener(ENV)
        yield listening
        await listening.aclose()


async def hear(stream: Stream, data: bytes) -> list[tuple[Ended, bytes]]:
    """What ends in these pieces, with the audio of each."""
    found: list[tuple[Ended, bytes]] = []
    for start in range(0, len(data), PIECE):
        heard = await stream.hear(data[start : start + PIECE])
        found += [(e, stream.pcm(e.window.start_sample, e.window.end_sample)) for e in heard.ended]
    return found


async def test_streams_do_not_mix(listener: Listener) -> None:
    one, other = listener.stream(SETTINGS), listener.stream(SETTINGS)
    assert await hear(other, SILENCE) == []
    ((ended, pcm),) = await hear(one, SILENCE + CLIP + SILENCE)
    assert await hear(other, SILENCE) == []
    assert pcm == (SILENCE + CLIP + SILENCE)[2 * ended.window.start_sample : 2 * ended.window.end_sample]
    assert not ended.goes_on
    assert other.total_samples == len(SILENCE)
    one.close()
    other.close()


async def test_audio_is_forgotten_when_no_window_needs_it(listener: Listener) -> None:
    stream = listener.stream(SETTINGS)
    await hear(stream, SILENCE * 20)
    assert len(stream._pcm) < 2 * len(SILENCE)
    stream.close()


async def test_a_death_in_the_middle_of_an_utterance_costs_nothing(listener: Listener) -> None:
    whole, broken = listener.stream(SETTINGS), listener.stream(SETTINGS)
    ((expected, _),) = await hear(whole, SILENCE + CLIP + SILENCE)
    half = PIECE * (len(SILENCE + CLIP) // PIECE // 2)
    data = SILENCE + CLIP + SILENCE
    assert await hear(broken, data[:half]) == []
    first = listener.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    ((ended, pcm),) = await hear(broken, data[half:])
    assert listener.pid != first
    assert ended.window.start_sample == pytest.approx(expected.window.start_sample, abs=3200)
    assert ended.window.end_sample == pytest.approx(expected.window.end_sample, abs=3200)
    assert pcm == data[2 * ended.window.start_sample : 2 * ended.window.end_sample]
    for stream in (whole, broken):
        stream.close()


async def test_a_window_that_had_ended_does_not_end_again_after_a_death(listener: Listener) -> None:
    stream = listener.stream(SETTINGS)
    assert len(await hear(stream, SILENCE + CLIP + SILENCE)) == 1
    assert listener.pid is not None
    os.kill(listener.pid, signal.SIGKILL)
    assert await hear(stream, SILENCE) == []
    assert (await stream.finish()).ended == []
    stream.close()


async def test_a_stream_can_begin_afresh_with_other_settings(listener: Listener) -> None:
    stream = listener.stream(SETTINGS)
    await hear(stream, CLIP)
    stream.restart(StreamSettings(rate_hz=16_000, silence_s=None))
    assert (await stream.finish()).ended == []
    await hear(stream, CLIP + SILENCE)
    ((ended),) = (await stream.finish()).ended
    assert ended.window.start_sample >= len(CLIP) // 2
    stream.close()


async def test_audio_that_kills_the_process_again_and_again_is_given_up() -> None:
    async with nothing_left_behind():
        restarts: list[None] = []
        listening = Listener(
            ENV, module="tests.unit.audio.puppet_listener", on_restart=lambda: restarts.append(None), backoff_s=(0.0,)
        )
        stream, other = listening.stream(SETTINGS), listening.stream(SETTINGS)
        with pytest.raises(Unavailable):
            await stream.hear(b"die!")
        assert len(restarts) == 3
        assert (await other.hear(b"ok")).pcm == b"ok"
        await listening.aclose()


async def test_what_is_not_answered_at_the_end_is_refused() -> None:
    async with nothing_left_behind():
        listening = Listener(ENV)
        stream = listening.stream(SETTINGS)
        asking = asyncio.create_task(stream.hear(SILENCE))
        await asyncio.sleep(0)  # noqa: TID251 - gives way to the task, takes no time
        await listening.aclose()
        with pytest.raises(Unavailable):
            await asking
        with pytest.raises(Unavailable):
            listening.stream(SETTINGS)
