"""How close Whisper comes to what the machine can do: the encoder to its matrix products, a decode step to its memory.

    python -m benchmarks.roofline

Operations and bytes are counted from the model's configuration, for the work that has to be done: a shortcut that the
engine finds counts in its favour, work that it repeats counts against it. The machine's limits are measured in every
round beside the work, since a shared machine is not equally fast all the time.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from asr_service.domain import WindowOptions
from asr_service.models.base import NewSequence, Runner
from asr_service.models.registry import find_checkpoint
from asr_service.settings import Settings
from benchmarks import limits, runners
from benchmarks.cli import start
from benchmarks.clips import long_recording, read_wav
from benchmarks.report import RESULTS, Table, publish
from benchmarks.stats import Spread, spread
from benchmarks.whisper_costs import Costs

_PROMPT_TOKENS = 4
_AUDIO_S = (30.0, 4.0)


@dataclass(frozen=True, slots=True)
class Round:
    """The machine's limits at that time, and how long the work took, by seconds of audio in a window."""

    bf16_flops: float
    fp32_flops: float
    read_bytes_per_s: float
    admit_s: dict[float, float]
    step_s: dict[float, float]


def main(
    batch: Annotated[int, typer.Option(help="Rows of a decode step.")] = 16,
    steps: Annotated[int, typer.Option(help="Decode steps per round.")] = 30,
    rounds: Annotated[int, typer.Option(help="How often it is repeated.")] = 5,
    runner_option: Annotated[
        list[str] | None, typer.Option(help="One of LoadOptions, as name=value; repeatable.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder that takes roofline.jsonl.")] = RESULTS,
) -> None:
    """Measure the machine's limits and the shares of them that the Whisper runner reaches."""
    further = runners.options(runner_option or [])
    runner = runners.load("whisper-base", batch, further)
    sequences = {seconds: _sequence(runner, seconds) for seconds in _AUDIO_S}
    measured = [_round(runner, sequences, batch, steps) for _ in range(rounds)]
    dtype = runner.info.dtype
    folder = find_checkpoint("whisper-base", None, Settings.load().cache_dir)
    costs = Costs(json.loads((folder / "config.json").read_text()), getattr(torch, dtype).itemsize)
    tables = [
        Table("The machine", [_machine(measured)]),
        Table(
            f"Whisper base, encoder and prefill of one window, {dtype}",
            [_encoder_row(measured, costs, seconds, dtype) for seconds in _AUDIO_S],
        ),
        Table(
            f"Whisper base, decode step of {batch} rows, {dtype}",
            [_decoder_row(measured, costs, seconds, batch, steps) for seconds in _AUDIO_S],
        ),
    ]
    publish("roofline", tables, {"batch": batch, "steps": steps, "rounds": rounds} | further, results)


def _round(runner: Runner, sequences: dict[float, NewSequence], batch: int, steps: int) -> Round:
    admit_s, step_s = {}, {}
    for seconds, sequence in sequences.items():
        admit_s[seconds] = limits.best_s(lambda s=sequence: runner.admit(0, [s]), repeat=3)  # type: ignore[misc]
        for row in range(batch):
            runner.admit(row, [sequence])
        step_s[seconds] = median(limits.once_s(lambda: runner.decode(0, batch)) for _ in range(steps))
    return Round(
        bf16_flops=limits.gemm_flops(torch.bfloat16),
        fp32_flops=limits.gemm_flops(torch.float32),
        read_bytes_per_s=limits.read_bytes_per_s(),
        admit_s=admit_s,
        step_s=step_s,
    )


def _machine(rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "bf16 GEMM, GFLOP/s": _scaled((r.bf16_flops for r in rounds), 1e-9),
        "fp32 GEMM, GFLOP/s": _scaled((r.fp32_flops for r in rounds), 1e-9),
        "memory read, GB/s": _scaled((r.read_bytes_per_s for r in rounds), 1e-9),
    }


def _encoder_row(rounds: Sequence[Round], costs: Costs, seconds: float, dtype: str) -> dict[str, Any]:
    needed = costs.admit_flops(costs.own_positions(seconds), _PROMPT_TOKENS)
    floors = [needed / (r.bf16_flops if dtype == "bfloat16" else r.fp32_flops) for r in rounds]
    return {
        "audio s": seconds,
        "ms": _scaled((r.admit_s[seconds] for r in rounds), 1000),
        "GFLOP that must be done": needed / 1e9,
        "floor, ms": _scaled(floors, 1000),
        "floor / time, %": _scaled((f / r.admit_s[seconds] for f, r in zip(floors, rounds, strict=True)), 100),
    }


def _decoder_row(rounds: Sequence[Round], costs: Costs, seconds: float, batch: int, steps: int) -> dict[str, Any]:
    own = costs.own_positions(seconds)
    needed = costs.weight_bytes + costs.cross_bytes(own, batch) + costs.self_bytes(_PROMPT_TOKENS + steps / 2, batch)
    floors = [needed / r.read_bytes_per_s for r in rounds]
    return {
        "audio s": seconds,
        "ms a step": _scaled((r.step_s[seconds] for r in rounds), 1000),
        "MB that must be read": needed / 1e6,
        "floor, ms": _scaled(floors, 1000),
        "floor / time, %": _scaled((f / r.step_s[seconds] for f, r in zip(floors, rounds, strict=True)), 100),
    }


def _scaled(figures: Iterable[float], factor: float) -> Spread:
    return spread(figure * factor for figure in figures)


def _sequence(runner: Runner, seconds: float) -> NewSequence:
    """A window with `seconds` of speech."""
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as folder:
        rate, pcm = read_wav(long_recording(Path(folder, "speech.wav"), seconds).path)
    samples = np.frombuffer(pcm, dtype="<i2")
    # Repeating samples is the simplest resampling there is, and good enough for a stopwatch.
    at_16_khz = np.repeat(samples, 16_000 // rate)[: int(seconds * 16_000)]
    return NewSequence(runner.features(at_16_khz), WindowOptions(language="en"))


if __name__ == "__main__":
    start(main)
