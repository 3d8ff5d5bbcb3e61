"""Stand-ins for the engine and the decoder that tests script window by window. No timers: everything waits for events.

The fake decoder fills window number i with the sample value i, so that a test sees which window reached the engine.
"""

import array
import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

from asr_service.audio.listener_messages import Ended, Heard, StreamSettings
from asr_service.audio.speech_stream import moved, policy_of
from asr_service.audio.windows import FRAME_SAMPLES, Windower
from asr_service.domain import (
    SAMPLE_RATE_HZ,
    AudioSummary,
    ModelInfo,
    Priority,
    Region,
    Window,
    WindowOptions,
    WindowResult,
    WindowTimings,
)
from asr_service.errors import AsrError

WHISPER = ModelInfo(
    "whisper-test",
    "whisper",
    "cpu",
    "float32",
    ("en", "de", "zh", "jw"),
    4,
    1_000_000,
    0.5,
    translates=True,
    word_times=True,
    timestamps=True,
)
GLM_ASR = ModelInfo("glm-asr-test", "glm_asr", "cpu", "float32", (), 4, 1_000_000, 0.5)


def result(text: str, language: str | None = "en", *, ms: float = 1.0, guard: str | None = None) -> WindowResult:
    """The result of a window that took `ms` in each stage."""
    return WindowResult(text, language, 3, WindowTimings(ms, ms, ms, 3), guard)


class Call:
    """One window that was given to the fake engine."""

    def __init__(
        self,
        request_id: str,
        pcm: bytes,
        options: WindowOptions,
        on_started: Callable[[str | None], None] | None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        self.priority = priority
        self.request_id = request_id
        self.samples = array.array("h", pcm)
        self.options = options
        self.cancelled = False
        self.outcome: asyncio.Future[WindowResult] = asyncio.get_running_loop().create_future()
        self._on_started = on_started

    @property
    def window(self) -> int:
        """The number of the window, as the fake decoder wrote it into the audio."""
        (value,) = set(self.samples)
        return value

    def start(self, language: str | None) -> None:
        assert self._on_started is not None
        self._on_started(language)

    def finish(self, text: str, language: str | None = "en") -> None:
        self.outcome.set_result(result(text, language))

    def fail(self, error: AsrError) -> None:
        self.outcome.set_exception(error)


class FakeEngine:
    """Answers every window from `answers` in the order of arrival, or, without, hangs until the test ends the call."""

    def __init__(
        self,
        answers: Sequence[WindowResult | Exception] | None = None,
        *,
        model: ModelInfo | None = WHISPER,
        not_ready: str | None = None,
    ) -> None:
        self.model = model
        self.not_ready_reason = not_ready
        self.calls: list[Call] = []
        self.events: list[str] = []
        self.loaded = asyncio.Event()
        self.load_error: Exception | None = None
        self._answers = None if answers is None else list(answers)
        self._arrivals: asyncio.Queue[Call] = asyncio.Queue()
        if model is not None:
            self.loaded.set()

    @property
    def running(self) -> list[Call]:
        return [call for call in self.calls if not call.outcome.done() and not call.cancelled]

    async def next_call(self) -> Call:
        """The next window, as soon as it has arrived."""
        return await self._arrivals.get()

    async def start(self) -> None:
        self.events.append("engine started")

    async def wait_ready(self) -> None:
        await self.loaded.wait()
        if self.load_error is not None:
            raise self.load_error

    async def aclose(self) -> None:
        self.events.append("engine closed")

    async def transcribe(
        self,
        request_id: str,
        pcm: bytes,
        options: WindowOptions,
        *,
        on_started: Callable[[str | None], None] | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> WindowResult:
        call = Call(request_id, pcm, options, on_started, priority)
        self.calls.append(call)
        self._arrivals.put_nowait(call)
        if self._answers is not None:
            answer = self._answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        try:
            return await call.outcome
        except asyncio.CancelledError:
            call.cancelled = True
            raise


class FakeListener:
    """Hears speech in whatever is not zero, in pieces of any length; windows are cut as the real listener cuts them."""

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.error: Exception | None = None
        self.events: list[str] = []

    def stream(self, settings: StreamSettings) -> "FakeStream":
        self.streams.append(FakeStream(self, settings))
        return self.streams[-1]

    async def aclose(self) -> None:
        self.events.append("listener closed")


class FakeStream:
    """One stream, of 16 kHz PCM whatever its settings say. `answers` is taken from before each answer."""

    def __init__(self, listener: FakeListener, settings: StreamSettings) -> None:
        self.settings = settings
        self.closed = False
        self.answers = asyncio.Semaphore(1_000_000)
        self._listener = listener
        self._pcm = b""
        self._begin()

    @property
    def total_samples(self) -> int:
        return len(self._pcm) // 2

    async def hear(self, data: bytes) -> Heard:
        return await self._answer(data, finish=False)

    async def finish(self) -> Heard:
        return await self._answer(b"", finish=True)

    def restart(self, settings: StreamSettings | None = None) -> None:
        self.settings = settings or self.settings
        self._begin()

    def pcm(self, start_sample: int, end_sample: int) -> bytes:
        return self._pcm[2 * start_sample : 2 * end_sample]

    def close(self) -> None:
        self.closed = True

    def _begin(self) -> None:
        self._first = self._frames_from = self.total_samples
        self._windower = Windower(policy_of(self.settings))

    async def _answer(self, data: bytes, *, finish: bool) -> Heard:
        await self.answers.acquire()
        if self._listener.error is not None:
            raise self._listener.error
        self._pcm += data
        ended = [
            Ended(moved(window, self._first), goes_on=self._windower.open is not None)
            for window in self._windows(finish=finish)
        ]
        window = self._windower.open
        if window is not None:
            start, end = self._first + window.start_sample, self._first + window.end_sample
            window = dataclasses.replace(window, start_sample=start, end_sample=end)
        if finish:
            self._begin()
        return Heard(0, data, ended, window, 0)

    def _windows(self, *, finish: bool) -> Iterator[Window]:
        while self.total_samples - self._frames_from >= FRAME_SAMPLES:
            frame = self._pcm[2 * self._frames_from : 2 * (self._frames_from + FRAME_SAMPLES)]
            self._frames_from += FRAME_SAMPLES
            yield from self._windower.feed([0.95 if any(frame) else 0.02])
        if finish:
            yield from self._windower.finish(self.total_samples - self._first)


def speech(seconds: float, value: int = 1) -> bytes:
    """Samples that the fake listener takes for speech."""
    return array.array("h", [value] * round(seconds * SAMPLE_RATE_HZ)).tobytes()


def silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * SAMPLE_RATE_HZ))


