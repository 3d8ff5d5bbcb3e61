"""Word times are delivered with the text of those windows that ask for them, and never cost a window its text."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from asr_service.domain import Task, WindowOptions, Word
from asr_service.engine.core import EngineCore
from asr_service.engine.messages import Failed, Finished, FromEngine, Submit
from asr_service.models.base import Features
from tests.unit.engine.scripted import STOP, ScriptedRunner, features

WITH_WORDS = WindowOptions(words=True)


@dataclass
class ScriptedAligner:
    """Gives each word of a text one second, starting with its row; raises `error` where there is one."""

    shared: bool = True
    memory_bytes: int = 0
    error: Exception | None = None
    asked: list[tuple[int, float, str, str | None, Task]] = field(default_factory=list)

    def features(self, pcm: NDArray[np.int16]) -> Features:
        raise NotImplementedError("the core is given features")

    def words(
        self, row: int, features: Features, text: str, language: str | None, task: Task = "transcribe"
    ) -> tuple[Word, ...]:
        self.asked.append((row, features.duration_s, text, language, task))
        if self.error is not None:
            raise self.error
        return tuple(Word(row + i, row + i + 1.0, word) for i, word in enumerate(text.split()))


def run(
    aligner: ScriptedAligner | None,
    *windows: tuple[WindowOptions, Features, Features | None],
    clock: Callable[[], float] = lambda: 0.0,
) -> list[FromEngine]:
    """Run windows to their ends; a window's duration is also what it says, as many times as it has tokens."""
    runner = ScriptedRunner({f.duration_s: [int(f.duration_s)] * int(f.duration_s) + [STOP] for _, f, _ in windows})
    sent: list[FromEngine] = []
    core = EngineCore(
        runner,
        sent.append,
        clock,
        max_step_frames=1_000,
        aligner=aligner,
        is_fatal=lambda error: isinstance(error, SystemError),
    )
    for i, (options, window, own) in enumerate(windows):
        core.submit(Submit(i, "r", b"", options), window, own)
    while not core.idle:
        core.step()
    return sent


def finished(sent: list[FromEngine]) -> dict[int, Finished]:
    assert not [message for message in sent if isinstance(message, Failed)]
    return {message.id: message for message in sent if isinstance(message, Finished)}


def test_those_who_ask_get_words_from_the_row_that_holds_their_window() -> None:
    aligner = ScriptedAligner()
    ends = finished(
        run(
            aligner,
            (WITH_WORDS, features(1.0), None),
            (WindowOptions("de"), features(2.0), None),
            (WindowOptions("de", task="translate", words=True), features(3.0), None),
        )
    )
    assert ends[0].words == (Word(0, 1, "1"),)
    assert ends[1].words == ()
    # The last row moves to where the first one was when that one leaves.
    assert aligner.asked == [(0, 1.0, "1", "en", "transcribe"), (0, 3.0, "3 3 3", "de", "translate")]
    assert [word.text for word in ends[2].words] == ["3", "3", "3"]


def test_finding_words_has_a_time_of_its_own() -> None:
    """The clock goes on by a second whenever it is read, so any stage takes some."""
    ticks = itertools.count()
    windows = ((WITH_WORDS, features(1.0), None), (WindowOptions(), features(2.0), None))
    ends = finished(run(ScriptedAligner(), *windows, clock=lambda: float(next(ticks))))
    assert ends[0].timings.align_ms == 1000.0
    assert ends[1].timings.align_ms == 0.0


def test_an_aligner_with_features_of_its_own_gets_those() -> None:
    aligner = ScriptedAligner(shared=False)
    finished(run(aligner, (WITH_WORDS, features(1.0), features(9.0))))
    assert [duration_s for _, duration_s, *_ in aligner.asked] == [9.0]


def test_an_aligner_that_fails_leaves_the_text(caplog: pytest.LogCaptureFixture) -> None:
    ends = finished(run(ScriptedAligner(error=ValueError("no heads")), (WITH_WORDS, features(2.0), None)))
    assert (ends[0].text, ends[0].words) == ("2 2", ())
    assert "ValueError: no heads" in caplog.text


def test_a_fatal_error_is_not_kept() -> None:
    with pytest.raises(SystemError):
        run(ScriptedAligner(error=SystemError()), (WITH_WORDS, features(2.0), None))


def test_without_an_aligner_there_are_no_words() -> None:
    assert finished(run(None, (WITH_WORDS, features(2.0), None)))[0].words == ()
