"""The process that listens to live speech, seen from the API process: audio in, windows of speech out.

Owns the life of that process, which begins with the first stream, and what it takes to replace it: when it dies, the
next one gets the audio that is still needed and whatever was not answered, and the streams notice a delay. Knows
nothing of sessions, text or HTTP, and imports neither NumPy nor onnxruntime.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from asr_service.audio.listener_messages import (
    Close,
    Finish,
    Hear,
    Heard,
    Open,
    Ready,
    StreamSettings,
    ToListener,
)
from asr_service.audio.listener_messages import decode_from_listener as unpack
from asr_service.audio.listener_messages import encode as pack
from asr_service.domain import BYTES_PER_SAMPLE
from asr_service.errors import Unavailable
from asr_service.ipc import ChannelClosed, Child, spawn

_log = structlog.stdlib.get_logger("asr_service")

_START_TIMEOUT_S = 60.0
_BACKOFF_S = (0.0, 0.5, 1.0, 5.0)
_MAX_ATTEMPTS = 3
"""A piece of audio that was with the process at this many deaths is taken for their cause."""

_RETRY_S = 5.0


@dataclass(slots=True)
class _Question:
    """Audio that is not answered yet."""

    message: Hear | Finish
    answer: "asyncio.Future[Heard]"
    attempts: int = 0


class Listener:
    """One listening process for all streams, and its restarts. Call `aclose` at the end."""

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        on_restart: Callable[[], None] = lambda: None,
        module: str = "asr_service.audio.listener_process",
        backoff_s: Sequence[float] = _BACKOFF_S,
    ) -> None:
        """`env` is the process's whole environment: keep secrets out of it. `backoff_s`: pauses before restarts."""
        # As for decode workers: no idle threads, and no reports to the makers of onnxruntime.
        self._env = {"OPENBLAS_NUM_THREADS": "1", **env, "ORT_DISABLE_TELEMETRY": "1"}
        self._module = module
        self._on_restart = on_restart
        self._backoff_s = backoff_s
        self._numbers = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._child: Child | None = None
        self._up = False
        self._deaths_in_a_row = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process that is running, if one is."""
        return None if self._child is None else self._child.process.pid

    def stream(self, settings: StreamSettings) -> "Stream":
        """A new stream. The first one starts the process. Raises Unavailable after `aclose`."""
        if self._closed:
            raise Unavailable("The service is stopping.")
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name="listener")
        stream = Stream(self, next(self._numbers), settings)
        self._streams[stream.number] = stream
        self._say(stream.opening())
        return stream

    async def aclose(self) -> None:
        """End the process. What is not answered gets Unavailable."""
        self._closed = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._child is not None:
            await self._child.kill()
        for stream in self._streams.values():
            stream.fail(Unavailable("The service is stopping."))

    def _forget(self, stream: "Stream") -> None:
        if self._streams.pop(stream.number, None) is not None:
            self._say(Close(stream.number))

    def _say(self, message: ToListener) -> None:
        """Queue a message; while no process is up nothing is queued, since a new one is told everything anyway."""
        if self._up:
            self._outbox.put_nowait(message)

    async def _supervise(self) -> None:
        while True:
            # A process that cannot be started, or talks nonsense, counts as one that died.
            with contextlib.suppress(ChannelClosed, TimeoutError, OSError, msgspec.DecodeError):
                await self._live()
            self._on_death()
            pause = self._backoff_s[min(self._deaths_in_a_row, len(self._backoff_s)) - 1]
            if pause:
                await asyncio.sleep(pause)  # noqa: TID251 - a process that keeps dying is given time

    async def _live(self) -> None:
        """Run one process until it dies. Raises ChannelClosed then, and what goes wrong at its start."""
        self._child = child = await spawn(self._module, self._env)
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                ready = unpack(await child.channel.receive())
                if not isinstance(ready, Ready):
                    raise ChannelClosed("it does not begin with Ready")
                if ready.unfiltered is not None:
                    _log.warning("system calls of the listening process are not filtered", reason=ready.unfiltered)
            self._outbox: asyncio.Queue[ToListener] = asyncio.Queue()
            self._up = True
            for stream in self._streams.values():
                for message in stream.again():
                    self._say(message)
            writer = asyncio.create_task(self._write(child), name="listener-writer")
            while True:
                message = unpack(await child.channel.receive())
                # A stream that was closed a moment ago may still be answered.
                if isinstance(message, Heard) and (heard_by := self._streams.get(message.stream)) is not None:
                    self._deaths_in_a_row = 0
                    heard_by.answered(message)
        finally:
            self._up = False
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            await child.kill()

    async def _write(self, child: Child) -> None:
        try:
            while True:
                await child.channel.send(pack(await self._outbox.get()))
        except ChannelClosed:
            # The reading side sees the same end and deals with it.
            return

    def _on_death(self) -> None:
        self._deaths_in_a_row += 1
        status = None if self._child is None else self._child.process.returncode
        _log.warning("the listening process died", status=status, streams=len(self._streams))
        self._on_restart()
        for stream in self._streams.values():
            stream.died()


class Stream:
    """One stream of speech. Not for two tasks at once; call `close` at the end."""

    def __init__(self, listener: Listener, number: int, settings: StreamSettings) -> None:
        self.number = number
        self._listener = listener
        self._settings = settings
        self._question: _Question | None = None
        self._pcm = bytearray()
        self._first_sample = 0
        self._keep_sample = 0

    @property
    def settings(self) -> StreamSettings:
        return self._settings

    @property
    def total_samples(self) -> int:
        """How much has been heard, at 16 kHz."""
        return self._first_sample + len(self._pcm) // BYTES_PER_SAMPLE

    async def hear(self, data: bytes) -> Heard:
        """Take the next piece of audio, in whole samples. Returns when it has been listened to. Raises Unavailable."""
        return await self._ask(Hear(self.number, data))

    async def finish(self) -> Heard:
        """End the window that is open, if one is. The stream goes on. Raises Unavailable."""
        return await self._ask(Finish(self.number))

    def restart(self, settings: StreamSettings | None = None) -> None:
        """Forget what is open, and go on with other settings."""
        assert self._question is None, "a stream is for one task at a time"
        self._settings = settings or self._settings
        self._first_sample, self._keep_sample = self.total_samples, self.total_samples
        self._pcm.clear()
        self._listener._say(self.opening())

    def close(self) -> None:
        """Forget the stream."""
        self._listener._forget(self)

    def pcm(self, start_sample: int, end_sample: int) -> bytes:
        """Audio of a window that was open or ended in the last answer: mono 16 kHz int16 PCM."""
        first = BYTES_PER_SAMPLE * (start_sample - self._first_sample)
        assert first >= 0, "audio of this window is not kept any more"
        return bytes(self._pcm[first : first + BYTES_PER_SAMPLE * (end_sample - start_sample)])

    async def _ask(self, message: Hear | Finish) -> Heard:
        assert self._question is None, "a stream is for one task at a time"
        self._forget_before(self._keep_sample)
        self._question = _Question(message, asyncio.get_running_loop().create_future())
        self._listener._say(message)
        try:
            return await self._question.answer
        finally:
            self._question = None

    # what the listener says to its streams

    def opening(self) -> Open:
        """What a process has to be told of this stream."""
        # Not what lies in windows that have ended: they would end again.
        first = max(self._first_sample, self._keep_sample)
        return Open(self.number, self._settings, first, self.pcm(first, self.total_samples))

    def again(self) -> list[ToListener]:
        """All that a new process has to be told."""
        return [self.opening(), *([] if self._question is None else [self._question.message])]

    def answered(self, heard: Heard) -> None:
        self._pcm += heard.pcm
        self._keep_sample = heard.keep_sample
        if self._question is not None and not self._question.answer.done():
            self._question.answer.set_result(heard)

    def died(self) -> None:
        if self._question is not None:
            self._question.attempts += 1
            if self._question.attempts >= _MAX_ATTEMPTS:
                self.fail(Unavailable("Nobody can listen at the moment.", retry_after_s=_RETRY_S))

    def fail(self, error: Unavailable) -> None:
        if self._question is not None and not self._question.answer.done():
            self._question.answer.set_exception(error)

    def _forget_before(self, sample: int) -> None:
        stale = sample - self._first_sample
        if stale > 0:
            del self._pcm[: stale * BYTES_PER_SAMPLE]
            self._first_sample = sample
