"""Closed-loop load on one system among several, of which only one works at a time.

Owns what a system under measurement must offer, how clients behave, and what is kept of a run.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from benchmarks.clips import Clip
from benchmarks.processes import cpu_s, paused
from benchmarks.stats import percentile


class System(Protocol):
    """Something that transcribes."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None:
        """Return when it is ready to work."""

    async def aclose(self) -> None: ...

    async def transcribe(self, clip: Clip) -> str: ...

    def processes(self) -> list[psutil.Process]: ...


@dataclass(frozen=True, slots=True)
class Run:
    """One system under one load. `cpu_s` is its CPU time, without that of the clients."""

    wall_s: float
    audio_s: float
    latencies_s: tuple[float, ...]
    texts: tuple[str, ...]
    cpu_s: float

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_s) / self.wall_s

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second."""
        return self.audio_s / self.wall_s

    def latency_s(self, share: float) -> float:
        return percentile(self.latencies_s, share)


async def measure(system: System, clips: Sequence[Clip], clients: int, others: Sequence[System]) -> Run:
    """`clients` send all `clips` once, each sending its next as soon as it has its answer. Any error ends the run.

    The `others` stand still meanwhile.
    """
    waiting = list(enumerate(clips))[::-1]
    latencies = [0.0] * len(clips)
    texts = [""] * len(clips)

    async def client() -> None:
        while waiting:
            index, clip = waiting.pop()
            started = time.perf_counter()
            texts[index] = await system.transcribe(clip)
            latencies[index] = time.perf_counter() - started

    own = system.processes()
    with paused([process for other in others for process in other.processes()]):
        before_s, started = cpu_s(own), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        wall_s = time.perf_counter() - started
    return Run(
        wall_s=wall_s,
        audio_s=sum(clip.duration_s for clip in clips),
        latencies_s=tuple(latencies),
        texts=tuple(texts),
        cpu_s=cpu_s(own) - before_s,
    )


@contextlib.asynccontextmanager
async def running(systems: Sequence[System]) -> AsyncIterator[None]:
    """Start the systems one after the other, and stop all of them at the end, whatever happens."""
    async with contextlib.AsyncExitStack() as stack:
        for system in systems:
            stack.push_async_callback(system.aclose)
            started = time.perf_counter()
            await system.start()
            print(f"{system.name} is ready after {time.perf_counter() - started:.1f} s", flush=True)
        yield


def turns(systems: Sequence[System], round_number: int) -> list[System]:
    """The order within a round: reversed every other time, so that none always goes first."""
    return list(systems) if round_number % 2 == 0 else list(reversed(systems))
