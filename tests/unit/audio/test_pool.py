"""The pool's promises, with real processes that do on command what hostile files do to a worker."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
import structlog
from structlog.testing import capture_logs

from asr_service.audio.pool import AudioLimits, DecodePool
from asr_service.domain import AudioSummary, Window
from asr_service.errors import AsrError, AudioTooLong, Unavailable, UnreadableAudio
from tests.unit.audio import puppet_worker

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
ENV = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
LARGE_BYTES = 9 * 1024 * 1024
Answers = AsyncGenerator[Window | AudioSummary, None]


class Recording:
    """A job whose worker does what `tell` says."""

    def __init__(self, pool: DecodePool, size_bytes: int = 1000) -> None:
        self._read_end, self._write_end = os.pipe()
        self._pcm = os.memfd_create("pcm")
        self.answers: Answers = pool.windows(self._read_end, self._pcm, size_bytes)

    def tell(self, *commands: str) -> None:
        os.write(self._write_end, "".join(f"{command}\n" for command in commands).encode())

    async def next(self) -> Window | AudioSummary:
        return await anext(self.answers)

    async def summary(self) -> AudioSummary:
        """The end of the job; its `decode_ms` is the worker's process id."""
        async for answer in self.answers:
            if isinstance(answer, AudioSummary):
                return answer
        raise AssertionError("no summary")

    async def error(self) -> AsrError:
        with pytest.raises(AsrError) as caught:
            await self.summary()
        return caught.value

    async def close(self) -> None:
        await self.answers.aclose()
        for fd in (self._read_end, self._pcm, self._write_end):
            os.close(fd)


