"""One long recording of joined speech: the service over HTTP against faster-whisper's batched pipeline.

    python -m benchmarks.long_file

Both cut the file by voice activity and transcribe many windows at once. Runs alternate; each round has its own order of
clips, so that no cache helps.
"""

import asyncio
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.cli import start
from benchmarks.clips import Clip, long_recording
from benchmarks.load import Run, System, measure, running, turns
from benchmarks.peers.faster_whisper import FasterWhisper
from benchmarks.report import RESULTS, Table, publish
from benchmarks.service import Service
from benchmarks.stats import ratios, spread, word_error_rate


def main(
    minutes: Annotated[float, typer.Option(help="Length of the recording.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="How often it is repeated.")] = 3,
    batches: Annotated[
        str, typer.Option(help="Batch sizes of faster-whisper's pipeline; an empty string: no peer.")
    ] = "8",
    results: Annotated[Path, typer.Option(help="Folder that takes long_file.jsonl.")] = RESULTS,
) -> None:
    """Measure RTFx and word error rate of one long file."""
    systems: list[System] = [Service()]
    systems += [FasterWhisper(batch=int(size)) for size in batches.split(",") if size]
    files, runs = asyncio.run(_measure(systems, minutes * 60, rounds))
    ours, *peers = systems
    tables = [Table("One long file", [_figures(system.name, files, runs[system.name]) for system in systems])]
    if peers:
        rtfx = {name: [run.rtfx for run in of_system] for name, of_system in runs.items()}
        rows = [{"peer": peer.name, "times its RTFx": ratios(rtfx[ours.name], rtfx[peer.name])} for peer in peers]
        tables.append(Table("asr-service against its peers, median and range of the rounds", rows))
    publish("long_file", tables, {"minutes": minutes, "rounds": rounds}, results)


async def _measure(systems: list[System], duration_s: float, rounds: int) -> tuple[list[Clip], dict[str, list[Run]]]:
    runs: dict[str, list[Run]] = {system.name: [] for system in systems}
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as folder:
        files = [long_recording(Path(folder, f"round-{n}.wav"), duration_s, salt=n) for n in range(rounds)]
        async with running(systems):
            for system in systems:
                await measure(system, [long_recording(Path(folder, "warm-up.wav"), 40.0, salt=-1)], 1, [])
            for number, recording in enumerate(files):
                for system in turns(systems, number):
                    others = [other for other in systems if other is not system]
                    run = await measure(system, [recording], 1, others)
                    runs[system.name].append(run)
                    print(f"round {number + 1}, {system.name}: RTFx {run.rtfx:.1f}", flush=True)
    return files, runs


def _figures(name: str, files: list[Clip], runs: list[Run]) -> dict[str, Any]:
    return {
        "system": name,
        "RTFx": spread(run.rtfx for run in runs),
        "seconds": median(run.wall_s for run in runs),
        "WER %": 100 * word_error_rate([file.text for file in files], [run.texts[0] for run in runs]),
        "CPU s per minute of audio": median(run.cpu_s / run.audio_s * 60 for run in runs),
    }


if __name__ == "__main__":
    start(main)
