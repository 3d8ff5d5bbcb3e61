"""Several files through one engine, without a server: what `asr-service transcribe` and `evaluate` do.

Owns how many files run at once, the order of outcomes, and the progress bar. Must not know how the parts are built.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from asr_service.domain import AudioSummary, Transcript, WindowOptions
from asr_service.errors import AsrError
from asr_service.service import Transcriber


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one file ended: with a transcript, or with a sentence on why there is none."""

    path: Path
    request_id: str
    transcript: Transcript | None = None
    error: str | None = None


class Watcher(Protocol):
    """Follows the work, in seconds of audio."""

    def decoded(self, duration_s: float) -> None:
        """A file turned out to be this long."""

    def transcribed(self, seconds: float) -> None:
        """This much more is done."""


async def transcribe_files(
    transcriber: Transcriber,
    files: Sequence[Path],
    options: WindowOptions | Sequence[WindowOptions],
    *,
    at_once: int,
    watcher: Watcher,
) -> AsyncGenerator[Outcome, None]:
    """Transcribe `files`, at most `at_once` at a time, and yield their outcomes in the order of `files`.

    `options` are the same for all, or one for each. A file that fails does not stop the others. Closing the generator
    cancels what is left.
    """
    places = asyncio.Semaphore(at_once)
    each = [options] * len(files) if isinstance(options, WindowOptions) else options
    tasks = [
        asyncio.create_task(_outcome(transcriber, path, own, places, watcher))
        for path, own in zip(files, each, strict=True)
    ]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _outcome(
    transcriber: Transcriber, path: Path, options: WindowOptions, places: asyncio.Semaphore, watcher: Watcher
) -> Outcome:
    request_id = uuid.uuid4().hex
    async with places:
        try:
            transcript = await _transcribe(transcriber, path, options, request_id, watcher)
        except AsrError as error:
            return Outcome(path, request_id, error=error.message)
        except OSError as error:
            return Outcome(path, request_id, error=f"{error.strerror or error}.")
    return Outcome(path, request_id, transcript)


async def _transcribe(
    transcriber: Transcriber, path: Path, options: WindowOptions, request_id: str, watcher: Watcher
) -> Transcript:
    done_s = 0.0

    async def decoded(summary: AudioSummary) -> None:
        watcher.decoded(summary.duration_s)

    with path.open("rb") as audio:
        items = transcriber.stream(audio, options, request_id, on_decoded=decoded)
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, Transcript):
                    watcher.transcribed(item.duration_s - done_s)
                    return item
                watcher.transcribed(item.end_s - done_s)
                done_s = item.end_s
    raise AssertionError("a stream ends with a transcript or an error")


class ProgressBar:
    """Seconds of audio done and known so far, on stderr when that is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        # Without redirection: rich would send what is printed to stdout to the console, which is stderr.
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s of audio"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("loading the model", total=0.0)
        self._known_s = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something is printed."""
        self._progress.stop()
        yield
        self._progress.start()

    def begin(self) -> None:
        """The model is loaded."""
        self._progress.update(self._task, description="transcribing")

    def decoded(self, duration_s: float) -> None:
        self._known_s += duration_s
        self._progress.update(self._task, total=self._known_s)

    def transcribed(self, seconds: float) -> None:
        self._progress.update(self._task, advance=seconds)
