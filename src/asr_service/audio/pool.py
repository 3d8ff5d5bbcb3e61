"""Decode workers, seen from the API process: recordings in, windows out, whatever the files do to the workers.

Owns the workers' lives (start, supervision, replacement), who gets one next, and the time a recording may stand still.
Knows nothing of formats, speech or HTTP, and imports neither FFmpeg nor onnxruntime.
"""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog

from asr_service.audio.checks import MAX_FRAME_BYTES, Conversation, ImplausibleMessage
from asr_service.audio.messages import Configure, Done, Failed, FromWorker, Job, Ready, WindowCut
from asr_service.audio.messages import decode_from_worker as unpack
from asr_service.audio.messages import encode as pack
from asr_service.domain import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, AudioSummary, Window
from asr_service.errors import AsrError, AudioTooLong, MissingAudio, Unavailable, UnreadableAudio
from asr_service.ipc import ChannelClosed, Child, spawn

_log = structlog.stdlib.get_logger("asr_service")

_LARGE_BYTES = 8 * 1024 * 1024
_START_TIMEOUT_S = 60.0
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0
_SPARE_OUTPUT_S = 60.0
"""The file size limit is the backstop behind the worker's own count of seconds."""
_ERRORS: dict[str, type[AsrError]] = {
    error.code: error for error in (AudioTooLong, MissingAudio, Unavailable, UnreadableAudio)
}


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What one recording may cost.

    max_audio_s: decoded length. max_memory_bytes: of a worker, on top of its libraries. cpu_s_base and
    cpu_s_per_audio_s: CPU seconds per recording and per second of it decoded so far (the VAD alone takes 0.002).
    stall_timeout_s: wall time without a sign of life; one comes after every 8 s of audio.
    """

    max_audio_s: float = 3 * 3600.0
    max_memory_bytes: int = 512 * 1024 * 1024
    cpu_s_base: float = 10.0
    cpu_s_per_audio_s: float = 0.1
    stall_timeout_s: float = 30.0


@dataclass(slots=True, eq=False)
class _Job:
    """A recording that waits for a worker, then is at one. Its last message is Done, Failed, or None (it died).

    about: the fields of the log that belong to its request.
    """

    large: bool
    conversation: Conversation
    worker: "asyncio.Future[_Worker]"
    messages: "asyncio.Queue[FromWorker | None]"
    about: Mapping[str, object]


@dataclass(slots=True, eq=False)
class _Worker:
    """A running worker process and what it is busy with. `dismissed`: nobody needs its work any more, it was killed."""

    child: Child
    job: _Job | None = None
    dismissed: bool = False


class DecodePool:
    """A fixed number of decode workers, each doing one recording at a time.

    A recording that kills or stalls its worker gets an error; nobody else notices but for `on_restart`. Uploads of more
    than 8 MB never occupy the last worker, so that short clips do not wait behind long files (unless there is but one).
    """

    def __init__(
        self,
        workers: int,
        limits: AudioLimits,
        env: Mapping[str, str],
        *,
        on_restart: Callable[[str], None] = lambda reason: None,
        worker_module: str = "asr_service.audio.worker",
    ) -> None:
        """`env` is the workers' whole environment: keep secrets out of it. `on_restart` gets, per lost
        worker, `dismissed` (nobody needed its work any more) or what it died of: `forbidden_call`, `cpu_time`,
        `killed`, another `signal`, or an `exit` of its own.
        """
        self._worker_module = worker_module
        self._count = workers
        self._limits = limits
        # Unused threads of the linear algebra library cost time at the start and address space. And onnxruntime reports
        # on its use to its makers unless it is told not to.
        self._env = {"OPENBLAS_NUM_THREADS": "1", **env, "ORT_DISABLE_TELEMETRY": "1"}
        self._on_restart = on_restart
        self._workers: set[_Worker] = set()
        self._supervisors: list[asyncio.Task[None]] = []
        self._idle: deque[_Worker] = deque()
        self._waiting: deque[_Job] = deque()
        self._large_at_work = 0
        self._max_large = max(1, workers - 1)
        self._closing = asyncio.Event()
        self._warned: set[str] = set()

    async def start(self) -> None:
        """Start all workers and wait until they are ready. Raises Unavailable when they cannot be started."""
        outcomes = await asyncio.gather(*(self._launch() for _ in range(self._count)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                await self.aclose()
                raise outcome
            self._supervisors.append(asyncio.create_task(self._supervise(outcome)))

    async def aclose(self) -> None:
        """End all workers. Recordings at work or waiting get Unavailable."""
        self._closing.set()
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        for worker in list(self._workers):
            await self._bury(worker)
        self._refuse_waiting()

    async def windows(self, audio_fd: int, pcm_fd: int, size_bytes: int) -> AsyncGenerator[Window | AudioSummary, None]:
        """Decode the open file `audio_fd` of `size_bytes` into `pcm_fd` (mono, 16 kHz, int16).

        Yields each Window once its PCM is in the file, in order and while later audio is still being decoded; last, the
        AudioSummary. `pcm_fd` must be empty. Both must stay open until the end, and their positions are shared with the
        worker: read the PCM with `os.pread`. The worker never waits for the reader of this generator. Raises
        UnreadableAudio, AudioTooLong, MissingAudio, Unavailable. Closing the generator early ends the work at once (at
        the price of a new worker).
        """
        limits = self._limits
        job = _Job(
            size_bytes > _LARGE_BYTES,
            Conversation(pcm_fd, limits.max_audio_s),
            asyncio.get_running_loop().create_future(),
            asyncio.Queue(),
            structlog.contextvars.get_contextvars(),
        )
        try:
            self._waiting.append(job)
            self._dispatch()
            worker = await job.worker
            order = Job(limits.max_audio_s, limits.cpu_s_base, limits.cpu_s_per_audio_s)
            # A worker that is gone already says so through its last message.
            with suppress(ChannelClosed):
                await worker.child.channel.send(pack(order), (audio_fd, pcm_fd))
            while True:
                match await self._next_message(job):
                    case WindowCut(window):
                        yield window
                    case Done(summary):
                        yield summary
                        return
                    case Failed(code, text):
                        raise _ERRORS.get(code, UnreadableAudio)(text)
                    case None:
                        raise self._why_it_died(worker.child)
        finally:
            self._abandon(job)

    async def _next_message(self, job: _Job) -> FromWorker | None:
        try:
            async with asyncio.timeout(self._limits.stall_timeout_s):
                return await job.messages.get()
        except TimeoutError:
            raise UnreadableAudio("Decoding the file made no progress for too long.") from None

    def _why_it_died(self, child: Child) -> AsrError:
        if self._closing.is_set():
            return Unavailable("The service is stopping.")
        if child.process.returncode == -signal.SIGXCPU:
            return UnreadableAudio("Decoding the file takes more computing time than is allowed.")
        return UnreadableAudio("The file cannot be decoded: it broke the decoder.")

    # who gets a worker

    def _dispatch(self) -> None:
        """Give idle workers to those who wait: first come, first served, but for large ones while they are too many."""
        if self._closing.is_set():
            self._refuse_waiting()
        for job in list(self._waiting):
            if not self._idle:
                return
            if job.worker.done() or (job.large and self._large_at_work >= self._max_large):
                continue
            self._waiting.remove(job)
            worker = self._idle.popleft()
            worker.job = job
            # Kept until the next job: a worker's last words may come after the end of their own.
            worker.child.about.clear()
            worker.child.about.update(job.about)
            self._large_at_work += job.large
            job.worker.set_result(worker)

    def _detach(self, worker: _Worker, last: FromWorker | None) -> None:
        """The worker is through with its job, one way or another."""
        if worker.job is not None:
            self._large_at_work -= worker.job.large
            worker.job.messages.put_nowait(last)
            worker.job = None

    def _abandon(self, job: _Job) -> None:
        """Nobody waits for this job any more. A worker that is still at it is killed; its supervisor replaces it."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job.worker.done() and not job.worker.cancelled() and job.worker.exception() is None:
            worker = job.worker.result()
            if worker.job is job:
                self._detach(worker, None)
                worker.dismissed = True
                with suppress(ProcessLookupError):
                    worker.child.process.kill()

    def _refuse_waiting(self) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            if not job.worker.done():
                job.worker.set_exception(Unavailable("No audio decoder is available.", retry_after_s=5))

    # the workers' lives

    async def _launch(self) -> _Worker:
        """Start a process and wait until it is ready. Raises Unavailable."""
        limits = self._limits
        child = await spawn(self._worker_module, self._env)
        try:
            output_bytes = int((limits.max_audio_s + _SPARE_OUTPUT_S) * SAMPLE_RATE_HZ * BYTES_PER_SAMPLE)
            async with asyncio.timeout(_START_TIMEOUT_S):
                await child.channel.send(pack(Configure(limits.max_memory_bytes, output_bytes)))
                answer = unpack(await child.channel.receive())
            if not isinstance(answer, Ready):
                raise Unavailable(f"An audio decoder did not start: it said {answer}.")
            self._warn_unfiltered(answer.unfiltered)
        except (ChannelClosed, TimeoutError) as error:
            await child.kill()
            raise Unavailable("An audio decoder did not start; its reason stands on stderr.") from error
        except BaseException:
            await child.kill()
            raise
        worker = _Worker(child)
        self._workers.add(worker)
        self._idle.append(worker)
        self._dispatch()
        return worker

    def _warn_unfiltered(self, reason: str | None) -> None:
        """Once for each reason, not once for each worker."""
        if reason is not None and reason not in self._warned:
            self._warned.add(reason)
            _log.warning("system calls of decode workers are not filtered", reason=reason)

    async def _supervise(self, worker: _Worker) -> None:
        """Pass a worker's messages on for as long as it lives, then replace it."""
        while True:
            await self._pump(worker)
            about = {} if worker.job is None else worker.job.about
            await self._bury(worker)
            if not worker.dismissed:
                _log.warning("a decode worker was lost", reason=_last_words(worker.child), **about)
            self._on_restart("dismissed" if worker.dismissed else _cause(worker.child))
            worker = await self._relaunch()

    async def _pump(self, worker: _Worker) -> None:
        """Returns when the worker is dead, or says what it should not: a file may have taken it over."""
        while True:
            try:
                message = unpack(await worker.child.channel.receive(MAX_FRAME_BYTES))
                if worker.job is None:
                    return
                worker.job.conversation.check(message)
            except (ChannelClosed, msgspec.DecodeError, ImplausibleMessage):
                return
            if isinstance(message, Done | Failed):
                self._detach(worker, message)
                self._idle.append(worker)
                self._dispatch()
            else:
                worker.job.messages.put_nowait(message)

    async def _bury(self, worker: _Worker) -> None:
        # Out of reach first: nobody may be given this worker while it is being reaped.
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        await worker.child.kill()
        self._detach(worker, None)

    async def _relaunch(self) -> _Worker:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                return await self._launch()
            except (Unavailable, OSError):
                if not self._workers:
                    self._refuse_waiting()
                await _wait_at_most(self._closing.wait(), backoff_s)
                backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)


def _last_words(child: Child) -> str:
    status = child.process.returncode or 0
    match -status:
        case signal.SIGSYS:
            return "it tried a forbidden system call: its file was an attack"
        case signal.SIGXCPU:
            return "its file took more computing time than is allowed"
        case signal.SIGKILL:
            return "it was killed: by the system for its memory, or since it did not keep to its part"
        case number if number > 0:
            return f"it died of signal {number}"
        case _:
            return f"it ended with status {status}"


def _cause(child: Child) -> str:
    status = child.process.returncode or 0
    causes: dict[int, str] = {signal.SIGSYS: "forbidden_call", signal.SIGXCPU: "cpu_time", signal.SIGKILL: "killed"}
    return causes.get(-status, "signal" if status < 0 else "exit")


async def _wait_at_most(event: Awaitable[object], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event
    except TimeoutError:
        return
