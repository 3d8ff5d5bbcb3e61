"""One job in a worker: the order of its messages, and an answer whatever happens. Runs without a process or limits."""

import os
import resource
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from asr_service.audio import messages
from asr_service.audio.messages import Done, Failed, FromWorker, Job, Progress, WindowCut
from asr_service.audio.vad import load_model
from asr_service.audio.worker import answer
from asr_service.domain import SAMPLE_RATE_HZ
from tests.recordings import load_pcm, packaged_clips
from tests.unit.audio import sounds

JOB = Job(max_audio_s=100, cpu_s_base=10, cpu_s_per_audio_s=0.5)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model()


class Bench:
    """A job's two files, and the CPU seconds that were granted."""

    def __init__(self, data: bytes) -> None:
        self.audio, self.pcm = os.memfd_create("audio"), os.memfd_create("pcm")
        os.write(self.audio, data)
        self.granted: list[float] = []

    def run(self, model: Any, job: Job = JOB) -> Iterator[FromWorker]:
        return answer(job, [os.dup(self.audio), os.dup(self.pcm)], model, self.granted.append)

    def written(self) -> bytes:
        return os.pread(self.pcm, 10**8, 0)

    def close(self) -> None:
        os.close(self.audio)
        os.close(self.pcm)


@pytest.fixture
def bench() -> Iterator[type[Bench]]:
    made: list[Bench] = []

    class Tracked(Bench):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            made.append(self)

    yield Tracked
    for each in made:
        each.close()


def speech_with_pauses() -> sounds.Samples:
    clip = load_pcm(packaged_clips()[0])
    return np.concatenate([clip, np.zeros(6 * SAMPLE_RATE_HZ, np.int16)] * 4)


def test_pcm_is_in_the_file_before_its_window_is_announced(model: Any, bench: type[Bench]) -> None:
    sound = speech_with_pauses()
    job = bench(sounds.wav(sound))
    seen = []
    for message in job.run(model):
        seen.append(message)
        if isinstance(message, WindowCut):
            assert len(job.written()) >= message.window.end_sample * 2
    windows = [message.window for message in seen if isinstance(message, WindowCut)]
    assert [window.index for window in windows] == [0, 1, 2, 3]
    assert job.written() == sound.astype("<i2").tobytes()
    assert isinstance(seen[-1], Done)
    assert seen[-1].summary.duration_s == len(sound) / SAMPLE_RATE_HZ
    assert sum(isinstance(message, Done | Failed) for message in seen) == 1


def test_windows_are_announced_while_later_audio_is_still_encoded(model: Any, bench: type[Bench]) -> None:
    job = bench(sounds.wav(speech_with_pauses()))
    messages = job.run(model)
    first = next(message for message in messages if isinstance(message, WindowCut))
    assert len(job.written()) < len(speech_with_pauses()) * 2
    assert first.window.index == 0
    list(messages)


def test_silence_shows_progress_and_has_no_windows(model: Any, bench: type[Bench]) -> None:
    job = bench(sounds.wav(np.zeros(20 * SAMPLE_RATE_HZ, np.int16)))
    *progress, last = job.run(model)
    assert [type(message) for message in progress] == [Progress] * 3
    assert isinstance(last, Done)


def test_cpu_time_is_granted_by_what_has_been_decoded(model: Any, bench: type[Bench]) -> None:
    job = bench(sounds.wav(np.zeros(20 * SAMPLE_RATE_HZ, np.int16)))
    list(job.run(model))
    assert job.granted == pytest.approx([10, 10 + 0.5 * 8, 10 + 0.5 * 16, 20], abs=0.2)


def test_warnings_reach_the_summary(model: Any, bench: type[Bench]) -> None:
    *_, last = bench(sounds.wav(speech_with_pauses(), data_bytes=0)).run(model)
    assert isinstance(last, Done)
    assert len(last.summary.warnings) == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "missing_audio", id="empty"),
        pytest.param(b"hello" * 100, "unreadable_audio", id="text"),
        pytest.param(sounds.wav(np.zeros(101 * SAMPLE_RATE_HZ, np.int16)), "audio_too_long", id="long"),
    ],
)
def test_what_cannot_be_used_is_answered(model: Any, bench: type[Bench], data: bytes, code: str) -> None:
    *_, last = bench(data).run(model)
    assert isinstance(last, Failed)
    assert last.code == code


def test_a_full_disk_is_not_the_callers_fault(model: Any, bench: type[Bench]) -> None:
    job = bench(sounds.wav(speech_with_pauses()))
    files = [os.dup(job.audio), os.open("/dev/full", os.O_RDWR)]
    (only,) = answer(JOB, files, model, job.granted.append)
    assert isinstance(only, Failed)
    assert only.code == "unavailable"


@pytest.mark.parametrize(("error", "words"), [(MemoryError(), "memory"), (OSError(27, "too large"), "longer")])
def test_limits_that_bite_are_answered(bench: type[Bench], error: Exception, words: str) -> None:
    class Broken:
        def run(self, *_: object) -> None:
            raise error

    *_, last = bench(sounds.wav(speech_with_pauses())).run(Broken())
    assert isinstance(last, Failed)
    assert words in last.message


def test_files_are_closed_whatever_happens(model: Any, bench: type[Bench]) -> None:
    def open_files() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    jobs = [bench(sounds.wav(speech_with_pauses())), bench(b"nonsense")]
    before = open_files()
    for job in jobs:
        list(job.run(model))
        unfinished = job.run(model)
        next(unfinished)
        unfinished.close()  # type: ignore[attr-defined]
    assert open_files() == before


def test_this_process_has_been_given_no_limit(model: Any, bench: type[Bench]) -> None:
    list(bench(sounds.wav(speech_with_pauses())).run(model))
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("message", [JOB, messages.Configure(1, 2)])
def test_messages_survive_the_wire(message: messages.ToWorker) -> None:
    assert messages.decode_to_worker(messages.encode(message)) == message
