"""An evaluation from the manifest to the printed figures.

Owns the order of things: what is checked before anything is transcribed, one run after the other, then the report.
Whoever calls says how an engine and a decoder are started.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from asr_service.batch import ProgressBar
from asr_service.evaluation import EvaluationError, hub, manifest, report, require
from asr_service.evaluation.manifest import Item
from asr_service.evaluation.run import Plan, Run, run
from asr_service.evaluation.summary import compare, summarise
from asr_service.service import Decoder, Engine


@dataclass(frozen=True, slots=True)
class Recordings:
    """What to evaluate: a manifest's path or a dataset (`hf:…`), and the language of what names none."""

    source: str
    language: str = ""
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to run: `start` yields an engine and a decoder that are ready, and stops them at its end."""

    label: str
    start: Callable[[ProgressBar], AbstractAsyncContextManager[tuple[Engine, Decoder]]]
    plan: Plan


def evaluate(
    recordings: Recordings,
    configurations: Sequence[Configuration],
    out: IO[str],
    *,
    output: Path | None = None,
    as_json: bool = False,
) -> int:
    """Run one configuration, or two to compare, and write the report to `out`, lines per recording to `output`.

    Returns how many recordings failed. Raises EvaluationError, and what starting an engine raises.
    """
    require()
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_writable(output)) if output is not None else None
        items = _items(recordings, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asr-evaluate-"))))
        runs = [asyncio.run(_run(configuration, items)) for configuration in configurations]
        if lines is not None:
            lines.writelines(f"{line}\n" for done in runs for line in report.lines(done))
    summaries = [summarise(done) for done in runs]
    differences = compare(*runs) if len(runs) == 2 else ()
    if as_json:
        out.write(report.document(summaries, differences) + "\n")
    else:
        report.tables(summaries, differences, out)
    return sum(summary.failed for summary in summaries)


def assignments(given: str) -> dict[str, str]:
    """NAME=VALUE[,NAME=VALUE] as names and values. Raises ValueError."""
    pairs = [pair.partition("=") for pair in given.split(",")]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise ValueError(f"{given!r} should be NAME=VALUE[,NAME=VALUE], for example ASR_ENCODER=exact.")
    return {name.strip(): value.strip() for name, _, value in pairs}


async def _run(configuration: Configuration, items: Sequence[Item]) -> Run:
    with ProgressBar() as bar:
        async with configuration.start(bar) as (engine, decoder):
            return await run(configuration.label, engine, decoder, items, configuration.plan, bar)


def _items(recordings: Recordings, folder: Path) -> list[Item]:
    if recordings.source.startswith(hub.PREFIX):
        return hub.fetch(hub.parse(recordings.source), folder, recordings.language, recordings.limit)
    return manifest.read(Path(recordings.source), recordings.language, recordings.limit)


def _writable(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}.") from None