class FakeDecoder:
    """Cuts every upload into `count` windows of one second. `error` is raised after them, instead of the summary."""

    def __init__(
        self, count: int = 1, *, error: Exception | None = None, warnings: tuple[str, ...] = (), hang: bool = False
    ) -> None:
        self.count = count
        self.error = error
        self.warnings = warnings
        self.hang = hang
        self.uploads: list[bytes] = []
        self.open = 0
        """How many recordings are being decoded."""
        self.hanging = asyncio.Event()
        self.events: list[str] = []
        self._generators: list[AsyncGenerator[Window | AudioSummary, None]] = []

    async def start(self) -> None:
        self.events.append("decoder started")

    async def aclose(self) -> None:
        self.events.append("decoder closed")

    def windows(self, audio_fd: int, pcm_fd: int, size_bytes: int) -> AsyncGenerator[Window | AudioSummary, None]:
        # Kept here, so that only a service that closes it ends it, and not the garbage collector.
        self._generators.append(self._windows(audio_fd, pcm_fd, size_bytes))
        return self._generators[-1]

    async def _windows(
        self, audio_fd: int, pcm_fd: int, size_bytes: int
    ) -> AsyncGenerator[Window | AudioSummary, None]:
        self.open += 1
        try:
            # From where the descriptor stands, as a decoder that shares it would read.
            self.uploads.append(os.read(audio_fd, size_bytes + 1))
            assert len(self.uploads[-1]) == size_bytes
            for index in range(self.count):
                start = index * SAMPLE_RATE_HZ
                os.pwrite(pcm_fd, array.array("h", [index] * SAMPLE_RATE_HZ).tobytes(), start * 2)
                yield Window(index, start, start + SAMPLE_RATE_HZ, Region(index + 0.1, index + 0.9))
            if self.hang:
                self.hanging.set()
                await asyncio.Event().wait()
            if self.error is not None:
                raise self.error
            yield AudioSummary(float(self.count), self.warnings, 5.0, 2.0)
        finally:
            self.open -= 1


async def settle() -> None:
    """Let the other tasks run until nothing more happens by itself."""
    for _ in range(50):
        await asyncio.sleep(0)  # noqa: TID251 - gives way to other tasks, takes no time


def open_files(process: int | str = "self") -> dict[str, str]:
    """What each file descriptor of this process, or another, refers to."""
    files = {}
    for descriptor in os.listdir(f"/proc/{process}/fd"):
        # The listing has a descriptor of its own, which is gone by now.
        with contextlib.suppress(FileNotFoundError):
            files[descriptor] = os.readlink(f"/proc/{process}/fd/{descriptor}")
    return files


@contextlib.asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fails when the block leaves open files or unfinished tasks behind."""
    files, tasks = open_files(), asyncio.all_tasks()
    yield
    assert open_files() == files, (open_files(), files)
    # The runner of asynchronous tests has a task of its own for each step of a fixture.
    left = [task for task in asyncio.all_tasks() - tasks if not task.done() and "TestRunner" not in repr(task)]
    assert left == [], left
