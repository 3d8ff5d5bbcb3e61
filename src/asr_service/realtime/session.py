"""One live session: pieces of audio in, utterances with growing text out.

Owns which windows are transcribed when, as drafts and for good, and that every utterance ends exactly once. Must not
know HTTP or the wire format, how speech is detected, or how windows are batched.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog

from asr_service.audio.listener_messages import Ended, Heard, StreamSettings
from asr_service.domain import SAMPLE_RATE_HZ, OpenWindow, Priority, Window, WindowOptions, WindowResult
from asr_service.errors import AsrError, EngineError, Overloaded, Superseded
from asr_service.realtime.events import (
    Committed,
    Completed,
    Event,
    Failed,
    Partial,
    SegmentDone,
    Settled,
    SpeechStarted,
    SpeechStopped,
)
from asr_service.realtime.pace import Pace
from asr_service.realtime.surroundings import Stream, Watcher
from asr_service.realtime.utterance import Piece, Utterance
from asr_service.service import Engine

_log = structlog.stdlib.get_logger("asr_service")

_MAX_PENDING_WINDOWS = 4
"""A client that is faster than the engine has so many windows ahead of their text, and then has to wait …"""
_RETRY_S = 10.0
_LONGEST_WAIT_S = 15.0
"""… but not longer than this: clients whose pings are not read for 20 s take the service for dead."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """A transcription that is under way: of a piece, as far as `end_sample`."""

    piece: Piece
    end_sample: int
    priority: Priority
    asked_s: float
    started: bool = False
    task: "asyncio.Task[None]" = field(init=False)

    @property
    def is_final(self) -> bool:
        """Whether it is of the whole window, now that this has ended."""
        return self.piece.window is not None and self.piece.window.end_sample == self.end_sample


class Session:
    """Audio goes in by `hear`, one call at a time; events come out by `emit`, at any time. Call `aclose` at the end."""

    def __init__(
        self,
        session_id: str,
        engine: Engine,
        stream: Stream,
        options: WindowOptions,
        emit: Callable[[Event], None],
        *,
        watcher: Watcher | None = None,
        longest_wait_s: float = _LONGEST_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`options`: how windows are transcribed; `words` counts for final texts only. `longest_wait_s`: how long
        `hear` may wait for texts.
        """
        self.options = options
        self._id = session_id
        self._engine = engine
        self._stream = stream
        self._emit = emit
        self._watcher = watcher or Watcher()
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._numbers = itertools.count(1)
        self._utterance: Utterance | None = None
        self._piece: Piece | None = None
        self._previous: str | None = None
        self._committed = 0
        self._partial: Partial | None = None
        self._attempts: set[_Attempt] = set()
        self._closing: set[Utterance] = set()
        self._pace = Pace()
        self._changed = asyncio.Event()
        self._listening: list[asyncio.Task[None]] = []

    @property
    def stream_settings(self) -> StreamSettings:
        return self._stream.settings

    @property
    def audio_s(self) -> float:
        """Seconds of audio that were heard."""
        return self._stream.total_samples / SAMPLE_RATE_HZ

    @property
    def utterances(self) -> int:
        """How many were committed."""
        return self._committed

    async def hear(self, audio: bytes) -> None:
        """Take a piece of audio, in whole samples. Waits while too much of it has no text yet.

        Raises Unavailable, and Overloaded when that takes too long.
        """
        await self._listen(lambda: self._stream.hear(audio))
        try:
            async with asyncio.timeout(self._longest_wait_s):
                while self._pending() > _MAX_PENDING_WINDOWS:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Overloaded("The service cannot keep up with this session.", retry_after_s=_RETRY_S) from None

    async def commit(self) -> bool:
        """End the utterance that is open. False if there is none. Raises Unavailable."""
        before = self._committed
        await self._listen(self._stream.finish)
        if self._utterance is not None:
            self._close(self._utterance)
        return self._committed > before

    async def clear(self) -> None:
        """Forget the utterance that is open, as if it had not been said."""
        if self._utterance is not None:
            for attempt in [a for a in self._attempts if a.piece in self._utterance.pieces]:
                attempt.task.cancel()
            self._utterance, self._piece = None, None
        self._stream.restart()

    async def change(self, settings: StreamSettings) -> None:
        """Go on with other settings; the utterance that is open ends first. Raises Unavailable."""
        if settings != self._stream.settings:
            await self.commit()
            self._stream.restart(settings)

    async def finish(self) -> None:
        """Commit what is open, and return when every utterance has ended. Raises Unavailable."""
        await self.commit()
        while self._closing:
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Stop whatever is under way, and tell nothing more."""
        self._emit = _nothing
        tasks = [*self._listening, *(attempt.task for attempt in self._attempts)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._stream.close()

    # from audio to utterances

    async def _listen(self, ask: Callable[[], Awaitable[Heard]]) -> None:
        """Take what the listener answers, even when whoever waits here is cancelled: nothing that was said is lost."""
        before = [task for task in self._listening if not task.done()]
        task = asyncio.create_task(self._listen_after(before, ask))
        self._listening = [*before, task]
        await asyncio.shield(task)

    async def _listen_after(self, before: list["asyncio.Task[None]"], ask: Callable[[], Awaitable[Heard]]) -> None:
        if before:
            await asyncio.wait(before)
        self._take(await ask())

    def _take(self, heard: Heard) -> None:
        for ended in heard.ended:
            self._end(ended)
        if heard.open is not None:
            piece = self._piece_at(heard.open.start_sample)
            self._consider(piece, heard.open)

    def _piece_at(self, start_sample: int) -> Piece:
        """The piece that is open, or a new one, of a new utterance if need be."""
        if self._utterance is None:
            self._utterance = Utterance(f"item_{self._id}_{next(self._numbers)}")
            if self._stream.settings.silence_s is not None:
                self._utterance.announced = True
                self._emit(SpeechStarted(self._utterance.id, start_sample))
        if self._piece is None:
            self._piece = Piece(start_sample)
            self._utterance.pieces.append(self._piece)
        return self._piece

    def _end(self, ended: Ended) -> None:
        piece = self._piece_at(ended.window.start_sample)
        utterance = self._utterance
        assert utterance is not None, "a piece is of an utterance"
        self._piece, piece.window, piece.ended_s = None, ended.window, self._clock()
        if not ended.goes_on and self._stream.settings.silence_s is not None:
            self._close(utterance)
        self._finalise(utterance, piece, ended.window)

    def _close(self, utterance: Utterance) -> None:
        utterance.closed = True
        self._utterance, self._piece = None, None
        self._closing.add(utterance)
        if utterance.announced:
            last = utterance.pieces[-1].window
            assert last is not None, "the windows of a closed utterance have ended"
            self._emit(SpeechStopped(utterance.id, last.end_sample))
        utterance.announced = True
        self._emit(Committed(utterance.id, self._previous))
        self._previous = utterance.id
        self._committed += 1
        self._tell(utterance)

    # from utterances to text

    def _consider(self, piece: Piece, window: OpenWindow) -> None:
        """Transcribe a window that is open, if it is time for that."""
        utterance = self._utterance
        assert utterance is not None, "a piece is of an utterance"
        if utterance.error is not None:
            return
        own = [attempt for attempt in self._attempts if attempt.piece is piece]
        if window.end_sample in (piece.heard_sample, *(attempt.end_sample for attempt in own)):
            return
        if window.quiet:
            # As it will be for good if the silence lasts.
            for attempt in own:
                attempt.task.cancel()
            self._attempt(utterance, piece, window.end_sample, Priority.FINAL)
        elif window.speaking and all(not attempt.started and attempt.priority is Priority.DRAFT for attempt in own):
            length_s = (window.end_sample - piece.start_sample) / SAMPLE_RATE_HZ
            new_s = (window.end_sample - max(piece.heard_sample, piece.start_sample)) / SAMPLE_RATE_HZ
            if self._pace.is_due(self._clock(), length_s, new_s):
                self._attempt(utterance, piece, window.end_sample, Priority.DRAFT)

    def _finalise(self, utterance: Utterance, piece: Piece, window: Window) -> None:
        if utterance.error is not None:
            return
        own = [attempt for attempt in self._attempts if attempt.piece is piece]
        for attempt in own:
            if attempt.end_sample != window.end_sample or attempt.priority is not Priority.FINAL:
                attempt.task.cancel()
        newest = piece.newest if piece.heard_sample == window.end_sample else None
        if newest is not None and newest.guard is None and (newest.words or not self.options.words):
            self._finish(utterance, piece, newest, self._clock())
        elif not any(a.end_sample == window.end_sample and a.priority is Priority.FINAL for a in own):
            self._attempt(utterance, piece, window.end_sample, Priority.FINAL)

    def _attempt(self, utterance: Utterance, piece: Piece, end_sample: int, priority: Priority) -> None:
        now = self._clock()
        attempt = _Attempt(piece, end_sample, priority, now)
        options = replace(
            self.options,
            language=self.options.language or utterance.language,
            words=self.options.words and priority is Priority.FINAL,
            prefix=piece.text.settled,
            guess=piece.text.unsettled,
        )
        pcm = self._stream.pcm(piece.start_sample, end_sample)
        if priority is Priority.DRAFT:
            self._pace.asked(now)
        attempt.task = asyncio.create_task(self._transcribe(utterance, attempt, pcm, options), name=f"live {self._id}")
        self._attempts.add(attempt)

    async def _transcribe(self, utterance: Utterance, attempt: _Attempt, pcm: bytes, options: WindowOptions) -> None:
        def started(language: str | None) -> None:
            attempt.started = True

        try:
            result = await self._engine.transcribe(
                self._id, pcm, options, on_started=started, priority=attempt.priority
            )
            self._answered(utterance, attempt, result)
        except Superseded:
            self._watcher.draft("superseded")
        except asyncio.CancelledError:
            if attempt.priority is Priority.DRAFT:
                self._watcher.draft("dropped")
            raise
        except AsrError as error:
            # One that fails before its window has ended is no loss: whether the window does, the final one will tell.
            if attempt.is_final:
                self._fail(utterance, error)
        except Exception:  # noqa: BLE001 - logged, and nobody waits for a text that will not come
            _log.exception("unexpected error")
            self._fail(utterance, EngineError("Something went wrong inside the service."))
        finally:
            self._attempts.discard(attempt)
            self._changed.set()

    def _answered(self, utterance: Utterance, attempt: _Attempt, result: WindowResult) -> None:
        piece, now = attempt.piece, self._clock()
        if attempt.priority is Priority.DRAFT:
            self._pace.answered(now - attempt.asked_s)
            self._watcher.draft("used")
            self._watcher.age((self._stream.total_samples - attempt.end_sample) / SAMPLE_RATE_HZ)
        if attempt.is_final:
            self._finish(utterance, piece, result, now)
            return
        piece.take(attempt.end_sample, result)
        if piece.text.settled:
            # From here on it goes on in the language that its words are in.
            utterance.language = result.language
        self._tell(utterance)

    def _finish(self, utterance: Utterance, piece: Piece, result: WindowResult, now: float) -> None:
        piece.finish(result)
        utterance.language = result.language or utterance.language
        self._watcher.final(now - piece.ended_s)
        self._tell(utterance)

    def _fail(self, utterance: Utterance, error: AsrError) -> None:
        utterance.error = utterance.error or error
        for attempt in [a for a in self._attempts if a.piece in utterance.pieces]:
            if attempt.task is not asyncio.current_task():
                attempt.task.cancel()
        self._tell(utterance)

    def _tell(self, utterance: Utterance) -> None:
        """Tell the client what it does not know of the text of an utterance, and the end of it."""
        if not utterance.announced:
            return
        if utterance.error is not None:
            if utterance.closed:
                self._conclude(utterance, Failed(utterance.id, utterance.error))
            return
        settled = utterance.settled
        if settled != utterance.told:
            self._emit(Settled(utterance.id, settled[len(utterance.told) :]))
            utterance.told = settled
        for number, piece in enumerate(utterance.final_pieces[utterance.segments_told :], utterance.segments_told):
            if piece.text.settled:
                self._emit(SegmentDone(utterance.id, number, piece.segment))
            utterance.segments_told += 1
        if not utterance.done:
            partial = Partial(utterance.id, settled, utterance.unsettled, utterance.heard_sample)
            if partial != self._partial:
                self._emit(partial)
                self._partial = partial
            return
        segments = tuple(piece.segment for piece in utterance.pieces if piece.text.settled)
        self._conclude(utterance, Completed(utterance.id, settled, utterance.language, segments, utterance.audio_s))

    def _conclude(self, utterance: Utterance, event: Completed | Failed) -> None:
        if utterance in self._closing:
            self._closing.remove(utterance)
            self._emit(event)
        self._changed.set()

    def _pending(self) -> int:
        return sum(attempt.piece.window is not None for attempt in self._attempts)


def _nothing(event: Event) -> None:
    """Who has left is told nothing."""
