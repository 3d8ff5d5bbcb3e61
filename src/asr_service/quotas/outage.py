"""A shared store that may go away.

Owns what happens then: each process counts for itself or refuses, nobody waits for a store that hangs, and the store is
used again as soon as it works. Must not know the store's technique.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import structlog

from asr_service.errors import Unavailable
from asr_service.quotas.memory import MemoryStore
from asr_service.quotas.stores import Limit, SharedStore, StoreGone, Usage

ANSWER_S = 0.25
"""A store that answers nobody within this time is gone."""
_TURNS = 8
"""So many times that, at most, when it is this process that is late, or when others are being answered."""
_LATE = 1.2
_BUSY_S = 0.01
PROBE_S = 1.0
RENEW_S = 20.0
"""Leases are renewed so often: three times before they would end."""
_RETRY_S = 5.0

_Answer = TypeVar("_Answer")
Pause = Callable[[float], Awaitable[None]]

_log = structlog.stdlib.get_logger("asr_service.quotas")


class OutageProofStore:
    """Implements `Store`: the shared store while it works, else this process by itself, or Unavailable."""

    def __init__(
        self,
        shared: SharedStore,
        local: MemoryStore,
        *,
        on_failure: Literal["local", "deny"],
        on_failed: Callable[[], None] = lambda: None,
        pause: Pause = asyncio.sleep,  # noqa: TID251 - between two tries it is time itself that is waited for
        answer_s: float = ANSWER_S,
    ) -> None:
        """`on_failed` is told of every operation that the shared store did not do."""
        self._shared = shared
        self._local = local
        self._on_failure = on_failure
        self._on_failed = on_failed
        self._pause = pause
        self._answer_s = answer_s
        self._answered_at = 0.0
        self._lost_at: float | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the shared store works, as far as is known."""
        return self._lost_at is None

    async def start(self) -> None:
        """Look for the shared store, whose absence is an outage like any other, and begin to renew leases."""
        await self._shared.start()
        await self._try(self._shared.probe)
        self._renewing = asyncio.create_task(self._renew(), name="renew leases")

    async def aclose(self) -> None:
        tasks = [task for task in (self._renewing, self._recovering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shared.aclose()

    async def take(self, key: str, limit: Limit, cost: int) -> Usage:
        usage = await self._try(lambda: self._shared.take(key, limit, cost))
        return usage or await self._alone().take(key, limit, cost)

    async def look(self, key: str, limit: Limit, cost: int) -> Usage:
        usage = await self._try(lambda: self._shared.look(key, limit, cost))
        return usage or await self._alone().look(key, limit, cost)

    async def acquire(self, key: str, limit: Limit, lease: str) -> Usage:
        usage = await self._try(lambda: self._shared.acquire(key, limit, lease))
        if usage is None:
            return await self._alone().acquire(key, limit, lease)
        if usage.fits:
            # So that it counts in an outage too, and is renewed.
            self._local.hold(key, lease)
        return usage

    async def release(self, key: str, lease: str) -> None:
        """Never fails: in an outage the shared store forgets the lease by itself."""
        self._local.drop(key, lease)
        await self._try(lambda: self._shared.release(key, lease))

    async def _try(self, work: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        """What the shared store answers. None if it is gone."""
        if not self.up:
            return None
        try:
            return await self._answer(work)
        except StoreGone as error:
            self._failed(str(error))
        return None

    async def _answer(self, work: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """What the shared store answers. Raises StoreGone, also when it hangs."""
        task = asyncio.ensure_future(work())
        try:
            for _ in range(_TURNS):
                began = time.monotonic()
                await asyncio.wait((task,), timeout=self._answer_s)
                if task.done():
                    answer = task.result()
                    self._answered_at = time.monotonic()
                    return answer
                is_late = await _busy() or time.monotonic() - began > self._answer_s * _LATE
                if not is_late and self._answered_at < began:
                    break
            raise StoreGone(f"no answer within {self._answer_s:g} s")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _alone(self) -> MemoryStore:
        if self._on_failure == "deny":
            raise Unavailable(
                f"Limits cannot be checked at the moment. Try again in {_RETRY_S:.0f} s.", retry_after_s=_RETRY_S
            )
        return self._local

    def _failed(self, reason: str) -> None:
        self._on_failed()
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            _log.error("limits have lost their store", error=reason, until_it_is_back=self._on_failure)
            # Not in the context of the request that happened to notice.
            self._recovering = asyncio.create_task(
                self._recover(), name="recover the store of limits", context=contextvars.Context()
            )

    async def _recover(self) -> None:
        await self._pause(PROBE_S)
        while not await self._works():
            await self._pause(PROBE_S)
        assert self._lost_at is not None
        outage_s = time.monotonic() - self._lost_at
        self._lost_at = None
        _log.info("limits have their store again", outage_s=round(outage_s, 1))

    async def _works(self) -> bool:
        """Whether the store is back, and has the leases that it may have forgotten, or has never known."""
        try:
            await self._answer(self._shared.probe)
            await self._answer(self._keep_leases)
        except StoreGone:
            self._on_failed()
            return False
        return True

    async def _renew(self) -> None:
        while True:
            await self._pause(RENEW_S)
            await self._try(self._keep_leases)

    async def _keep_leases(self) -> None:
        leases = {key: tuple(names) for key, names in self._local.leases.items()}
        await self._shared.renew(leases)
        # What was given back meanwhile must not live on there.
        for key, names in leases.items():
            for name in set(names) - self._local.leases.get(key, set()):
                await self._shared.release(key, name)


async def _busy() -> bool:
    """Whether this process has so much to do that it may have an answer and not have read it.

    Else a process that gets no processor would blame the store for its own lateness.
    """
    began = time.monotonic()
    for _ in range(2):
        await asyncio.sleep(0)  # noqa: TID251 - one turn of the event loop, takes no time by itself
    return time.monotonic() - began > _BUSY_S
