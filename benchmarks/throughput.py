"""Short clips under load: the service over HTTP against its peers, in one run.

    python -m benchmarks.throughput --peers faster-whisper,vllm

Rounds are interleaved: in each, every system transcribes the same clips under the same number of clients, one system at
a time, and figures are compared within the round. The audio differs in a few lowest bits from round to round, so that
no cache helps. Peers are installed with `python -m benchmarks.peers setup NAME`.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from asr_service.models.embedded import ensure_checkpoint
from asr_service.settings import Settings
from benchmarks.cli import start
from benchmarks.clips import Clip, short_clips, variants
from benchmarks.load import Run, System, measure, running, turns
from benchmarks.peers import environments
from benchmarks.peers.faster_whisper import FasterWhisper
from benchmarks.peers.vllm import Vllm
from benchmarks.report import RESULTS, Table, publish
from benchmarks.service import Service
from benchmarks.stats import ratios, spread, word_error_rate

_WARM_UP_CLIPS = 2

Runs = dict[tuple[str, int], list[Run]]
"""What was measured: one run per round, by system and number of clients."""


def main(
    clips: Annotated[int, typer.Option(help="Clips per run.")] = 64,
    clients: Annotated[str, typer.Option(help="Numbers of simultaneous clients.")] = "1,4,16",
    rounds: Annotated[int, typer.Option(help="How often everything is repeated.")] = 3,
    peers: Annotated[
        str, typer.Option(help="Of faster-whisper and vllm; an empty string for none.")
    ] = "faster-whisper",
    peer_defaults: Annotated[
        bool,
        typer.Option(help="Let faster-whisper make timestamps and second attempts, as it does unless told not to."),
    ] = False,
    results: Annotated[Path, typer.Option(help="Folder that takes throughput.jsonl.")] = RESULTS,
) -> None:
    """Measure requests/s, RTFx, latencies and word error rates under closed-loop load."""
    systems = _systems([name for name in peers.split(",") if name], peer_defaults=peer_defaults)
    chosen = short_clips(clips)
    counts = [int(count) for count in clients.split(",")]
    runs = asyncio.run(_measure(systems, chosen, counts, rounds))
    settings = {
        "clips": clips,
        "different_clips": len({clip.path for clip in chosen}),
        "mean_clip_s": round(sum(clip.duration_s for clip in chosen) / clips, 2),
        "rounds": rounds,
        "peer_defaults": peer_defaults,
    }
    publish("throughput", _tables(systems, chosen, counts, runs), settings, results)


def _systems(peers: Sequence[str], *, peer_defaults: bool) -> list[System]:
    systems: list[System] = [Service()]
    for name in peers:
        if name == "faster-whisper":
            systems.append(FasterWhisper(library_defaults=peer_defaults))
        elif name == "vllm":
            systems.append(Vllm(environments.vllm_folder(ensure_checkpoint(Settings.load().cache_dir))))
        else:
            raise typer.BadParameter(f"There is no peer {name!r}: choose from faster-whisper and vllm.")
    return systems


async def _measure(systems: list[System], clips: list[Clip], counts: list[int], rounds: int) -> Runs:
    runs: Runs = {(system.name, count): [] for system in systems for count in counts}
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as folder:
        async with running(systems):
            for system in systems:
                await measure(system, variants(clips[:_WARM_UP_CLIPS], Path(folder), salt=-1), 1, [])
            for salt, (number, count) in enumerate((n, c) for n in range(rounds) for c in counts):
                fresh = variants(clips, Path(folder), salt)
                for system in turns(systems, number):
                    run = await measure(system, fresh, count, [other for other in systems if other is not system])
                    runs[system.name, count].append(run)
                    print(f"round {number + 1}, {count} clients, {system.name}: {run.requests_per_s:.2f}/s", flush=True)
    return runs


def _tables(systems: Sequence[System], clips: Sequence[Clip], counts: Sequence[int], runs: Runs) -> list[Table]:
    figures = [_figures(system, count, clips, runs[system.name, count]) for count in counts for system in systems]
    tables = [Table("Short clips under load", figures)]
    ours, *peers = systems
    compared = [
        {
            "clients": count,
            "peer": peer.name,
            "times as many requests/s": ratios(
                [run.requests_per_s for run in runs[ours.name, count]],
                [run.requests_per_s for run in runs[peer.name, count]],
            ),
        }
        for count in counts
        for peer in peers
    ]
    return tables + [Table("asr-service against its peers, median and range of the rounds", compared)] * bool(compared)


def _figures(system: System, clients: int, clips: Sequence[Clip], runs: Sequence[Run]) -> dict[str, Any]:
    texts = [text for run in runs for text in run.texts]
    return {
        "system": system.name,
        "clients": clients,
        "requests/s": spread(run.requests_per_s for run in runs),
        "RTFx": median(run.rtfx for run in runs),
        "p50 s": median(run.latency_s(0.5) for run in runs),
        "p95 s": median(run.latency_s(0.95) for run in runs),
        "WER %": 100 * word_error_rate([clip.text for clip in clips] * len(runs), texts),
        "CPU s per clip": median(run.cpu_s / len(clips) for run in runs),
    }


if __name__ == "__main__":
    start(main)
