"""Time that tests set, and a shared store that they take away."""

import asyncio
from collections.abc import Collection, Mapping

from asr_service.quotas.memory import MemoryStore
from asr_service.quotas.stores import DAY_S, MINUTE_S, Limit, Name, StoreGone, Unit, Usage


class Clock:
    """Stands still until it is moved on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds


def a_minute(amount: int, name: Name = "requests", unit: Unit = "requests") -> Limit:
    return Limit(name, amount, unit, MINUTE_S)


def a_day(amount: int, name: Name = "audio_day") -> Limit:
    return Limit(name, amount, "audio-seconds", DAY_S)


def at_once(amount: int) -> Limit:
    return Limit("concurrent", amount, "concurrent-requests", None)


class FakeShared(MemoryStore):
    """What several processes would share. `gone`: nothing works. `hangs`: nothing answers."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.gone = False
        self.hangs = False
        self.asked = 0
        self.renewed: list[dict[str, tuple[str, ...]]] = []

    async def take(self, key: str, limit: Limit, cost: int) -> Usage:
        await self._answer()
        return await super().take(key, limit, cost)

    async def look(self, key: str, limit: Limit, cost: int) -> Usage:
        await self._answer()
        return await super().look(key, limit, cost)

    async def acquire(self, key: str, limit: Limit, lease: str) -> Usage:
        await self._answer()
        return await super().acquire(key, limit, lease)

    async def release(self, key: str, lease: str) -> None:
        await self._answer()
        await super().release(key, lease)

    async def renew(self, leases: Mapping[str, Collection[str]]) -> None:
        await self._answer()
        self.renewed.append({key: tuple(names) for key, names in leases.items()})
        for key, names in leases.items():
            for name in names:
                self.hold(key, name)

    async def probe(self) -> None:
        await self._answer()

    async def _answer(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.gone:
            raise StoreGone("it was unplugged")


class Pauses:
    """Stands in for sleeping: a test says when a pause is over."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        over = asyncio.Event()
        self._begun.put_nowait((seconds, over))
        await over.wait()

    async def end_one(self, seconds: float) -> None:
        """End the next pause of so many seconds, once it has begun."""
        others = []
        while True:
            begun = await self._begun.get()
            if begun[0] == seconds:
                break
            others.append(begun)
        for other in others:
            self._begun.put_nowait(other)
        begun[1].set()
