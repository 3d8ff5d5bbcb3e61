"""How often one address may present credentials that are refused.

Owns when an address has to wait. Good credentials cost nothing here: the store is asked only when a login fails.
"""

import time
from collections.abc import Callable

from asr_service.errors import Unavailable
from asr_service.quotas.callers import network
from asr_service.quotas.memory import MemoryStore
from asr_service.quotas.stores import MINUTE_S, Limit, Store


class FailedLogins:
    """Failed logins by address: an IPv4 address, or the /64 network of an IPv6 address."""

    def __init__(
        self,
        per_minute: int,
        store: Store,
        *,
        on_limited: Callable[[str], None] = lambda limit: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`per_minute` failures may happen; 0: any number."""
        self._limit = Limit("failed_logins", per_minute, "requests", MINUTE_S)
        self._store = store
        # Whatever else is refused without the store, callers with good credentials are still to be told apart.
        self._local = MemoryStore(clock=clock)
        self._on_limited = on_limited
        self._clock = clock
        self._blocked: dict[str, float] = {}

    async def may_try(self, address: str) -> float | None:
        """None, or for how many seconds this address has to wait."""
        wait_s = self._blocked.get(network(address), 0.0) - self._clock()
        if wait_s <= 0:
            return None
        self._on_limited(self._limit.name)
        return wait_s

    async def failed_login(self, address: str) -> None:
        """Count credentials from this address that were refused."""
        if not self._limit.amount:
            return
        key = network(address)
        try:
            usage = await self._store.take(key, self._limit, 1)
        except Unavailable:
            usage = await self._local.take(key, self._limit, 1)
        now = self._clock()
        self._blocked = {blocked: until for blocked, until in self._blocked.items() if until > now}
        if not usage.remaining:
            assert usage.reset_s is not None
            self._blocked[key] = now + usage.reset_s
