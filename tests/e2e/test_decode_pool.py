"""The decode pool with its real workers: real files in, windows and PCM out, within the limits of the sandbox."""

import asyncio
import io
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

import asr_service
from asr_service.audio.pool import AudioLimits, DecodePool
from asr_service.domain import SAMPLE_RATE_HZ, AudioSummary, Window
from asr_service.errors import AsrError, AudioTooLong, UnreadableAudio
from tests.recordings import load_pcm, packaged_clips
from tests.unit.audio import sounds
from tests.unit.audio.sounds import Encoding, Samples

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

ENV = {"PYTHONPATH": str(Path(asr_service.__file__).parents[1])}


@dataclass
class Outcome:
    windows: list[Window] = field(default_factory=list)
    summary: AudioSummary | None = None
    pcm: Samples = field(default_factory=lambda: np.zeros(0, np.int16))


async def transcribable(pool: DecodePool, data: bytes) -> Outcome:
    """Run one file through the pool; each window's PCM is read when the window arrives, as the service does."""
    audio, pcm = os.memfd_create("audio"), os.memfd_create("pcm")
    outcome = Outcome()
    try:
        os.pwrite(audio, data, 0)
        async for answer in pool.windows(audio, pcm, len(data)):
            if isinstance(answer, AudioSummary):
                outcome.summary = answer
                continue
            size = (answer.end_sample - answer.start_sample) * 2
            assert len(os.pread(pcm, size, answer.start_sample * 2)) == size
            outcome.windows.append(answer)
        outcome.pcm = np.frombuffer(os.pread(pcm, os.fstat(pcm).st_size, 0), np.int16)
    finally:
        os.close(audio)
        os.close(pcm)
    return outcome


async def drained(answers: AsyncIterator[Window | AudioSummary]) -> list[Window | AudioSummary]:
    return [answer async for answer in answers]


@asynccontextmanager
async def pool_of(workers: int, limits: AudioLimits | None = None) -> AsyncIterator[tuple[DecodePool, list[str]]]:
    restarts: list[str] = []
    pool = DecodePool(workers, limits or AudioLimits(), ENV, on_restart=restarts.append)
    await pool.start()
    try:
        yield pool, restarts
    finally:
        await pool.aclose()


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "asr_service.audio.worker" in child.cmdline()]


def clip() -> Samples:
    return load_pcm(packaged_clips()[0])


async def test_files_of_all_kinds_at_once() -> None:
    encodings = [
        Encoding("wav", "pcm_s16le"),
        Encoding("mp3", "libmp3lame", 44_100, "stereo"),
        Encoding("flac", "flac"),
        Encoding("ogg", "libopus", 48_000),
        Encoding("ipod", "aac", 44_100),
        Encoding("webm", "libopus", 48_000),
        Encoding("amr", "libopencore_amrnb", 8_000),
    ]
    files = [sounds.encode(encoding, clip()) for encoding in encodings]
    async with pool_of(2) as (pool, restarts):
        outcomes = await asyncio.gather(*(transcribable(pool, data) for data in files))
        for outcome in outcomes:
            assert len(outcome.windows) == 1
            assert outcome.summary is not None
            assert outcome.summary.duration_s == pytest.approx(len(clip()) / SAMPLE_RATE_HZ, abs=0.15)
            assert len(outcome.pcm) == round(outcome.summary.duration_s * SAMPLE_RATE_HZ)
        assert np.array_equal(outcomes[0].pcm, clip())
        assert restarts == []


async def test_bad_files_cost_nobody_else_anything() -> None:
    good = sounds.wav(clip())
    bad = [b"", b"no audio", good[:44], sounds.wav(clip(), rate_hz=1), np.random.default_rng(0).bytes(50_000)]
    async with pool_of(2) as (pool, restarts):
        before = {worker.pid for worker in workers()}
        results = await asyncio.gather(
            *(transcribable(pool, data) for data in [*bad, good] * 8), return_exceptions=True
        )
        assert [isinstance(result, AsrError) for result in results] == ([True] * len(bad) + [False]) * 8
        assert {worker.pid for worker in workers()} == before
        assert restarts == []


async def test_mutated_files_are_answered() -> None:
    rng = np.random.default_rng(0)
    encodings = [
        Encoding("wav", "pcm_s16le"),
        Encoding("mp3", "libmp3lame"),
        Encoding("flac", "flac"),
        Encoding("ogg", "libopus", 48_000),
        Encoding("ipod", "aac"),
        Encoding("webm", "libopus", 48_000),
    ]
    seeds = [sounds.encode(encoding, clip()[: 2 * SAMPLE_RATE_HZ]) for encoding in encodings]

    def mutated() -> bytes:
        data = bytearray(seeds[rng.integers(len(seeds))])
        reach = len(data) if rng.random() < 0.5 else 200
        for _ in range(int(rng.integers(1, 30))):
            data[rng.integers(min(reach, len(data)))] = rng.integers(256)
        return bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)

    async with pool_of(2) as (pool, _):
        results = await asyncio.gather(*(transcribable(pool, mutated()) for _ in range(200)), return_exceptions=True)
        assert all(isinstance(result, Outcome | AsrError) for result in results)
        assert len((await transcribable(pool, sounds.wav(clip()))).windows) == 1


