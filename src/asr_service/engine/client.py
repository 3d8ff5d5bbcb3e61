"""The asyncio side of an engine: submits windows, supervises the process, loses nothing when it dies.

Owns the life of one engine process and every window that has been given to it. Knows no torch and no HTTP. A window
is kept until its answer is in; when the engine dies, a new one is started and gets all of them again. An engine that is
stuck is killed, which makes it one that died; one that keeps dying is not relied upon for a while (`health`).
"""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asr_service.domain import ModelInfo, Priority, WindowOptions, WindowResult
from asr_service.engine.health import Circuit, Health, Patience
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
from asr_service.errors import (
    AsrError,
    DeadlineExceeded,
    EngineCrashed,
    EngineError,
    EngineNotReady,
    ModelUnavailable,
    Superseded,
)
from asr_service.ipc import Channel, ChannelClosed, Child, spawn

log = logging.getLogger("asr_service.engine.client")

_MAX_ATTEMPTS = 5
"""A window that was with the engine at this many deaths is taken for their cause."""

_MAX_DEATHS_WHILE_LOADING = 5
"""An engine that has never been ready and dies this often never will be."""

_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STALL_S = 300.0
"""An engine speaks after every step, and no step of a working one takes nearly as long as this."""

_NOT_READY_RETRY_S = 30.0
_ERRORS: dict[str, type[AsrError | Superseded]] = {
    error.code: error for error in (DeadlineExceeded, EngineError, Superseded)
}

OnStarted = Callable[[str | None], None]


