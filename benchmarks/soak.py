"""Many minutes of mixed load on the service while its parts are killed: is anything lost, late, or left behind?

    python -m benchmarks.soak --minutes 20

Clients of six kinds work at once: short clips, OpenAI's route with word times, long recordings answered whole and
line by line, clients that leave at any time, and broken files. The engine and decode workers are killed meanwhile.
What must hold is a table of checks at the end; exit code 1 when one of them fails.
"""

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.cli import start
from benchmarks.clips import Clip, long_recording, short_clips
from benchmarks.report import RESULTS, Table, publish
from benchmarks.service import Service
from benchmarks.soak_checks import Run, checks, code_table, memory_table, request_table
from benchmarks.soak_clients import (
    NATIVE,
    OPENAI,
    Caller,
    Outcome,
    Send,
    given_up,
    pause,
    streamed,
    whole,
    with_words,
)
from benchmarks.soak_plot import draw
from benchmarks.soak_watch import Watch, counters, footprint, settled
from tests.e2e.hostile import Mutants

_CLIENTS = {"short": 4, "OpenAI, words": 1, "long": 1, "long, streamed": 1, "leaves": 3, "broken": 1, "junk": 1}
_SHORT_LIMIT_S, _LONG_LIMIT_S = 120.0, 300.0
_LONGEST_PAUSE_S = 1.0
_LONG_S = (60.0, 120.0, 180.0)
_CLOSING_S, _SETTLE_S = 2.0, 30.0
_NO_AUDIO = {"no file": b"", "text": b"this is not audio" * 100, "noise": random.Random(0).randbytes(50_000)}
_SEED = 6


def main(
    minutes: Annotated[float, typer.Option(help="Length of the load.")] = 20.0,
    engine_kill_s: Annotated[float, typer.Option(help="Seconds between kills of the engine; 0: never.")] = 120.0,
    worker_kill_s: Annotated[
        float, typer.Option(help="Seconds between kills of a decode worker, on average; 0: never.")
    ] = 20.0,
    results: Annotated[Path, typer.Option(help="Folder that takes soak.jsonl and soak.png.")] = RESULTS,
) -> None:
    """Soak the service, check what must hold, and draw its memory."""
    run = asyncio.run(_soak(minutes * 60, engine_kill_s, worker_kill_s))
    verdicts = checks(run)
    rows = [verdict.row() for verdict in verdicts]
    tables = [
        Table("Requests", request_table(run)),
        Table("Answers by the service's count", code_table(run)),
        Table("Memory", memory_table(run)),
        Table("Checks", rows),
    ]
    settings = {"minutes": minutes, "engine_kill_s": engine_kill_s, "worker_kill_s": worker_kill_s}
    publish("soak", tables, settings, results)
    draw(run.watch, results / "soak.png")
    if not all(verdict.holds for verdict in verdicts):
        raise typer.Exit(1)


async def _soak(duration_s: float, engine_kill_s: float, worker_kill_s: float) -> Run:
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as folder:
        own = Path(tempfile.mkdtemp(dir=folder))
        sendings = _sendings(Path(folder))
        service = Service(env={"TMPDIR": str(own), "ASR_AUTH__MODE": "none"})
        watch = Watch(service, random.Random(_SEED))
        try:
            await service.start()
            async with _client(service) as client:
                expected = await _first_answers(client, sendings)
            await service.client.aclose()
            await pause(_CLOSING_S)
            before = footprint(service, own)
            counted_before = await _counted(service)
            async with _client(service) as client:
                watch.started_s = time.monotonic()
                outcomes = await _load(client, watch, sendings, duration_s, engine_kill_s, worker_kill_s)
            after = await settled(service, own, before, _SETTLE_S)
            counted = await _counted(service)
            restarts = await counters(service, "asr_engine_restarts_total")
            worker_ends = await counters(service, "asr_decode_worker_restarts_total", "reason")
        finally:
            await service.aclose()
    return Run(
        duration_s=duration_s,
        watch=watch,
        outcomes=outcomes,
        expected=expected,
        before=before,
        after=after,
        counted={key: count - counted_before.get(key, 0.0) for key, count in counted.items()},
        engine_restarts=restarts.get((), 0.0),
        worker_ends={key[0]: count for key, count in worker_ends.items()},
    )


