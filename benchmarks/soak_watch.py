"""What happens to a service in a soak, and what is seen of it from outside: kills, memory, open files, liveness.

Owns the processes of the service by their roles. Knows nothing of requests.
"""

import contextlib
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.service import Service
from benchmarks.soak_clients import pause

Role = Literal["API", "engine", "decode worker"]
_MODULES: Mapping[str, Role] = {"asr_service.engine.process": "engine", "asr_service.audio.worker": "decode worker"}
_MEMORY_S = 5.0
_PROBE_S = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory of one process, `at_s` after the start of the load."""

    at_s: float
    role: Role
    pid: int
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a service holds while it does nothing. `files` lie in its temporary folder."""

    open_files: int
    children: int
    zombies: int
    files: int


@dataclass(slots=True)
class Watch:
    """Kills parts of a service and takes notes. The methods run until they are cancelled."""

    service: Service
    rng: random.Random
    samples: list[Sample] = field(default_factory=list)
    engine_kills_s: list[float] = field(default_factory=list)
    worker_kills_s: list[float] = field(default_factory=list)
    livez_s: list[float] = field(default_factory=list)
    livez_errors: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    async def kill_engine(self, every_s: float) -> None:
        """Kill the engine at an interval; 0: never."""
        while every_s:
            await pause(every_s)
            self.engine_kills_s += self._kill("engine")

    async def kill_workers(self, every_s: float) -> None:
        """Kill one of the decode workers now and then, busy or not: every `every_s` on average; 0: never."""
        while every_s:
            await pause(every_s * self.rng.uniform(0.5, 1.5))
            self.worker_kills_s += self._kill("decode worker")

    def _kill(self, role: Role) -> list[float]:
        victims = [process for process in self.service.processes()[1:] if role_of(process) == role]
        if not victims:
            return []
        self.rng.choice(victims).kill()
        return [self._now_s()]

    async def note_memory(self) -> None:
        """Take the resident memory of all processes at an interval."""
        while True:
            at_s = self._now_s()
            for number, process in enumerate(self.service.processes()):
                role = "API" if number == 0 else role_of(process)
                with contextlib.suppress(psutil.NoSuchProcess):
                    if role is not None:
                        self.samples.append(Sample(at_s, role, process.pid, process.memory_info().rss / 1e6))
            await pause(_MEMORY_S)

    async def probe(self) -> None:
        """Ask /livez several times a second, on one connection."""
        async with httpx.AsyncClient(base_url=self.service.client.base_url, trust_env=False, timeout=60) as client:
            while True:
                started = time.perf_counter()
                try:
                    (await client.get("/livez")).raise_for_status()
                except httpx.HTTPError as error:
                    self.livez_errors.append(repr(error))
                self.livez_s.append(time.perf_counter() - started)
                await pause(_PROBE_S)

    def _now_s(self) -> float:
        return time.monotonic() - self.started_s


def role_of(child: psutil.Process) -> Role | None:
    """What a child of the service does. None: it has gone, or has only just been forked."""
    try:
        command = child.cmdline()
    except psutil.NoSuchProcess:
        return None
    return next((role for module, role in _MODULES.items() if module in command), None)


def footprint(service: Service, folder: Path) -> Footprint:
    """What the service holds now, while nobody is connected to it."""
    api, *children = service.processes()
    # What torch compiles it keeps for the next start.
    files = [path for path in folder.rglob("*") if path.is_file() and "torchinductor" not in str(path)]
    return Footprint(api.num_fds(), len(children), sum(map(_is_zombie, children)), len(files))


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def settled(service: Service, folder: Path, before: Footprint, limit_s: float) -> Footprint:
    """The footprint once it is that of `before`, or after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while (now := footprint(service, folder)) != before and time.monotonic() < deadline:
        await pause(0.5)
    return now


async def counters(service: Service, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """A metric's samples by these of its labels, added up over all others."""
    async with httpx.AsyncClient(base_url=service.client.base_url, trust_env=False) as client:
        text = (await client.get("/metrics")).text
    sums: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                key = tuple(sample.labels[label] for label in labels)
                sums[key] = sums.get(key, 0.0) + sample.value
    return sums


def quarters(figures: Iterable[tuple[float, float]], warm_up_s: float) -> tuple[float, float]:
    """The medians of the first and of the last quarter of the time after `warm_up_s`, of pairs of time and figure."""
    late = [(at_s, figure) for at_s, figure in figures if at_s >= warm_up_s]
    end_s = max(at_s for at_s, _ in late)
    quarter_s = (end_s - warm_up_s) / 4
    first = [figure for at_s, figure in late if at_s <= warm_up_s + quarter_s]
    last = [figure for at_s, figure in late if at_s >= end_s - quarter_s]
    return median(first), median(last)


def largest(samples: Iterable[Sample], role: Role) -> list[tuple[float, float]]:
    """Times, and the memory of the largest process of a role at each, in MB."""
    moments: dict[float, float] = {}
    for sample in samples:
        if sample.role == role:
            moments[sample.at_s] = max(moments.get(sample.at_s, 0.0), sample.rss_mb)
    return sorted(moments.items())


def lives(samples: Iterable[Sample], role: Role) -> list[list[Sample]]:
    """The samples of each process that had a role, in order of birth."""
    by_pid: dict[int, list[Sample]] = {}
    for sample in samples:
        if sample.role == role:
            by_pid.setdefault(sample.pid, []).append(sample)
    return sorted(by_pid.values(), key=lambda life: life[0].at_s)
