"""The whole path of one recording: decoded to windows of speech, transcribed window by window, joined in order.

Owns the order of windows, how many of them are in the engine at once, the language they share, and that a request
that fails or is cancelled leaves nothing running. Must not know HTTP, how audio is decoded or how a model works.
"""

import asyncio
import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import IO, Protocol

from asr_service.domain import (
    BYTES_PER_SAMPLE,
    SAMPLE_RATE_HZ,
    AudioSummary,
    ModelInfo,
    Priority,
    Segment,
    Timings,
    Transcript,
    Window,
    WindowOptions,
    WindowResult,
    Word,
)
from asr_service.errors import EngineNotReady
from asr_service.observability.traces import NO_SPAN, Span, end_decoding, end_window, stage
from asr_service.text.formats import join
from asr_service.text.words import deal

NOT_READY_RETRY_S = 5.0
"""When a caller should come back while the model loads: loading takes from a few seconds to a few minutes."""

_GUARD_SENTENCES = {
    "loop": "the model began to repeat itself",
    "budget": "the text grew longer than speech of that length can be",
}

_FIRST_LIVE_WINDOWS = 2
"""A dozen windows that begin together all end late: the engine encodes them between the first one's tokens."""


class Engine(Protocol):
    """Turns windows into text. Windows of all requests share its batches."""

    @property
    def model(self) -> ModelInfo | None:
        """What is loaded; None until it was ready for the first time."""

    @property
    def not_ready_reason(self) -> str | None:
        """None when windows are being served, else one sentence on why not."""

    async def start(self) -> None:
        """Begin to load the model, and return at once."""

    async def wait_ready(self) -> None:
        """Return when the model serves. Raises ModelUnavailable when it cannot be had."""

    async def aclose(self) -> None:
        """Stop. Windows that are still waiting fail."""

    async def transcribe(
        self,
        request_id: str,
        pcm: bytes,
        options: WindowOptions,
        *,
        on_started: Callable[[str | None], None] | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> WindowResult:
        """Transcribe one window of mono 16 kHz int16 PCM. Cancelling the caller cancels the window.

        `on_started` gets the window's language as soon as it is known. Raises EngineError, EngineCrashed, Superseded.
        """


class Decoder(Protocol):
    """Turns a file into windows of speech."""

    async def start(self) -> None:
        """Start the workers."""

    async def aclose(self) -> None:
        """Stop the workers; decoding that is under way fails."""

    def windows(self, audio_fd: int, pcm_fd: int, size_bytes: int) -> AsyncGenerator[Window | AudioSummary, None]:
        """Decode the file `audio_fd` of `size_bytes` into `pcm_fd` and yield windows into it, lastly the summary.

        Raises UnreadableAudio, AudioTooLong.
        """


class Transcriber:
    """Transcribes recordings with one engine and one decoder, any number of them at a time."""

    def __init__(
        self,
        engine: Engine,
        decoder: Decoder,
        *,
        windows_in_flight: int,
        on_guard: Callable[[str], None] = lambda kind: None,
        on_unaligned: Callable[[], None] = lambda: None,
    ) -> None:
        """`windows_in_flight`: windows of one recording that may be in the engine at once. `on_guard` gets the kind of
        every runaway output that was stopped; `on_unaligned` is called for each window whose words could not be
        aligned.
        """
        self._engine = engine
        self._decoder = decoder
        self._windows_in_flight = windows_in_flight
        self._on_guard = on_guard
        self._on_unaligned = on_unaligned
        self._jobs: set[_Job] = set()

    @property
    def oldest_wait_s(self) -> float:
        """How long that recording has been waiting which waits longest for its first token. 0 when none does."""
        now = time.perf_counter()
        return max((now - job.started for job in self._jobs if job.first_token_ms is None), default=0.0)

    async def transcribe(
        self,
        audio: IO[bytes],
        options: WindowOptions,
        request_id: str,
        *,
        on_decoded: Callable[[AudioSummary], Awaitable[None]] | None = None,
    ) -> Transcript:
        """The transcript of the open file `audio`. Raises AsrError."""
        async with contextlib.aclosing(self.stream(audio, options, request_id, on_decoded=on_decoded)) as items:
            async for item in items:
                if isinstance(item, Transcript):
                    return item
        raise AssertionError("a stream ends with a transcript or an error")

    async def stream(
        self,
        audio: IO[bytes],
        options: WindowOptions,
        request_id: str,
        *,
        live: bool = False,
        on_decoded: Callable[[AudioSummary], Awaitable[None]] | None = None,
        span: Span = NO_SPAN,
    ) -> AsyncGenerator[Segment | Transcript, None]:
        """Yield each segment as soon as it and all before it are done, lastly the whole transcript.

        `live` hurries the first segment of a long recording, at a small cost for the last: somebody is reading along.
        `on_decoded` is called once all of the recording was decoded, which is often long before its last segment;
        what it raises ends the work. `span` gets one for each stage within it.
        Raises AsrError. Closing the generator cancels what is left.
        """
        model = self._engine.model
        if model is None:
            raise EngineNotReady(
                self._engine.not_ready_reason or "the model is loading", retry_after_s=NOT_READY_RETRY_S
            )
        with tempfile.TemporaryFile(prefix="asr-pcm-") as pcm:
            job = _Job(self._engine, self._windows_in_flight, pcm.fileno(), options, request_id, live=live, span=span)
            windows = self._decoder.windows(audio.fileno(), pcm.fileno(), os.fstat(audio.fileno()).st_size)
            windows = _traced(windows, span)
            # A task of its own, not a TaskGroup around the yields: that would cancel whatever the consumer of this
            # generator happens to be doing when a window fails.
            work = asyncio.create_task(job.run(windows, on_decoded), name=f"transcribe {request_id}")
            self._jobs.add(job)
            try:
                while (segment := await job.segments.get()) is not None:
                    yield segment
                await work
            finally:
                self._jobs.remove(job)
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            for _, result in job.results:
                if result.guard is not None:
                    self._on_guard(result.guard)
                if options.words and _lacks_words(result):
                    self._on_unaligned()
            yield job.transcript(model.name)


class _Job:
    """One recording on its way through the engine."""

    def __init__(
        self,
        engine: Engine,
        windows_in_flight: int,
        pcm_fd: int,
        options: WindowOptions,
        request_id: str,
        *,
        live: bool,
        span: Span,
    ) -> None:
        self.segments: asyncio.Queue[Segment | None] = asyncio.Queue()
        """Segments in order; None when there will be no more."""
        self.results: list[tuple[Window, WindowResult]] = []
        self._engine = engine
        at_first = min(windows_in_flight, _FIRST_LIVE_WINDOWS) if live else windows_in_flight
        self._slots = asyncio.Semaphore(at_first)
        self._further_slots = windows_in_flight - at_first
        self._pcm_fd = pcm_fd
        self._options = options
        self._request_id = request_id
        self._span = span
        self._language: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting_for_turn: dict[int, tuple[Window, WindowResult]] = {}
        self._summary: AudioSummary | None = None
        self.started = time.perf_counter()
        self.first_token_ms: float | None = None
        """When a window had its first token, from the start."""
        if options.language is not None:
            self._language.set_result(options.language)

    async def run(
        self,
        windows: AsyncGenerator[Window | AudioSummary, None],
        on_decoded: Callable[[AudioSummary], Awaitable[None]] | None,
    ) -> None:
        """Transcribe all windows. The first error cancels the rest and is raised."""
        try:
            async with asyncio.TaskGroup() as group, contextlib.aclosing(windows):
                position = 0
                async for item in windows:
                    if isinstance(item, AudioSummary):
                        self._summary = item
                        if on_decoded is not None:
                            await on_decoded(item)
                        continue
                    # Each waits for its turn by itself, in order, so that the end of the decoding is known at once.
                    group.create_task(self._transcribe(position, item), name=f"window {self._request_id}/{position}")
                    position += 1
        except BaseExceptionGroup as group_error:
            raise _first_error(group_error) from None
        finally:
            self.segments.put_nowait(None)

    async def _transcribe(self, position: int, window: Window) -> None:
        async with self._slots:
            options = self._options
            if position > 0:
                options = dataclasses.replace(options, language=await self._language)
            pcm = self._read(window)
            with stage(self._span, "window", {"asr.window": position, "asr.audio_s": window.duration_s}) as span:
                result = await self._engine.transcribe(self._request_id, pcm, options, on_started=self._begun)
                end_window(span, result)
            self._begun(result.language)
        if position == 0:
            for _ in range(self._further_slots):
                self._slots.release()
        self._waiting_for_turn[position] = (window, result)
        while (done := self._waiting_for_turn.pop(len(self.results), None)) is not None:
            self.results.append(done)
            for segment in _segments(*done):
                self.segments.put_nowait(segment)

    def _read(self, window: Window) -> bytes:
        # At most 1 MB that was just written, so it comes from the page cache: faster than a hop to a thread.
        start = window.start_sample * BYTES_PER_SAMPLE
        size = window.end_sample * BYTES_PER_SAMPLE - start
        pcm = os.pread(self._pcm_fd, size, start)
        assert len(pcm) == size, f"a window of {size} bytes, but only {len(pcm)} were decoded"
        return pcm

    def _begun(self, language: str | None) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = self._elapsed_ms()
        if not self._language.done():
            self._language.set_result(language)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000

    def transcript(self, model: str) -> Transcript:
        """The answer, once `run` has ended well."""
        assert self._summary is not None, "a decoder ends with a summary or an error"
        segments = tuple(segment for done in self.results for segment in _segments(*done))
        timings = [result.timings for _, result in self.results]
        return Transcript(
            text=join(segment.text for segment in segments),
            language=self._language.result() if self._language.done() else None,
            duration_s=self._summary.duration_s,
            model=model,
            segments=segments,
            timings=Timings(
                decode_ms=self._summary.decode_ms,
                vad_ms=self._summary.vad_ms,
                queue_ms=max((t.queue_ms for t in timings), default=0.0),
                encode_ms=max((t.encode_ms for t in timings), default=0.0),
                decode_steps_ms=max((t.decode_ms for t in timings), default=0.0),
                total_ms=self._elapsed_ms(),
                align_ms=max((t.align_ms for t in timings), default=0.0),
                first_token_ms=self.first_token_ms,
            ),
            warnings=(
                *self._summary.warnings,
                *(_guard_warning(*done) for done in self.results if done[1].guard),
                *(_words_warning(done[0]) for done in self.results if self._options.words and _lacks_words(done[1])),
            ),
        )


async def _traced(
    windows: AsyncGenerator[Window | AudioSummary, None], span: Span
) -> AsyncGenerator[Window | AudioSummary, None]:
    with stage(span, "decode") as decoding:
        async with contextlib.aclosing(windows):
            async for item in windows:
                if isinstance(item, AudioSummary):
                    end_decoding(decoding, item)
                yield item


def _segments(window: Window, result: WindowResult) -> list[Segment]:
    """The text of a window, or of each of its parts where the model has cut it; none that are empty."""
    offset_s = window.start_sample / SAMPLE_RATE_HZ
    words = tuple(Word(offset_s + word.start_s, offset_s + word.end_s, word.text) for word in result.words)
    speech = window.speech
    whole = Segment(speech.start_s, speech.end_s, result.text, words, result.details, result.no_speech_prob)
    segments, first = [], 0
    for part, own in zip(result.parts, deal(words, [part.text for part in result.parts]), strict=True):
        tokens = result.details[first : first + part.tokens]
        times = offset_s + part.start_s, offset_s + part.end_s
        segments.append(Segment(*times, part.text, own, tokens, result.no_speech_prob))
        first += part.tokens
    return [segment for segment in segments or [whole] if segment.text]


def _guard_warning(window: Window, result: WindowResult) -> str:
    reason = _GUARD_SENTENCES.get(result.guard or "", "its output ran away")
    return f"The text between {window.speech.start_s:.1f} s and {window.speech.end_s:.1f} s was cut off: {reason}."


def _lacks_words(result: WindowResult) -> bool:
    return bool(result.text) and not result.words


def _words_warning(window: Window) -> str:
    return f"The words between {window.speech.start_s:.1f} s and {window.speech.end_s:.1f} s could not be aligned."


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_error(first) if isinstance(first, BaseExceptionGroup) else first
