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
from collections.abc import AsyncGenerator, Callable
from typing import IO, Protocol

from asr_service.domain import (
    BYTES_PER_SAMPLE,
    SAMPLE_RATE_HZ,
    AudioSummary,
    ModelInfo,
    Segment,
    Timings,
    Transcript,
    Window,
    WindowOptions,
    WindowResult,
    Word,
)
from asr_service.errors import EngineNotReady
from asr_service.text.formats import join

NOT_READY_RETRY_S = 5.0
"""When a caller should come back while the model loads: loading takes from a few seconds to a few minutes."""

_GUARD_SENTENCES = {
    "loop": "the model began to repeat itself",
    "budget": "the text grew longer than speech of that length can be",
}


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
    ) -> WindowResult:
        """Transcribe one window of mono 16 kHz int16 PCM. Cancelling the caller cancels the window.

        `on_started` gets the window's language as soon as it is known. Raises EngineError, EngineCrashed.
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
    ) -> None:
        """`windows_in_flight`: windows of one recording that may be in the engine at once. `on_guard` gets the kind of
        every runaway output that was stopped.
        """
        self._engine = engine
        self._decoder = decoder
        self._windows_in_flight = windows_in_flight
        self._on_guard = on_guard

    async def transcribe(
        self,
        audio: IO[bytes],
        options: WindowOptions,
        request_id: str,
        *,
        on_decoded: Callable[[AudioSummary], None] | None = None,
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
        on_decoded: Callable[[AudioSummary], None] | None = None,
    ) -> AsyncGenerator[Segment | Transcript, None]:
        """Yield each segment as soon as it and all before it are done, lastly the whole transcript.

        `on_decoded` is called once all of the recording was decoded, which is often long before its last segment.
        Raises AsrError. Closing the generator cancels what is left.
        """
        model = self._engine.model
        if model is None:
            raise EngineNotReady(
                self._engine.not_ready_reason or "the model is loading", retry_after_s=NOT_READY_RETRY_S
            )
        with tempfile.TemporaryFile(prefix="asr-pcm-") as pcm:
            job = _Job(self._engine, self._windows_in_flight, pcm.fileno(), options, request_id)
            windows = self._decoder.windows(audio.fileno(), pcm.fileno(), os.fstat(audio.fileno()).st_size)
            # A task of its own, not a TaskGroup around the yields: that would cancel whatever the consumer of this
            # generator happens to be doing when a window fails.
            work = asyncio.create_task(job.run(windows, on_decoded), name=f"transcribe {request_id}")
            try:
                while (segment := await job.segments.get()) is not None:
                    yield segment
                await work
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            for _, result in job.results:
                if result.guard is not None:
                    self._on_guard(result.guard)
            yield job.transcript(model.name)


class _Job:
    """One recording on its way through the engine."""

    def __init__(
        self, engine: Engine, windows_in_flight: int, pcm_fd: int, options: WindowOptions, request_id: str
    ) -> None:
        self.segments: asyncio.Queue[Segment | None] = asyncio.Queue()
        """Segments in order; None when there will be no more."""
        self.results: list[tuple[Window, WindowResult]] = []
        self._engine = engine
        self._slots = asyncio.Semaphore(windows_in_flight)
        self._pcm_fd = pcm_fd
        self._options = options
        self._request_id = request_id
        self._language: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting_for_turn: dict[int, tuple[Window, WindowResult]] = {}
        self._summary: AudioSummary | None = None
        self._started = time.perf_counter()
        if options.language is not None:
            self._language.set_result(options.language)

    async def run(
        self,
        windows: AsyncGenerator[Window | AudioSummary, None],
        on_decoded: Callable[[AudioSummary], None] | None,
    ) -> None:
        """Transcribe all windows. The first error cancels the rest and is raised."""
        try:
            async with asyncio.TaskGroup() as group, contextlib.aclosing(windows):
                position = 0
                async for item in windows:
                    if isinstance(item, AudioSummary):
                        self._summary = item
                        if on_decoded is not None:
                            on_decoded(item)
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
            result = await self._engine.transcribe(self._request_id, pcm, options, on_started=self._know_language)
            self._know_language(result.language)
        self._waiting_for_turn[position] = (window, result)
        while (done := self._waiting_for_turn.pop(len(self.results), None)) is not None:
            self.results.append(done)
            if done[1].text:
                self.segments.put_nowait(_segment(*done))

    def _read(self, window: Window) -> bytes:
        # At most 1 MB that was just written, so it comes from the page cache: faster than a hop to a thread.
        start = window.start_sample * BYTES_PER_SAMPLE
        size = window.end_sample * BYTES_PER_SAMPLE - start
        pcm = os.pread(self._pcm_fd, size, start)
        assert len(pcm) == size, f"a window of {size} bytes, but only {len(pcm)} were decoded"
        return pcm

    def _know_language(self, language: str | None) -> None:
        if not self._language.done():
            self._language.set_result(language)

    def transcript(self, model: str) -> Transcript:
        """The answer, once `run` has ended well."""
        assert self._summary is not None, "a decoder ends with a summary or an error"
        segments = tuple(_segment(*done) for done in self.results if done[1].text)
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
                total_ms=(time.perf_counter() - self._started) * 1000,
            ),
            warnings=(
                *self._summary.warnings,
                *(_guard_warning(*done) for done in self.results if done[1].guard),
                *(_words_warning(done[0]) for done in self.results if self._options.words and _lacks_words(done[1])),
            ),
        )


def _segment(window: Window, result: WindowResult) -> Segment:
    offset_s = window.start_sample / SAMPLE_RATE_HZ
    words = tuple(Word(offset_s + word.start_s, offset_s + word.end_s, word.text) for word in result.words)
    return Segment(window.speech.start_s, window.speech.end_s, result.text, words, result.details)


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