@dataclass(slots=True)
class _Job:
    message: Submit
    result: "asyncio.Future[WindowResult]"
    on_started: OnStarted | None
    attempts: int = 0
    started: bool = field(default=False)

    def fail(self, error: AsrError) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class EngineClient:
    """One engine process and its restarts. Call `start` once, `aclose` at the end."""

    def __init__(
        self,
        config: EngineConfig,
        env: Mapping[str, str],
        *,
        on_stats: Callable[[Stats], None] = lambda stats: None,
        on_restart: Callable[[], None] = lambda: None,
        on_state: Callable[[str | None], None] = lambda not_ready_reason: None,
        module: str = "asr_service.engine.process",
        backoff_s: Sequence[float] = _BACKOFF_S,
        stall_s: float = _STALL_S,
        circuit: Circuit | None = None,
    ) -> None:
        """`env` is the whole environment of the process; `backoff_s` are the pauses before successive restarts.

        An engine that holds windows and says nothing for `stall_s` is killed. `on_state` gets `not_ready_reason`
        whenever it may have changed.
        """
        self._config = config
        # OpenBLAS would keep a thread for each core spinning after every product of the feature extraction, and halve
        # the speed of the model beside it.
        self._env = {**env, "OPENBLAS_NUM_THREADS": "1"}
        self._on_stats = on_stats
        self._on_restart = on_restart
        self._module = module
        self._backoff_s = backoff_s
        self._health = Health(circuit or Circuit(), on_state)
        self._patience = Patience(stall_s, self._on_stall)
        self._jobs: dict[int, _Job] = {}
        self._ids = itertools.count(1)
        self._outbox: asyncio.Queue[Submit | Cancel] | None = None
        self._deaths_in_a_row = 0
        self._model: ModelInfo | None = None
        self._failure: ModelUnavailable | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._reload_failure: str | None = None

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
        """None while the engine is up and can be relied upon, else one sentence."""
        return self._health.not_ready_reason

    @property
    def is_supervised(self) -> bool:
        """Whether an engine that dies will be replaced."""
        return self._supervisor is not None and not self._supervisor.done()

    async def start(self) -> None:
        """Start the engine and return at once; loading goes on in the background."""
        self._health.down("the model is loading")
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")

    async def wait_ready(self) -> None:
        """Return when the engine is ready. Raises ModelUnavailable when it never will be."""
        while self.not_ready_reason is not None:
            if self._failure is not None:
                raise self._failure
            await self._health.changed()

    async def aclose(self) -> None:
        """Kill the engine. What it was doing ends with EngineNotReady."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._child is not None:
            # The supervisor may have been cancelled while it was reaping this one.
            await self._child.kill()
        self._hang_up()
        self._health.down("the service is shutting down")
        self._fail_all(EngineNotReady("The service is shutting down."))

    async def transcribe(
        self,
        request_id: str,
        pcm: bytes,
        options: WindowOptions,
        *,
        on_started: OnStarted | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> WindowResult:
        """The text of one window of mono 16 kHz int16 PCM, at most 30 s.

        `on_started` is called with the language once the window has been encoded (again after a restart). Cancelling
        the call cancels the window. Raises EngineError, EngineCrashed, EngineNotReady, ModelUnavailable, and Superseded
        for a draft that a newer window of its request has made useless.
        """
        if self._failure is not None:
            raise self._failure
        if self._health.is_hopeless:
            raise self._no_engine()
        message = Submit(next(self._ids), request_id, pcm, options, priority=priority)
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
            self._outbox.put_nowait(message)
            self._patience.begin()

    async def _supervise(self) -> None:
        while self._failure is None:
            pause = self._backoff_s[min(self._deaths_in_a_row, len(self._backoff_s) - 1)]
            if pause:
                await asyncio.sleep(pause)  # noqa: TID251 - an engine that keeps dying is given time
            try:
                status = await self._live()
            except Exception:
                # Such as no memory for a process, or a message that is none. Without this task windows would wait for
                # ever, so whatever it was counts as a death.
                log.exception("the engine cannot be started, or talks nonsense")
                status = None
            if self._failure is None:
                self._on_death(status)

    async def _live(self) -> int | None:
        """Run one engine process until it dies, and reap it. Returns its exit status."""
        self._reload_failure = None
        self._child = child = await spawn(self._module, self._env)
        try:
            await self._run(child)
        finally:
            await child.kill()
        return child.process.returncode

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
                    self._health.up()
                else:
                    self._handle(message)
                self._patience.end()
                if self._outbox is not None and any(not job.result.done() for job in self._jobs.values()):
                    self._patience.begin()
        except ChannelClosed:
            return
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, channel: Channel, outbox: "asyncio.Queue[Submit | Cancel]") -> None:
        try:
            while True:
                message = await outbox.get()
                # What was cancelled before its turn came is not sent at all.
                if isinstance(message, Cancel) or message.id in self._jobs:
                    await channel.send(encode(message))
        except ChannelClosed:
            # The reading side sees the same end and deals with it.
            return

    def _handle(self, message: FromEngine) -> None:
        if isinstance(message, Stats):
            self._on_stats(message)
        elif isinstance(message, LoadFailed):
            if self._model is None:
                self._give_up(message.message)
            else:
                # It could be loaded once, so what is in the way (memory, a disk, a device) may pass.
                self._reload_failure = message.message
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
                    message.parts,
                    message.no_speech_prob,
                )
            )
        else:
            job.result.set_exception(_ERRORS.get(message.code, EngineError)(message.message))

    def _on_death(self, status: int | None) -> None:
        self._deaths_in_a_row += 1
        was_up = self._outbox is not None
        if self._model is None and self._deaths_in_a_row >= _MAX_DEATHS_WHILE_LOADING:
            self._give_up(
                f"The engine died {self._deaths_in_a_row} times while it was loading the model (last exit status "
                f"{status}): see its messages above; if there are none, it may have run out of memory."
            )
            return
        log.warning("the engine died with status %s; %d windows will be sent again", status, len(self._jobs))
        reason = "the engine died and is being restarted"
        if self._reload_failure is not None:
            reason = f"the engine died, and its model cannot be loaded again: {self._reload_failure}"
        self._hang_up()
        self._health.died(reason)
        self._on_restart()
        for job in self._jobs.values():
            # A death while loading is no window's fault.
            job.attempts += was_up
            if job.attempts >= _MAX_ATTEMPTS:
                job.fail(EngineCrashed(f"The engine died {job.attempts} times with this audio.", retry_after_s=30.0))
            elif not was_up and self._health.is_hopeless:
                job.fail(self._no_engine())

    def _on_stall(self) -> None:
        if self.pid is not None:
            log.error("the engine holds %d windows and says nothing: it is killed", len(self._jobs))
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _hang_up(self) -> None:
        """Nothing is sent to an engine, and nothing is expected of it, until the next one is ready."""
        self._outbox = None
        self._patience.end()

    def _no_engine(self) -> EngineNotReady:
        return EngineNotReady(f"Not ready: {self.not_ready_reason}.", retry_after_s=_NOT_READY_RETRY_S)

    def _give_up(self, reason: str) -> None:
        """There will be no model: everyone who waits for it is told, and nothing is started again."""
        self._failure = ModelUnavailable(reason)
        self._health.down(reason)
        self._fail_all(self._failure)

    def _fail_all(self, error: AsrError) -> None:
        for job in self._jobs.values():
            job.fail(error)
