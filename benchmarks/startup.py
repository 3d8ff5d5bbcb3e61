"""From the start of the process to the first 200 of /readyz, and the memory of all processes when idle.

    python -m benchmarks.startup

The first start is reported apart: it may have to convert the packaged model, and to read everything from a cold disk.
"""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cli import start
from benchmarks.clips import short_clips
from benchmarks.processes import memory_mb
from benchmarks.report import RESULTS, Table, publish
from benchmarks.service import Service
from benchmarks.stats import spread


def main(
    starts: Annotated[int, typer.Option(help="Starts after the first one.")] = 5,
    results: Annotated[Path, typer.Option(help="Folder that takes startup.jsonl.")] = RESULTS,
) -> None:
    """Measure start-up time, and resident memory idle: freshly ready, and after a few requests."""
    first, *warm = [asyncio.run(_start()) for _ in range(starts + 1)]
    rows = [{"start": "first", **{name: spread([value]) for name, value in first.items()}}]
    if warm:
        rows.append({"start": "warm disk", **{name: spread(run[name] for run in warm) for name in first}})
    publish("startup", [Table("Start-up and idle memory, median and range", rows)], {"starts": starts}, results)


async def _start() -> dict[str, Any]:
    service = Service()
    started = time.perf_counter()
    try:
        await service.start()
        ready_s = time.perf_counter() - started
        fresh_pss_mb, fresh_rss_mb = memory_mb(service.processes())
        for clip in short_clips(4):
            await service.transcribe(clip)
        pss_mb, rss_mb = memory_mb(service.processes())
        processes = len(service.processes())
    finally:
        await service.aclose()
    return {
        "ready s": ready_s,
        "processes": processes,
        "PSS MB, just ready": fresh_pss_mb,
        "RSS MB, just ready": fresh_rss_mb,
        "PSS MB, after 4 requests": pss_mb,
        "RSS MB, after 4 requests": rss_mb,
    }


if __name__ == "__main__":
    start(main)
