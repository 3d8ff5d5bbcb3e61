"""The asyncio side of an engine: submits windows, supervises the process, loses nothing when it dies.

Owns the life of one engine process and every window that has been given to it. Knows no torch and no HTTP. A window
is kept until its answer is in; when the engine dies, a new one is started and gets all of them again.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asr_service.domain import ModelInfo, WindowOptions, WindowResult
from asr_service.engine.messages import (
    Cancel,
    EngineConfig,
    Failed,
    Finished,
    FromEngine,
    LoadFailed,
    Ready,
    Started,
    Stats,
    Submit,
    decode_from_engine,
    encode,
)
from asr_service.errors import AsrError, DeadlineExceeded, EngineCrashed, EngineError, EngineNotReady, ModelUnavailable
from asr_service.ipc import Channel, ChannelClosed, Child, spawn

log = logging.getLogger("asr_service.engine.client")

_MAX_ATTEMPTS = 5
"""A window that was with the engine at this many deaths is taken for their cause."""

_MAX_DEATHS_WHILE_LOADING = 5
"""An engine that has never been ready and dies this often never will be."""

_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ERRORS: dict[str, type[AsrError]] = {error.code: error for error in (DeadlineExceeded, EngineError)}

OnStarted = Callable[[str | None], None]


@dataclass(slots=True)
class _Job:
    message: Submit
    result: "asyncio.Future[WindowResult]"
    on_started: OnStarted | None
    attempts: int = 0
    started: bool = field(default=False)


class EngineClient:
    """One engine process and its restarts. Call `start` once, `aclose` at the end."""

    def __init__(
        self,
        config: EngineConfig,
        env: Mapping[str, str],
        *,
        on_stats: Callable[[Stats], None] = lambda stats: None,
        on_restart: Callable[[], None] = lambda: None,
        module: str = "asr_service.engine.process",
        backoff_s: Sequence[float] = _BACKOFF_S,
    ) -> None:
        """`env` is the whole environment of the process; `backoff_s` are the pauses before successive restarts."""
        self._config = config
        # OpenBLAS would keep a thread for each core spinning after every product of the feature extraction, and halve
        # the speed of the model beside it.
        self._env = {**env, "OPENBLAS_NUM_THREADS": "1"}
        self._on_stats = on_stats
        self._on_restart = on_restart
        self._module = module
        self._backoff_s = backoff_s
        self._jobs: dict[int, _Job] = {}
        self._ids = itertools.count(1)
        self._outbox: asyncio.Queue[bytes] | None = None
        self._deaths_in_a_row = 0
        self._model: ModelInfo | None = None
        self._not_ready: str | None = "the engine has not been started"
        self._failure: ModelUnavailable | None = None
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._child: Child | None = None

    @property
    def model(self) -> ModelInfo | None:
        """What is served; None until the engine has been ready once."""
        return self._model

    @property
    def pid(self) -> int | None:
        """The process that is running, if one is."""
        return None if self._child is None or self._child.process.returncode is not None else self._child.process.pid

    @property
    def not_ready_reason(self) -> str | None:
        """None while the engine is up and can work, else one sentence."""
        return self._not_ready

    async def start(self) -> None:
        """Start the engine and return at once; loading goes on in the background."""
        self._set_state("the model is loading")
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")

    async def wait_ready(self) -> None:
        """Return when the engine is ready. Raises ModelUnavailable when it never will be."""
        while self._not_ready is not None:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Kill the engine. What it was doing ends with EngineNotReady."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._child is not None:
            # The supervisor may have been cancelled while it was reaping this one.
            await self._child.kill()
        self._set_state("the service is shutting down")
        self._fail_all(EngineNotReady("The service is shutting down."))

    async def transcribe(
        self, request_id: str, pcm: bytes, options: WindowOptions, *, on_started: OnStarted | None = None
    ) -> WindowResult:
        """The text of one window of mono 16 kHz int16 PCM, at most 30 s.

        `on_started` is called with the language once the window has been encoded (again after a restart). Cancelling
        the call cancels the window. Raises EngineError, EngineCrashed, EngineNotReady, ModelUnavailable.
        """
        if self._failure is not None:
            raise self._failure
        message = Submit(next(self._ids), request_id, pcm, options)
        job = _Job(message, asyncio.get_running_loop().create_future(), on_started)
        self._jobs[message.id] = job
        self._post(message)
        try:
            return await job.result
        except asyncio.CancelledError:
            self._post(Cancel(message.id))
            raise
        finally:
            del self._jobs[message.id]

    def _post(self, message: Submit | Cancel) -> None:
        """Queue a message for the engine. While none is up nothing is queued: a new engine gets all jobs anyway."""
        if self._outbox is not None:
            self._outbox.put_nowait(encode(message))

    async def _supervise(self) -> None:
        while self._failure is None:
            pause = self._backoff_s[min(self._deaths_in_a_row, len(self._backoff_s) - 1)]
            if pause:
                await asyncio.sleep(pause)  # noqa: TID251 - an engine that keeps dying is given time
            self._child = child = await spawn(self._module, self._env)
            try:
                await self._run(child)
            finally:
                self._outbox = None
                await child.kill()
            if self._failure is None:
                self._on_death(child.process.returncode)

    async def _run(self, child: Child) -> None:
        """Talk to one engine process until it dies."""
        writer: asyncio.Task[None] | None = None
        try:
            await child.channel.send(encode(self._config))
            while True:
                message = decode_from_engine(await child.channel.receive())
                if isinstance(message, Ready):
                    self._outbox = asyncio.Queue()
                    for job in list(self._jobs.values()):
                        self._post(job.message)
                    writer = asyncio.create_task(self._write(child.channel, self._outbox), name="engine-writer")
                    self._model = message.model
                    self._set_state(None)
                else:
                    self._handle(message)
        except ChannelClosed:
            return
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, channel: Channel, outbox: "asyncio.Queue[bytes]") -> None:
        try:
            while True:
                await channel.send(await outbox.get())
        except ChannelClosed:
            # The reading side sees the same end and deals with it.
            return

    def _handle(self, message: FromEngine) -> None:
        if isinstance(message, Stats):
            self._on_stats(message)
        elif isinstance(message, LoadFailed):
            self._give_up(message.message)
        elif isinstance(message, Started | Finished | Failed):
            job = self._jobs.get(message.id)
            # A job that was cancelled a moment ago may still be answered.
            if job is not None and not job.result.done():
                self._answer(job, message)

    def _answer(self, job: _Job, message: Started | Finished | Failed) -> None:
        if isinstance(message, Started):
            job.started = True
            if job.on_started is not None:
                job.on_started(message.language)
        elif isinstance(message, Finished):
            self._deaths_in_a_row = 0
            job.result.set_result(
                WindowResult(
                    message.text,
                    message.language,
                    message.tokens,
                    message.timings,
                    message.guard,
                    message.words,
                    message.details,
                )
            )
        else:
            job.result.set_exception(_ERRORS.get(message.code, EngineError)(message.message))

    def _on_death(self, status: int | None) -> None:
        self._deaths_in_a_row += 1
        if self._model is None and self._deaths_in_a_row >= _MAX_DEATHS_WHILE_LOADING:
            self._give_up(
                f"The engine died {self._deaths_in_a_row} times while it was loading the model (last exit status "
                f"{status}): see its messages above; if there are none, it may have run out of memory."
            )
            return
        log.warning("the engine died with status %s; %d windows will be sent again", status, len(self._jobs))
        self._set_state("the engine died and is being restarted")
        self._on_restart()
        for job in self._jobs.values():
            job.attempts += 1
            if job.attempts >= _MAX_ATTEMPTS and not job.result.done():
                job.result.set_exception(
                    EngineCrashed(f"The engine died {job.attempts} times with this audio.", retry_after_s=30.0)
                )

    def _give_up(self, reason: str) -> None:
        """There will be no model: everyone who waits for it is told, and nothing is started again."""
        self._failure = ModelUnavailable(reason)
        self._set_state(reason)
        self._fail_all(self._failure)

    def _set_state(self, not_ready_reason: str | None) -> None:
        self._not_ready = not_ready_reason
        self._changed.set()

    def _fail_all(self, error: AsrError) -> None:
        for job in self._jobs.values():
            if not job.result.done():
                job.result.set_exception(error)
