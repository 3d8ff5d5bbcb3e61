"""Several files through one engine: order, errors, progress."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from asr_service.batch import Outcome, ProgressBar, transcribe_files
from asr_service.domain import WindowOptions
from asr_service.errors import EngineError
from asr_service.service import Transcriber
from tests.fakes import FakeDecoder, FakeEngine, nothing_left_behind, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

ENGLISH = WindowOptions("en")


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


class Watch:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.known_s = 0.0
        self.done: list[float] = []

    def decoded(self, duration_s: float) -> None:
        self.known_s += duration_s

    def transcribed(self, seconds: float) -> None:
        self.done.append(seconds)


def files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{index}.wav" for index in range(count)]
    for path in paths:
        path.write_bytes(b"audio of " + path.name.encode())
    return paths


async def test_outcomes_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    engine, paths = FakeEngine(), files(tmp_path, 3)
    outcomes = transcribe_files(
        Transcriber(engine, FakeDecoder(), windows_in_flight=1), paths, ENGLISH, at_once=3, watcher=Watch()
    )
    async with contextlib.aclosing(outcomes):
        first = asyncio.ensure_future(anext(outcomes))
        calls = [await engine.next_call() for _ in range(3)]
        for index in (2, 0, 1):
            calls[index].finish(f"text {index}")

        seen = [await first, *[outcome async for outcome in outcomes]]

    assert [outcome.path for outcome in seen] == paths
    assert [outcome.transcript.text if outcome.transcript else None for outcome in seen] == [
        "text 0",
        "text 1",
        "text 2",
    ]
    assert len({call.request_id for call in calls}) == 3


async def test_a_failing_file_does_not_stop_the_others(tmp_path: Path) -> None:
    engine = FakeEngine([EngineError("The model failed."), result("fine")])
    broken, good = files(tmp_path, 2)
    paths = [tmp_path / "missing.wav", broken, good, tmp_path]
    transcriber = Transcriber(engine, FakeDecoder(), windows_in_flight=1)

    seen = [o async for o in transcribe_files(transcriber, paths, ENGLISH, at_once=1, watcher=Watch())]

    assert [outcome.error for outcome in seen] == [
        "No such file or directory.",
        "The model failed.",
        None,
        "Is a directory.",
    ]
    assert seen[2].transcript is not None


async def test_each_file_may_have_options_of_its_own(tmp_path: Path) -> None:
    engine, options = FakeEngine([result("a"), result("b")]), [ENGLISH, WindowOptions("de", "names")]
    transcriber = Transcriber(engine, FakeDecoder(), windows_in_flight=1)

    seen = [o async for o in transcribe_files(transcriber, files(tmp_path, 2), options, at_once=1, watcher=Watch())]

    assert len(seen) == 2
    assert [call.options for call in engine.calls] == options


async def test_no_more_files_at_once_than_allowed(tmp_path: Path) -> None:
    engine, decoder = FakeEngine(), FakeDecoder()
    outcomes = transcribe_files(
        Transcriber(engine, decoder, windows_in_flight=1), files(tmp_path, 5), ENGLISH, at_once=2, watcher=Watch()
    )
    seen: list[Outcome] = []

    async def collect() -> None:
        async with contextlib.aclosing(outcomes):
            seen.extend([outcome async for outcome in outcomes])

    collecting = asyncio.ensure_future(collect())
    for _ in range(5):
        call = await engine.next_call()
        assert len(engine.running) <= 2
        call.finish("x")
    await collecting

    assert len(seen) == 5


async def test_closing_early_cancels_what_is_left(tmp_path: Path) -> None:
    engine, decoder = FakeEngine(), FakeDecoder()
    outcomes = transcribe_files(
        Transcriber(engine, decoder, windows_in_flight=1), files(tmp_path, 2), ENGLISH, at_once=2, watcher=Watch()
    )
    first = asyncio.ensure_future(anext(outcomes))
    one, two = await engine.next_call(), await engine.next_call()
    one.finish("x")
    await first

    await outcomes.aclose()

    assert two.cancelled
    assert decoder.open == 0


async def test_progress_adds_up_to_the_length_of_the_files(tmp_path: Path) -> None:
    watch = Watch()
    transcriber = Transcriber(FakeEngine([result(t) for t in "abcd"]), FakeDecoder(2), windows_in_flight=1)

    async with contextlib.aclosing(
        transcribe_files(transcriber, files(tmp_path, 2), ENGLISH, at_once=1, watcher=watch)
    ) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 2

    assert watch.known_s == 4.0
    assert watch.done == pytest.approx([0.9, 1.0, 0.1, 0.9, 1.0, 0.1])


async def test_the_bar_shows_seconds_of_audio_on_a_terminal_only() -> None:
    terminal, pipe = io.StringIO(), io.StringIO()
    for stream, is_terminal in ((terminal, True), (pipe, False)):
        console = Console(file=stream, force_terminal=is_terminal, width=100, color_system=None)
        with ProgressBar(console) as bar:
            bar.begin()
            bar.decoded(12.0)
            bar.transcribed(7.0)
            with bar.aside():
                stream.write("TEXT")

    assert "7 of 12 s of audio" in terminal.getvalue()
    assert pipe.getvalue() == "TEXT"