def _client(service: Service) -> httpx.AsyncClient:
    # Connections are let go of before the service closes them: a request must not meet that.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    return httpx.AsyncClient(base_url=service.client.base_url, timeout=None, limits=limits, trust_env=False)


def _sendings(folder: Path) -> Mapping[str, Iterator[tuple[str, Send]]]:
    """What the clients of each kind send, for ever: names, and how it is sent."""
    rng = random.Random(_SEED)
    clips = short_clips(24)
    longs = [long_recording(folder / f"long-{n}.wav", length_s, salt=n) for n, length_s in enumerate(_LONG_S)]
    mutants = Mutants(_SEED)
    return {
        "short": _cycle([(clip.name, whole(clip.path.name, clip.wav)) for clip in clips]),
        "OpenAI, words": _cycle([(clip.name, with_words(clip)) for clip in clips]),
        "long": _cycle([(clip.name, whole(clip.path.name, clip.wav)) for clip in longs]),
        "long, streamed": _cycle([(clip.name, streamed(clip)) for clip in longs]),
        "leaves": (_leaver(rng.choice([*clips, *longs]), rng) for _ in itertools.count()),
        "broken": ((f"mutant {number}", whole("broken.bin", mutants.make(number))) for number in itertools.count()),
        "junk": _cycle([(name, whole("junk.bin", data)) for name, data in _NO_AUDIO.items()]),
    }


def _cycle(requests: Sequence[tuple[str, Send]]) -> Iterator[tuple[str, Send]]:
    return itertools.cycle(requests)


def _leaver(clip: Clip, rng: random.Random) -> tuple[str, Send]:
    return clip.name, given_up(clip, rng)


async def _first_answers(
    client: httpx.AsyncClient, sendings: Mapping[str, Iterator[tuple[str, Send]]]
) -> dict[tuple[str, str], str]:
    """The text of each good request by its kind and name, sent alone. Raises when one has none."""
    texts: dict[tuple[str, str], str] = {}
    for kind in ("short", "OpenAI, words", "long", "long, streamed"):
        while True:
            about, send = next(sendings[kind])
            if (kind, about) in texts:
                break
            reply = await send(client)
            if reply.code != "ok" or not reply.text:
                raise RuntimeError(f"{kind} {about}, sent alone, is answered {reply}")
            texts[kind, about] = reply.text
    return texts


async def _load(
    client: httpx.AsyncClient,
    watch: Watch,
    sendings: Mapping[str, Iterator[tuple[str, Send]]],
    duration_s: float,
    engine_kill_s: float,
    worker_kill_s: float,
) -> list[Outcome]:
    callers = [
        Caller(
            kind,
            client,
            sendings[kind],
            started_s=watch.started_s,
            limit_s=_LONG_LIMIT_S if kind.startswith("long") else _SHORT_LIMIT_S,
            longest_pause_s=_LONGEST_PAUSE_S,
            rng=random.Random(f"{_SEED} {kind} {number}"),
        )
        for kind, count in _CLIENTS.items()
        for number in range(count)
    ]
    until_s = watch.started_s + duration_s
    async with asyncio.TaskGroup() as group:
        aside = [
            group.create_task(work)
            for work in (
                watch.note_memory(),
                watch.probe(),
                watch.kill_engine(engine_kill_s),
                watch.kill_workers(worker_kill_s),
            )
        ]
        await asyncio.gather(*(caller.run(until_s) for caller in callers))
        for task in aside:
            task.cancel()
    return [outcome for caller in callers for outcome in caller.outcomes]


async def _counted(service: Service) -> dict[tuple[str, ...], float]:
    """What the service says it has answered: by route, status and code."""
    counted = await counters(service, "asr_requests_total", "route", "status", "code")
    return {key: count for key, count in counted.items() if key[0] in (NATIVE, OPENAI)}


if __name__ == "__main__":
    start(main)
