"""One pass over the recordings with one engine: texts, scores, time.

Owns what is asked of the engine for each recording and what is measured. Must not know how the engine is built.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr_service.batch import Outcome, Watcher, transcribe_files
from asr_service.domain import ModelInfo, WindowOptions
from asr_service.evaluation.manifest import Item
from asr_service.evaluation.score import Score, score
from asr_service.options import parse_options
from asr_service.service import Decoder, Engine, Transcriber


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one recording. `score` is None where there is no transcript."""

    item: Item
    outcome: Outcome
    score: Score | None


@dataclass(frozen=True, slots=True)
class Run:
    """All recordings under one configuration. `guards`: how many outputs were stopped, by kind. `wall_s` is without
    the loading of the model.
    """

    label: str
    model: ModelInfo
    files: tuple[FileResult, ...]
    wall_s: float
    guards: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run: `tell_language` gives the model each recording's language, which else it has to find."""

    at_once: int
    windows_in_flight: int
    tell_language: bool = True
    prompt: str = ""


async def run(label: str, engine: Engine, decoder: Decoder, items: Sequence[Item], plan: Plan, watcher: Watcher) -> Run:
    """Transcribe `items` with an engine and a decoder that are ready, and score them. Raises InvalidOption."""
    assert engine.model is not None, "an engine that is ready has a model"
    guards: Counter[str] = Counter()
    transcriber = Transcriber(
        engine, decoder, windows_in_flight=plan.windows_in_flight, on_guard=lambda kind: guards.update((kind,))
    )
    options, warnings = _options(engine.model, items, plan)
    started = time.perf_counter()
    outcomes = transcribe_files(
        transcriber, [item.path for item in items], options, at_once=plan.at_once, watcher=watcher
    )
    async with contextlib.aclosing(outcomes):
        finished = [outcome async for outcome in outcomes]
    wall_s = time.perf_counter() - started
    files = tuple(
        FileResult(item, outcome, _score(item, outcome)) for item, outcome in zip(items, finished, strict=True)
    )
    return Run(label, engine.model, files, wall_s, dict(guards), warnings)


def _options(model: ModelInfo, items: Sequence[Item], plan: Plan) -> tuple[list[WindowOptions], tuple[str, ...]]:
    parsed = {
        language: parse_options({"language": language if plan.tell_language else "", "prompt": plan.prompt}, model)
        for language in {item.language for item in items}
    }
    warnings = sorted({warning for _, more in parsed.values() for warning in more})
    return [parsed[item.language][0] for item in items], tuple(warnings)


def _score(item: Item, outcome: Outcome) -> Score | None:
    return None if outcome.transcript is None else score(item.reference, outcome.transcript.text, item.language)
