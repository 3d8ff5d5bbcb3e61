"""Figures of a run, and of two runs on the same recordings.

Owns which files count and how they are grouped: by language, and over all languages that share a metric. A file that
failed in a run counts in no rate; it is counted as failed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from asr_service.evaluation.bootstrap import Interval, difference_interval, rate_interval
from asr_service.evaluation.normalise import scale
from asr_service.evaluation.run import FileResult, Run
from asr_service.evaluation.score import Counts, Score

ALL = "all"


@dataclass(frozen=True, slots=True)
class Row:
    """Errors in one language, or in all that share a metric. Rates are shares (0.1 is 10 %)."""

    language: str
    metric: str
    files: int
    counts: Counts
    rate: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run. `runaways`: texts that add more than their whole reference. `rtfx`: seconds of audio per second."""

    label: str
    model: str
    device: str
    dtype: str
    files: int
    failed: int
    audio_s: float
    wall_s: float
    rtfx: float
    guards: dict[str, int]
    runaways: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The second run against the first, on the files that both have transcribed.

    `rate` is the second rate minus the first. `texts`: how many differ as they are; `normalised`: how many still do
    once normalised; `better` and `worse`: files with fewer and with more errors in the second run.
    """

    language: str
    metric: str
    files: int
    rate: float | None
    interval: Interval | None
    texts: int
    normalised: int
    better: int
    worse: int


def summarise(run: Run) -> RunSummary:
    """The figures of a run."""
    done = [file for file in run.files if file.score is not None]
    audio_s = sum(file.outcome.transcript.duration_s for file in done if file.outcome.transcript is not None)
    return RunSummary(
        label=run.label,
        model=run.model.name,
        device=run.model.device,
        dtype=run.model.dtype,
        files=len(run.files),
        failed=len(run.files) - len(done),
        audio_s=audio_s,
        wall_s=run.wall_s,
        rtfx=audio_s / run.wall_s,
        guards=dict(run.guards),
        runaways=sum(_scored(file).counts.ran_away for file in done),
        rows=tuple(_row(*group) for group in _groups(done, lambda file: file.item.language)),
    )


def compare(first: Run, second: Run) -> tuple[Difference, ...]:
    """The second run against the first, which had the same recordings in the same order."""
    pairs = [
        (a, b) for a, b in zip(first.files, second.files, strict=True) if a.score is not None and b.score is not None
    ]
    return tuple(_difference(*group) for group in _groups(pairs, lambda pair: pair[0].item.language))


_Thing = TypeVar("_Thing")


def _groups(things: Sequence[_Thing], language: Callable[[_Thing], str]) -> list[tuple[str, str, list[_Thing]]]:
    """(language, metric, things of that language), and `all` after a metric's languages where there are several."""
    by_language: dict[tuple[str, str], list[_Thing]] = {}
    for thing in things:
        by_language.setdefault((scale(language(thing)).metric, language(thing)), []).append(thing)
    groups: list[tuple[str, str, list[_Thing]]] = []
    for metric in ("WER", "CER"):
        mine = [(code, metric, members) for (kind, code), members in sorted(by_language.items()) if kind == metric]
        groups += mine
        if len(mine) > 1:
            groups.append((ALL, metric, [thing for _, _, members in mine for thing in members]))
    return groups


def _row(language: str, metric: str, files: list[FileResult]) -> Row:
    counts = [_scored(file).counts for file in files]
    total = sum(counts, Counts())
    interval = rate_interval([count.errors for count in counts], [count.units for count in counts])
    return Row(language, metric, len(files), total, total.rate, interval)


def _difference(language: str, metric: str, pairs: list[tuple[FileResult, FileResult]]) -> Difference:
    scores = [(_scored(a), _scored(b)) for a, b in pairs]
    errors = [(a.counts.errors, b.counts.errors) for a, b in scores]
    units = [a.counts.units for a, _ in scores]
    total = sum(units)
    return Difference(
        language=language,
        metric=metric,
        files=len(pairs),
        rate=sum(b - a for a, b in errors) / total if total else None,
        interval=difference_interval([a for a, _ in errors], [b for _, b in errors], units),
        texts=sum(_text(a) != _text(b) for a, b in pairs),
        normalised=sum(a.text != b.text for a, b in scores),
        better=sum(b < a for a, b in errors),
        worse=sum(b > a for a, b in errors),
    )


def _scored(file: FileResult) -> Score:
    assert file.score is not None
    return file.score


def _text(file: FileResult) -> str:
    assert file.outcome.transcript is not None
    return file.outcome.transcript.text
