"""More work than the service can do: short clips that arrive at twice the rate that it has reached.

    python -m benchmarks.overload --seconds 60

First the peak: clients that send their next clip as soon as they have an answer. Then arrivals that wait for nobody, at
random times (a Poisson process). Goodput is what is answered with 200, which only happens within the deadline, a second
until the last answer; what is refused should be refused at once, and nothing may be lost.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.cli import start
from benchmarks.clips import Clip, short_clips
from benchmarks.load import measure, running
from benchmarks.report import RESULTS, Table, publish
from benchmarks.service import Service
from benchmarks.stats import percentile

_PEAK_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What one arrival got: an HTTP status (0: the connection broke), and after how long."""

    status: int
    seconds: float
    retry_after: bool


def main(
    seconds: Annotated[float, typer.Option(help="How long clips arrive.")] = 60,
    factor: Annotated[float, typer.Option(help="Arrivals, as a multiple of the peak.")] = 2,
    queue: Annotated[int, typer.Option(help="ASR_MAX_QUEUE.")] = 64,
    deadline_s: Annotated[float, typer.Option(help="ASR_REQUEST_TIMEOUT_S.")] = 10,
    results: Annotated[Path, typer.Option(help="Folder that takes overload.jsonl.")] = RESULTS,
) -> None:
    """Measure goodput under overload. Ends with 1 if it falls below 90 % of the peak or anything is lost."""
    service = Service(env={"ASR_MAX_QUEUE": str(queue), "ASR_REQUEST_TIMEOUT_S": str(deadline_s)})
    peak, answers, wall_s = asyncio.run(_measure(service, short_clips(128), seconds, factor))
    done = [answer.seconds for answer in answers if answer.status == 200]
    refused = [answer.seconds for answer in answers if answer.status == 503]
    goodput = len(done) / wall_s
    statuses = Counter(answer.status for answer in answers)
    row = {
        "peak, requests/s": peak,
        "arrivals/s": len(answers) / seconds,
        "goodput, requests/s": goodput,
        "goodput, % of the peak": 100 * goodput / peak,
        "answered, p50 s": percentile(done, 0.5),
        "p99 s": percentile(done, 0.99),
        "refused, p50 ms": 1000 * percentile(refused or [0.0], 0.5),
        "refused, p99 ms": 1000 * percentile(refused or [0.0], 0.99),
        "statuses": ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())),
    }
    settings = {"seconds": seconds, "factor": factor, "queue": queue, "deadline_s": deadline_s}
    publish("overload", [Table(f"Arrivals at {factor:g} times the peak", [row])], settings, results)
    lost = [answer for answer in answers if answer.status not in (200, 503)]
    unsaid = [answer for answer in answers if answer.status == 503 and not answer.retry_after]
    if goodput < 0.9 * peak or lost or unsaid:
        raise typer.Exit(1)


async def _measure(
    service: Service, clips: Sequence[Clip], seconds: float, factor: float
) -> tuple[float, list[Answer], float]:
    """Requests/s at the peak, the answers to all arrivals, and the seconds until the last answer."""
    async with running([service]):
        await measure(service, clips[:16], _PEAK_CLIENTS, [])
        peaks = [(await measure(service, clips, _PEAK_CLIENTS, [])).requests_per_s for _ in range(3)]
        peak = max(peaks)
        print(f"peaks: {', '.join(f'{one:.1f}' for one in peaks)} requests/s", flush=True)
        generator = random.Random(0)
        answers: list[Answer] = []
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            due = began
            while (due := due + generator.expovariate(factor * peak)) < began + seconds:
                # Time itself is what is waited for: arrivals do not depend on answers.
                await asyncio.sleep(max(0.0, due - time.perf_counter()))  # noqa: TID251
                group.create_task(_arrive(service, generator.choice(clips), answers))
        return peak, answers, time.perf_counter() - began


async def _arrive(service: Service, clip: Clip, answers: list[Answer]) -> None:
    started = time.perf_counter()
    status, retry_after = 0, False
    with contextlib.suppress(httpx.TransportError):
        response = await service.client.post(
            "/transcribe?language=en", content=clip.wav, headers={"Content-Type": "audio/wav"}
        )
        status, retry_after = response.status_code, "Retry-After" in response.headers
    answers.append(Answer(status, time.perf_counter() - started, retry_after))


if __name__ == "__main__":
    start(main)
