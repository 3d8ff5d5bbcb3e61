"""The clock of what is sent, with a clock of the test's own, and the end of it."""

import asyncio
from contextlib import aclosing

import pytest

from asr_service.live.pace import Pieces, paced, until

pytestmark = pytest.mark.anyio

PIECE = bytes(100)
PER_S = 1000.0
"""Ten pieces a second."""


class Clock:
    """Time passes in pauses, and where the test says so."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def pause(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 6))
        self.now_s += seconds


async def pieces(count: int) -> Pieces:
    for _ in range(count):
        yield PIECE


async def test_each_piece_is_due_when_it_has_been_spoken() -> None:
    clock = Clock()

    due = [clock.now_s - 50 async for _ in paced(pieces(4), PER_S, clock, clock.pause)]

    assert due == pytest.approx([0.1, 0.2, 0.3, 0.4])


async def test_who_was_held_up_catches_up_and_nothing_drifts() -> None:
    clock = Clock()
    due = []

    async for _ in paced(pieces(6), PER_S, clock, clock.pause):
        due.append(round(clock.now_s - 50, 6))
        if len(due) == 2:
            # The service has let us wait.
            clock.now_s += 0.25

    assert due == [0.1, 0.2, 0.45, 0.45, 0.5, 0.6]


async def test_no_pace_is_no_pause() -> None:
    clock = Clock()

    sent = [piece async for piece in paced(pieces(3), 0, clock, clock.pause)]

    assert (sent, clock.pauses) == ([PIECE] * 3, [])


async def test_stop_ends_what_would_still_come() -> None:
    stop, closed, never = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def endless() -> Pieces:
        try:
            yield PIECE
            await never.wait()
        finally:
            closed.set()

    received = []
    async for piece in until(stop, endless()):
        received.append(piece)
        asyncio.get_running_loop().call_soon(stop.set)

    assert received == [PIECE]
    assert closed.is_set()


async def test_all_comes_through_when_nobody_stops() -> None:
    assert [piece async for piece in until(asyncio.Event(), pieces(3))] == [PIECE] * 3


async def test_nothing_is_read_after_stop() -> None:
    stop = asyncio.Event()
    stop.set()

    assert [piece async for piece in until(stop, pieces(3))] == []


async def test_what_goes_wrong_in_the_source_comes_through() -> None:
    async def broken() -> Pieces:
        yield PIECE
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        _ = [piece async for piece in until(asyncio.Event(), broken())]


async def test_closing_early_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> Pieces:
        try:
            while True:
                yield PIECE
        finally:
            closed.set()

    async with aclosing(until(asyncio.Event(), paced(source(), 0))) as wrapped:
        async for _ in wrapped:
            break

    assert closed.is_set()
