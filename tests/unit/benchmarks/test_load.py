"""Closed-loop clients: as many as asked for, each with one request at a time, and every clip once."""

import asyncio
from pathlib import Path

import psutil
import pytest

from benchmarks.clips import Clip
from benchmarks.load import measure, turns

CLIPS = [Clip(f"clip {n}", Path("unused.wav"), "", 2.0) for n in range(7)]


class Recorder:
    """Answers a clip with its name once as many requests as there are clients are open."""

    name = "recorder"

    def __init__(self, clients: int, *, fail_on: str = "") -> None:
        self.heard: list[str] = []
        self.open = 0
        self.most_open = 0
        self._full = asyncio.Barrier(clients)
        self._fail_on = fail_on

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    async def transcribe(self, clip: Clip) -> str:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.heard.append(clip.name)
        if len(self.heard) <= self._full.parties:
            await self._full.wait()
        self.open -= 1
        if clip.name == self._fail_on:
            raise RuntimeError("no answer")
        return clip.name.upper()

    def processes(self) -> list[psutil.Process]:
        return []


@pytest.mark.anyio
async def test_every_clip_is_sent_once_and_answers_keep_their_place() -> None:
    system = Recorder(3)
    run = await measure(system, CLIPS, 3, [])
    assert sorted(system.heard) == sorted(clip.name for clip in CLIPS)
    assert run.texts == tuple(clip.name.upper() for clip in CLIPS)
    assert system.most_open == 3


@pytest.mark.anyio
async def test_rates_follow_from_the_wall_clock() -> None:
    run = await measure(Recorder(1), CLIPS, 1, [])
    assert run.requests_per_s == pytest.approx(7 / run.wall_s)
    assert run.rtfx == pytest.approx(14.0 / run.wall_s)
    assert len(run.latencies_s) == 7
    assert run.latency_s(1.0) <= run.wall_s


@pytest.mark.anyio
async def test_a_failed_request_ends_the_measurement() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await measure(Recorder(2, fail_on="clip 4"), CLIPS, 2, [])
    assert caught.group_contains(RuntimeError, match="no answer")


def test_no_system_always_goes_first() -> None:
    systems = [Recorder(1), Recorder(1)]
    assert turns(systems, 0) == systems
    assert turns(systems, 1) == systems[::-1]
