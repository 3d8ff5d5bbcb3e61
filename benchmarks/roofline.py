"""How close Whisper comes to what the machine can do: the encoder to its matrix products, a decode step to its memory.

    python -m benchmarks.roofline

Operations and bytes are counted from the model's configuration, for the work that has to be done: a shortcut that the
engine finds counts in its favour, work that it repeats counts against it.
"""

import json
import tempfile
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
from benchmarks.whisper_costs import Costs

_PROMPT_TOKENS = 4


def main(
    batch: Annotated[int, typer.Option(help="Rows of a decode step.")] = 16,
    steps: Annotated[int, typer.Option(help="Decode steps to time.")] = 30,
    repeat: Annotated[int, typer.Option(help="Encoder runs to time.")] = 5,
    runner_option: Annotated[list[str] | None, typer.Option(help="name=value for load_runner; repeatable.")] = None,
    results: Annotated[Path, typer.Option(help="Folder that takes roofline.jsonl.")] = RESULTS,
) -> None:
    """Measure the machine's limits and the shares of them that the Whisper runner reaches."""
    further = runners.options(runner_option or [])
    runner = runners.load("whisper-base", batch, further)
    flops = {dtype: limits.gemm_flops(dtype) for dtype in (torch.bfloat16, torch.float32)}
    bandwidth = limits.read_bytes_per_s()
    own = flops[getattr(torch, runner.info.dtype)]
    machine = {
        "bf16 GEMM, GFLOP/s": flops[torch.bfloat16] / 1e9,
        "fp32 GEMM, GFLOP/s": flops[torch.float32] / 1e9,
        "memory read, GB/s": bandwidth / 1e9,
    }
    folder = find_checkpoint("whisper-base", None, Settings.load().cache_dir)
    costs = Costs(json.loads((folder / "config.json").read_text()), getattr(torch, runner.info.dtype).itemsize)
    encoder = [_encoder_row(runner, costs, own, seconds, repeat) for seconds in (30.0, 4.0)]
    decoder = [_decoder_row(runner, costs, bandwidth, seconds, batch, steps) for seconds in (30.0, 4.0)]
    tables = [
        Table("The machine", [machine]),
        Table(f"Whisper base, encoder and prefill of one window, {runner.info.dtype}", encoder),
        Table(f"Whisper base, decode step of {batch} rows, {runner.info.dtype}", decoder),
    ]
    publish("roofline", tables, {"batch": batch, "steps": steps} | further, results)


def _encoder_row(runner: Runner, costs: Costs, flops: float, seconds: float, repeat: int) -> dict[str, Any]:
    sequence = _sequence(runner, seconds)
    taken_s = limits.best_s(lambda: runner.admit(0, [sequence]), repeat=repeat)
    full = costs.admit_flops(costs.window_positions, _PROMPT_TOKENS)
    return {
        "audio s": seconds,
        "ms": 1000 * taken_s,
        "GFLOP of a full window": full / 1e9,
        "floor of a full window, ms": 1000 * full / flops,
        "share of the GEMM rate, %": 100 * full / flops / taken_s,
    }


def _decoder_row(
    runner: Runner, costs: Costs, bandwidth: float, seconds: float, batch: int, steps: int
) -> dict[str, Any]:
    sequence = _sequence(runner, seconds)
    for row in range(batch):
        runner.admit(row, [sequence])
    times = [limits.once_s(lambda: runner.decode(0, batch)) for _ in range(steps)]
    step_s = median(times)
    own = costs.own_positions(seconds)
    needed = costs.weight_bytes + costs.cross_bytes(own, batch) + costs.self_bytes(_PROMPT_TOKENS + steps / 2, batch)
    return {
        "audio s": seconds,
        "ms a step": 1000 * step_s,
        "MB that must be read": needed / 1e6,
        "floor, ms": 1000 * needed / bandwidth,
        "share of the memory bandwidth, %": 100 * needed / bandwidth / step_s,
    }


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
