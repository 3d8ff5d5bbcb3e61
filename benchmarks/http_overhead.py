"""What HTTP, upload, audio decoding, VAD and queues add to the engine's time: a service whose engine answers at once.

    python -m benchmarks.http_overhead

One client at a time first, which is the latency that a lonely request sees, then several, which is the ceiling of the
API process and the decode workers.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.cli import start
from benchmarks.clips import Clip, read_wav, short_clips, write_wav
from benchmarks.load import measure, running
from benchmarks.report import RESULTS, Table, publish
from benchmarks.service import Service

_RATE = 16_000


def main(
    requests: Annotated[int, typer.Option(help="Requests per row.")] = 200,
    audio_s: Annotated[float, typer.Option(help="Length of the recording, in seconds.")] = 3.0,
    clients: Annotated[str, typer.Option(help="Numbers of simultaneous clients.")] = "1,16",
    results: Annotated[Path, typer.Option(help="Folder that takes http_overhead.jsonl.")] = RESULTS,
) -> None:
    """Measure the latency of a WAV upload that the engine answers at once."""
    counts = [int(count) for count in clients.split(",")]
    rows, floor_ms = asyncio.run(_measure(requests, audio_s, counts))
    tables = [Table(f"A WAV of {audio_s:g} s, engine's time zero", rows)]
    tables.append(Table("For comparison", [{"GET /livez, p50 ms": floor_ms}]))
    publish("http_overhead", tables, {"requests": requests, "audio_s": audio_s}, results)


async def _measure(requests: int, audio_s: float, counts: Sequence[int]) -> tuple[list[dict[str, Any]], float]:
    service = Service(arguments=("-m", "benchmarks.fake_service"))
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as folder:
        clip = _speech(Path(folder), audio_s)
        async with running([service]):
            await measure(service, [clip] * 20, 4, [])
            rows = [await _row(service, clip, requests, count) for count in counts]
            floor_ms = 1000 * median([await _livez_s(service) for _ in range(requests)])
    return rows, floor_ms


async def _row(service: Service, clip: Clip, requests: int, clients: int) -> dict[str, Any]:
    run = await measure(service, [clip] * requests, clients, [])
    timings = [await _timings(service, clip) for _ in range(20)]
    return {
        "clients": clients,
        "p50 ms": 1000 * run.latency_s(0.5),
        "p95 ms": 1000 * run.latency_s(0.95),
        "requests/s": run.requests_per_s,
        "of which decode ms": median(t["decode"] for t in timings),
        "of which VAD ms": median(t["vad"] for t in timings),
        "CPU ms per request": 1000 * run.cpu_s / requests,
    }


async def _timings(service: Service, clip: Clip) -> dict[str, float]:
    timings = (await service.reply(clip))["timings_ms"]
    assert isinstance(timings, dict)
    return timings


async def _livez_s(service: Service) -> float:
    started = time.perf_counter()
    (await service.client.get("/livez")).raise_for_status()
    return time.perf_counter() - started


def _speech(folder: Path, audio_s: float) -> Clip:
    """Speech at 16 kHz, cut or repeated to the wanted length: the VAD must find some, or the engine is never asked."""
    rate, pcm = read_wav(short_clips(1)[0].path)
    repeated = pcm * (1 + int(audio_s * rate * 2) // len(pcm))
    path = folder / "speech.wav"
    # 8 kHz prompts played twice as fast are still speech to a VAD; what counts is the size of a 16 kHz upload.
    write_wav(path, _RATE, repeated[: int(audio_s * _RATE) * 2].ljust(int(audio_s * _RATE) * 2, b"\0"))
    return Clip("speech", path, "", audio_s)


if __name__ == "__main__":
    start(main)