class Restarts:
    """Counts replaced workers, and lets a test wait for the next one."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._changed = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self.reasons)

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._changed.set()

    async def reach(self, count: int) -> None:
        while self.count < count:
            self._changed.clear()
            await self._changed.wait()


class Stage:
    def __init__(self, pool: DecodePool, restarts: Restarts) -> None:
        self.pool, self.restarts = pool, restarts
        self.recordings: list[Recording] = []

    def recording(self, size_bytes: int = 1000) -> Recording:
        self.recordings.append(Recording(self.pool, size_bytes))
        return self.recordings[-1]

    async def started(self, size_bytes: int = 1000) -> Recording:
        """A recording that a worker is at."""
        recording = self.recording(size_bytes)
        recording.tell("window")
        await recording.next()
        return recording


@asynccontextmanager
async def staged(
    workers: int, stall_timeout_s: float = 60, env: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Stage]:
    restarts = Restarts()
    limits = AudioLimits(stall_timeout_s=stall_timeout_s)
    pool = DecodePool(
        workers, limits, {**ENV, **env}, on_restart=restarts, worker_module="tests.unit.audio.puppet_worker"
    )
    await pool.start()
    stage = Stage(pool, restarts)
    try:
        yield stage
    finally:
        for recording in stage.recordings:
            await recording.close()
        await pool.aclose()


async def test_windows_come_in_order_and_the_summary_last() -> None:
    async with staged(1) as stage:
        recording = stage.recording()
        recording.tell("window", "progress", "window", "done")
        answers = [answer async for answer in recording.answers]
    assert [answer.index for answer in answers[:-1] if isinstance(answer, Window)] == [0, 2]
    assert isinstance(answers[-1], AudioSummary)
    assert stage.restarts.count == 0


async def test_windows_come_before_the_end() -> None:
    async with staged(1) as stage:
        recording = await stage.started()
        recording.tell("done")
        assert isinstance(await recording.next(), AudioSummary)


@pytest.mark.parametrize(("code", "error"), [("audio_too_long", AudioTooLong), ("unreadable_audio", UnreadableAudio)])
async def test_a_refusal_is_raised_and_the_worker_lives(code: str, error: type[AsrError]) -> None:
    async with staged(1) as stage:
        refused = stage.recording()
        refused.tell(f"fail {code}")
        raised = await refused.error()
        assert type(raised) is error
        assert raised.message == "As told."
        following = stage.recording()
        following.tell("done")
        await following.summary()
        assert stage.restarts.count == 0


@pytest.mark.parametrize("death", ["exit 0", "exit 1", f"kill {signal.SIGKILL:d}", f"kill {signal.SIGSEGV:d}"])
async def test_a_worker_that_dies_costs_its_own_recording_and_is_replaced(death: str) -> None:
    async with staged(2) as stage:
        other = await stage.started()
        victim = await stage.started()
        victim.tell(death)
        error = await victim.error()
        assert isinstance(error, UnreadableAudio)
        assert "broke the decoder" in error.message
        following = stage.recording()
        following.tell("done")
        await following.summary()
        other.tell("done")
        await other.summary()
        assert stage.restarts.count == 1


async def test_too_much_computing_has_its_own_sentence() -> None:
    async with staged(1) as stage:
        recording = await stage.started()
        recording.tell(f"kill {signal.SIGXCPU:d}")
        assert "computing time" in (await recording.error()).message


async def test_a_worker_that_stalls_is_replaced() -> None:
    async with staged(1, stall_timeout_s=0.2) as stage:
        recording = stage.recording()
        error = await recording.error()
        assert isinstance(error, UnreadableAudio)
        assert "no progress" in error.message
        following = stage.recording()
        following.tell("done")
        await following.summary()
        assert stage.restarts.count == 1


async def test_waiting_for_a_worker_is_no_stall() -> None:
    async with staged(1, stall_timeout_s=0.5) as stage:
        first, second = await stage.started(), stage.recording()
        waiting = asyncio.create_task(second.summary())
        async with asyncio.timeout(60):
            for _ in range(3):
                # Each sign of life comes well after the last; together they outlast the timeout.
                await asyncio.wait([waiting], timeout=0.25)
                first.tell("window")
                await first.next()
        first.tell("done")
        second.tell("done")
        await first.summary()
        await waiting
        assert stage.restarts.count == 0


async def test_an_idle_worker_that_dies_is_replaced() -> None:
    async with staged(1) as stage:
        recording = stage.recording()
        recording.tell("done")
        os.kill(int((await recording.summary()).decode_ms), signal.SIGKILL)
        await stage.restarts.reach(1)
        following = stage.recording()
        following.tell("done")
        await following.summary()


async def test_closing_early_kills_the_worker_and_frees_its_place() -> None:
    async with staged(1) as stage:
        abandoned = await stage.started()
        await abandoned.answers.aclose()
        following = stage.recording()
        following.tell("done")
        await following.summary()
        assert stage.restarts.count == 1


async def test_cancelling_while_it_works_or_waits() -> None:
    async with staged(1) as stage:
        at_work, in_line, following = await stage.started(), stage.recording(), stage.recording()
        tasks = [asyncio.create_task(recording.summary()) for recording in (at_work, in_line)]
        await asyncio.wait(tasks, timeout=0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        following.tell("done")
        await following.summary()
        assert stage.restarts.count == 1


async def test_first_come_first_served() -> None:
    async with staged(1) as stage:
        first = await stage.started()
        order: list[int] = []

        async def run(number: int, recording: Recording) -> None:
            recording.tell("done")
            await recording.summary()
            order.append(number)

        tasks = [asyncio.create_task(run(number, stage.recording())) for number in range(5)]
        await asyncio.wait(tasks, timeout=0.01)
        first.tell("done")
        await first.summary()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]


async def test_a_slow_reader_does_not_keep_the_worker() -> None:
    async with staged(1) as stage:
        slow = await stage.started()
        slow.tell("window", "done")
        following = stage.recording()
        following.tell("done")
        await following.summary()
        assert isinstance(await slow.next(), Window)
        assert isinstance(await slow.next(), AudioSummary)
        await slow.close()
        stage.recordings.remove(slow)
        assert stage.restarts.count == 0


async def test_large_files_leave_a_worker_to_small_ones() -> None:
    async with staged(2) as stage:
        first = await stage.started(LARGE_BYTES)
        second = stage.recording(LARGE_BYTES)
        waiting = asyncio.create_task(second.summary())
        for _ in range(3):
            small = stage.recording()
            small.tell("done")
            await small.summary()
        assert not waiting.done()
        first.tell("done")
        second.tell("done")
        await first.summary()
        await waiting


async def test_a_large_file_whose_worker_died_makes_way_for_the_next() -> None:
    async with staged(2) as stage:
        for _ in range(3):
            recording = await stage.started(LARGE_BYTES)
            recording.tell("exit 1")
            await recording.error()
        assert stage.restarts.count == 3


async def test_a_single_worker_takes_large_files() -> None:
    async with staged(1) as stage:
        recording = stage.recording(LARGE_BYTES)
        recording.tell("done")
        await recording.summary()


async def test_closing_the_pool_ends_everything() -> None:
    async with staged(1) as stage:
        probe = stage.recording()
        probe.tell("done")
        process_id = int((await probe.summary()).decode_ms)
        at_work, in_line = await stage.started(), stage.recording()
        tasks = [asyncio.create_task(recording.error()) for recording in (at_work, in_line)]
        await asyncio.wait(tasks, timeout=0.01)
        await stage.pool.aclose()
        assert [type(error) for error in await asyncio.gather(*tasks)] == [Unavailable, Unavailable]
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)
        assert isinstance(await stage.recording().error(), Unavailable)


async def test_workers_that_do_not_start_are_reported_and_none_is_left() -> None:
    pool = DecodePool(2, AudioLimits(), ENV | {"REFUSE": "1"}, worker_module="tests.unit.audio.puppet_worker")
    with pytest.raises(Unavailable, match="did not start"):
        await pool.start()


@pytest.mark.parametrize("command", [*(f"lie {name}" for name in puppet_worker.LIES), "raw 5", "raw 70000"])
async def test_a_worker_that_lies_is_replaced(command: str) -> None:
    async with staged(1) as stage:
        recording, following = stage.recording(), stage.recording()
        recording.tell(command)
        following.tell("done")
        error, _ = await asyncio.gather(recording.error(), following.summary())
        assert isinstance(error, UnreadableAudio)
        assert stage.restarts.count == 1


async def test_a_worker_without_end_is_replaced() -> None:
    async with staged(1) as stage:
        recording = stage.recording()
        recording.tell("flood")
        assert isinstance(await recording.error(), UnreadableAudio)
        await stage.restarts.reach(1)


@pytest.mark.parametrize(
    ("command", "reason", "counted"),
    [
        ("kill 31", "forbidden system call", "forbidden_call"),
        ("kill 24", "computing time", "cpu_time"),
        ("kill 9", "it was killed", "killed"),
        ("kill 11", "signal 11", "signal"),
        ("exit 3", "status 3", "exit"),
    ],
)
async def test_why_a_worker_was_lost_is_logged_and_counted(command: str, reason: str, counted: str) -> None:
    with capture_logs() as lines:
        async with staged(1) as stage:
            recording = stage.recording()
            recording.tell(command)
            await recording.error()
            await stage.restarts.reach(1)
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("a decode worker was lost", "warning")
    assert reason in line["reason"]
    assert stage.restarts.reasons == [counted]


async def test_a_lost_worker_is_logged_with_the_request_that_it_worked_for() -> None:
    with capture_logs() as lines:
        async with staged(1) as stage:
            with structlog.contextvars.bound_contextvars(request_id="r1"):
                recording = stage.recording()
                recording.tell("exit 3")
                await recording.error()
            await stage.restarts.reach(1)
    (line,) = lines
    assert line["request_id"] == "r1"


async def test_unfiltered_system_calls_are_said_once() -> None:
    with capture_logs() as lines:
        async with staged(3, env={"UNFILTERED": "an old kernel"}):
            assert [(line["log_level"], line["reason"]) for line in lines] == [("warning", "an old kernel")]


async def test_nothing_is_left_open() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for _ in range(2):
        async with staged(1) as stage:
            for command in ("done", "exit 1", "done"):
                recording = stage.recording()
                recording.tell(command)
                await asyncio.gather(recording.summary(), return_exceptions=True)
    assert open_files() == before
    assert all("_supervise" not in str(task.get_coro()) for task in asyncio.all_tasks())
