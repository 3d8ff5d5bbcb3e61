"""What a human and what a machine reads of an evaluation.

Owns the tables, the JSON document and the lines per file. Computes nothing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table

from asr_service.evaluation.bootstrap import Interval
from asr_service.evaluation.run import FileResult, Run
from asr_service.evaluation.summary import Difference, RunSummary

_WIDTH = 140
_NONE = "–"


def document(runs: Sequence[RunSummary], differences: Sequence[Difference]) -> str:
    """All figures as one JSON object. Rates are shares; `comparison` is empty where there was one run."""
    return json.dumps(
        {"runs": [asdict(run) for run in runs], "comparison": [asdict(d) for d in differences]}, ensure_ascii=False
    )


def lines(run: Run) -> Iterator[str]:
    """One JSON object per recording."""
    for file in run.files:
        yield json.dumps(_line(run.label, file), ensure_ascii=False)


def tables(runs: Sequence[RunSummary], differences: Sequence[Difference], out: IO[str]) -> None:
    """The same figures to read."""
    console = Console(file=out, width=_WIDTH, highlight=False, markup=False)
    for run in runs:
        console.print(_headline(run))
        console.print(_rates(run))
    if differences:
        console.print(f"{runs[1].label} against {runs[0].label}, on the files that both have transcribed")
        console.print(_comparison(differences))


def _line(label: str, file: FileResult) -> dict[str, Any]:
    line: dict[str, Any] = {
        "run": label,
        "file": file.item.name,
        "language": file.item.language,
        "reference": file.item.reference,
    }
    transcript = file.outcome.transcript
    if transcript is None or file.score is None:
        return line | {"error": file.outcome.error}
    return line | {
        "text": transcript.text,
        "normalised": {"reference": file.score.reference, "text": file.score.text},
        **asdict(file.score.counts),
        "rate": file.score.counts.rate,
        "duration_s": transcript.duration_s,
        "transcript_language": transcript.language,
        "warnings": list(transcript.warnings),
    }


def _headline(run: RunSummary) -> str:
    stopped = ", ".join(f"{count} {kind}" for kind, count in sorted(run.guards.items())) or "0"
    return (
        f"{run.label}: {run.model}, {run.device}, {run.dtype}\n"
        f"{run.files} files ({run.failed} failed), {run.audio_s:,.1f} s of audio in {run.wall_s:,.1f} s: "
        f"RTFx {run.rtfx:.1f}; stopped by the guard: {stopped}; runaway texts: {run.runaways}"
    )


def _rates(run: RunSummary) -> Table:
    table = _table(
        "language", "metric", "files", "words or characters", "substituted", "deleted", "inserted", "rate", "95 %"
    )
    for row in run.rows:
        counts = row.counts
        table.add_row(
            row.language,
            row.metric,
            *(f"{n:,}" for n in (row.files, counts.units, counts.substitutions, counts.deletions, counts.insertions)),
            _NONE if row.rate is None else f"{row.rate:.2%}",
            _interval(row.interval, ".2%"),
        )
    return table


def _comparison(differences: Sequence[Difference]) -> Table:
    table = _table(
        "language", "metric", "files", "difference", "95 %", "better", "worse", "texts differ", "after normalising"
    )
    for row in differences:
        table.add_row(
            row.language,
            row.metric,
            f"{row.files:,}",
            _NONE if row.rate is None else f"{row.rate:+.2%}",
            _interval(row.interval, "+.2%"),
            *(f"{n:,}" for n in (row.better, row.worse, row.texts, row.normalised)),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    return table


def _interval(interval: Interval | None, style: str) -> str:
    return _NONE if interval is None else f"{interval[0]:{style}} … {interval[1]:{style}}"
