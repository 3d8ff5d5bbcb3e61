"""GLM-ASR at full size with random weights: clips that all differ, several clients, encoder and decoder together.

    python -m benchmarks.glm_clips --peers vllm
    python -m benchmarks.glm_clips --ours encoder=cached --ours encoder=cached,quantization=int8

Ours is the engine's own loop (scheduler, encoder, decoder) in this process, without HTTP, which adds milliseconds to
seconds; vLLM is asked over HTTP. Random weights do not know when to stop, so every answer gets as many tokens.
"""

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from asr_service.engine.core import EngineCore
from asr_service.engine.messages import Failed, Finished, FromEngine, Submit
from asr_service.models.base import Runner
from benchmarks import glm_checkpoint, runners
from benchmarks.cli import start
from benchmarks.clips import Clip, noise_clips
from benchmarks.glm_decode import VLLM_OPTIONS
from benchmarks.load import measure, running
from benchmarks.peers.vllm import VllmTokens
from benchmarks.processes import paused
from benchmarks.report import RESULTS, Table, publish
from benchmarks.stats import ratios, spread


def main(
    clips: Annotated[int, typer.Option(help="Clips per round.")] = 8,
    clients: Annotated[int, typer.Option(help="Simultaneous clients.")] = 4,
    audio_s: Annotated[float, typer.Option(help="Length of a clip, in seconds.")] = 10.0,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer: 40 are ten seconds of fluent speech.")] = 40,
    rounds: Annotated[int, typer.Option(help="How often it is repeated.")] = 3,
    peers: Annotated[str, typer.Option(help="vllm, or an empty string.")] = "",
    ours: Annotated[
        list[str] | None, typer.Option(help="LoadOptions, as name=value,name=value; repeat to compare several.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder that takes glm_clips.jsonl.")] = RESULTS,
) -> None:
    """Measure RTFx under closed-loop load."""
    variants = ours or ["encoder=cached"]
    folder = glm_checkpoint.ensure()
    runs = [
        FixedRun(runners.load(folder, clients, runners.options(v.split(",")), dtype="bfloat16"), clients, tokens)
        for v in variants
    ]
    peer = VllmTokens(folder, tokens, max_sequences=clients, arguments=VLLM_OPTIONS) if peers == "vllm" else None
    rates, theirs = asyncio.run(_measure(runs, peer, clips, audio_s, rounds))
    names = [f"asr-service's engine, {variant}" for variant in variants]
    rows = [{"system": name, "RTFx": spread(ours_rtfx)} for name, ours_rtfx in zip(names, rates, strict=True)]
    tables = [Table(f"GLM-ASR, full size, clips of {audio_s:g} s, {clients} clients", rows)]
    if peer is not None:
        rows.append({"system": peer.name, "RTFx": spread(theirs)})
        compared = [
            {"system": name, f"times the RTFx of {peer.name}": ratios(ours_rtfx, theirs)}
            for name, ours_rtfx in zip(names, rates, strict=True)
        ]
        tables.append(Table("asr-service against its peer, median and range of the rounds", compared))
    settings = {"clips": clips, "clients": clients, "audio_s": audio_s, "tokens": tokens, "rounds": rounds}
    publish("glm_clips", tables, settings | {"ours": variants}, results)


class FixedRun:
    """Clients of an engine's loop that runs in this thread: each submits its next clip when it has its answer."""

    def __init__(self, runner: Runner, clients: int, tokens: int) -> None:
        self._runner = runners.FixedLength.wrap(runner, tokens)
        self.clients = clients

    def wall_s(self, clips: Sequence[Clip]) -> float:
        """How long all clips take."""
        waiting, ids = list(clips), itertools.count()
        free, done = self.clients, 0

        def answered(message: FromEngine) -> None:
            nonlocal free, done
            if isinstance(message, Failed):
                raise RuntimeError(message.message)
            if isinstance(message, Finished):
                free, done = free + 1, done + 1

        core = EngineCore(
            self._runner, answered, time.monotonic, max_step_frames=self._runner.frames_per_window, guard=False
        )
        started = time.perf_counter()
        while done < len(clips):
            while free and waiting:
                pcm, number, free = runners.samples(waiting.pop()), next(ids), free - 1
                core.submit(Submit(number, str(number), pcm.tobytes()), self._runner.features(pcm))
            core.step()
        return time.perf_counter() - started


async def _measure(
    runs: Sequence[FixedRun], peer: VllmTokens | None, count: int, audio_s: float, rounds: int
) -> tuple[list[list[float]], list[float]]:
    """RTFx of each round: a list for each of ours, and vLLM's (empty without it)."""
    rates: list[list[float]] = [[] for _ in runs]
    their_rtfx = []
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as scratch:
        async with running([peer]) if peer is not None else contextlib.nullcontext():
            warm_up = noise_clips(1, audio_s, Path(scratch), salt=-1)
            for run in runs:
                run.wall_s(warm_up)
            if peer is not None:
                await peer.transcribe(warm_up[0])
            print("ready", flush=True)
            for number in range(rounds):
                clips = noise_clips(count, audio_s, Path(scratch), salt=number)
                with paused([] if peer is None else peer.processes()):
                    for run, our_rtfx in zip(runs, rates, strict=True):
                        our_rtfx.append(count * audio_s / run.wall_s(clips))
                        print(f"round {number + 1}, ours: RTFx {our_rtfx[-1]:.2f}", flush=True)
                if peer is not None:
                    their_rtfx.append((await measure(peer, clips, runs[0].clients, [])).rtfx)
                    print(f"round {number + 1}, vLLM: RTFx {their_rtfx[-1]:.2f}", flush=True)
    return rates, their_rtfx


if __name__ == "__main__":
    start(main)