async def test_killed_at_work_and_killed_idle() -> None:
    long_file = sounds.encode(Encoding("flac", "flac"), np.tile(clip(), 100))
    async with pool_of(1) as (pool, restarts):
        audio, pcm = os.memfd_create("audio"), os.memfd_create("pcm")
        os.pwrite(audio, long_file, 0)
        answers = pool.windows(audio, pcm, len(long_file))
        await anext(answers)
        workers()[0].send_signal(signal.SIGKILL)
        with pytest.raises(UnreadableAudio, match="broke the decoder"):
            await drained(answers)
        os.close(audio)
        os.close(pcm)
        assert len((await transcribable(pool, sounds.wav(clip()))).windows) == 1
        assert restarts == ["killed"]


async def test_too_much_memory_is_an_answer_not_a_death() -> None:
    async with pool_of(1, AudioLimits(max_memory_bytes=1024 * 1024)) as (pool, restarts):
        tracks = np.zeros((8, 8 * SAMPLE_RATE_HZ * 3), np.int16)
        with pytest.raises(UnreadableAudio, match="memory"):
            await transcribable(pool, sounds.encode(Encoding("wav", "pcm_s16le", 48_000, "7.1"), tracks))
        assert restarts == []


async def test_too_much_computing_ends_one_recording() -> None:
    async with pool_of(1, AudioLimits(cpu_s_base=0.5, cpu_s_per_audio_s=0)) as (pool, restarts):
        with pytest.raises(UnreadableAudio, match="computing time"):
            await transcribable(pool, sounds.wav(np.tile(clip(), 800)))
        assert len((await transcribable(pool, sounds.wav(clip()))).windows) == 1
        assert restarts == ["cpu_time"]


async def test_too_long_is_refused_before_the_disk_is_full() -> None:
    async with pool_of(1, AudioLimits(max_audio_s=20)) as (pool, restarts):
        with pytest.raises(AudioTooLong):
            await transcribable(pool, sounds.encode(Encoding("adts", "aac"), np.zeros(100 * SAMPLE_RATE_HZ, np.int16)))
        assert restarts == []


def proc(worker: psutil.Process, name: str) -> str:
    return Path(f"/proc/{worker.pid}/{name}").read_text()


async def test_workers_run_in_their_sandbox() -> None:
    async with pool_of(1):
        (worker,) = workers()
        limits = {line[:26].strip(): line[26:].split()[0] for line in proc(worker, "limits").splitlines()}
        assert "NoNewPrivs:\t1" in proc(worker, "status")
        assert limits["Max core file size"] == "0"
        assert limits["Max open files"] == "64"
        assert limits["Max address space"] != "unlimited"
        assert limits["Max file size"] != "unlimited"


async def test_workers_end_with_their_parent() -> None:
    async with pool_of(1) as (pool, _):
        (worker,) = workers()
        del pool
    assert not worker.is_running()


def two_hours() -> bytes:
    """Two hours of joined speech with pauses, as MP3."""
    part = np.concatenate([np.concatenate([load_pcm(path), np.zeros(12_000, np.int16)]) for path in packaged_clips()])
    frame_bytes = 1152
    file = io.BytesIO()
    total = 2 * 3600 * SAMPLE_RATE_HZ
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE_HZ, layout="mono")
        stream.codec_context.open()
        size = stream.codec_context.frame_size or frame_bytes
        for start in range(0, total - size, size):
            index = np.arange(start, start + size) % len(part)
            frame = av.AudioFrame.from_ndarray(part[index][None], "s16p", "mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_hours_in_bounded_memory() -> None:
    data = two_hours()
    limits = AudioLimits(max_memory_bytes=256 * 1024 * 1024)
    async with pool_of(1, limits) as (pool, restarts):
        await transcribable(pool, sounds.wav(clip()))
        (worker,) = workers()
        before = worker.memory_info().rss
        audio, pcm = os.memfd_create("audio"), os.memfd_create("pcm")
        os.pwrite(audio, data, 0)
        started = time.perf_counter()
        first_s, windows, peak, summary = 0.0, [], 0, None
        async for answer in pool.windows(audio, pcm, len(data)):
            first_s = first_s or time.perf_counter() - started
            peak = max(peak, worker.memory_info().rss)
            if isinstance(answer, AudioSummary):
                summary = answer
            else:
                windows.append(answer)
        took_s = time.perf_counter() - started
        os.close(audio)
        os.close(pcm)
    assert summary is not None
    print(  # noqa: T201
        f"{summary.duration_s:.0f} s, {len(data) / 1e6:.0f} MB: {took_s:.1f} s (decode {summary.decode_ms / 1000:.1f}, "
        f"vad {summary.vad_ms / 1000:.1f}), first window after {first_s * 1000:.0f} ms, {len(windows)} windows, "
        f"RSS {before / 1e6:.0f} MB + {(peak - before) / 1e6:.1f} MB"
    )
    assert summary.duration_s == pytest.approx(7200, abs=1)
    assert summary.warnings == ()
    assert first_s < took_s / 10
    assert peak - before < 32 * 1024 * 1024
    assert all(a.end_sample <= b.start_sample for a, b in pairwise(windows))
    assert sum(window.duration_s for window in windows) > 0.9 * 7200 * 0.85
    assert restarts == []
