"""Limits counted in this process.

Owns moving windows and leases in plain Python. For one process, and for each of several while they have lost what they
share. All from one event loop, and no operation gives way to another: so each is atomic.
"""

import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping

from asr_service.quotas.stores import Limit, Name, Usage


class MemoryStore:
    """Implements `Store`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By limit, then by caller, the one that was last counted at the end: so those that can be forgotten come first.
        self._logs: defaultdict[Name, OrderedDict[str, _Log]] = defaultdict(OrderedDict)
        self._leases: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def leases(self) -> Mapping[str, set[str]]:
        """The leases that are held, by key."""
        return self._leases

    def __len__(self) -> int:
        """How many counts are kept."""
        return sum(len(logs) for logs in self._logs.values())

    async def start(self) -> None:
        """There is nothing to start."""

    async def aclose(self) -> None:
        """There is nothing to end."""

    async def take(self, key: str, limit: Limit, cost: int) -> Usage:
        assert limit.window_s is not None
        assert cost <= limit.amount
        logs, now = self._logs[limit.name], self._clock()
        self._forget(logs, now)
        log = logs.get(key) or _Log(limit.window_s)
        usage = log.usage(now, limit.amount, cost)
        if not usage.fits:
            return usage
        log.add(now, cost)
        logs[key] = log
        logs.move_to_end(key)
        return log.usage(now, limit.amount, 0)

    async def look(self, key: str, limit: Limit, cost: int) -> Usage:
        assert limit.window_s is not None
        log = self._logs[limit.name].get(key) or _Log(limit.window_s)
        return log.usage(self._clock(), limit.amount, cost)

    async def acquire(self, key: str, limit: Limit, lease: str) -> Usage:
        held = len(self._leases.get(key, ()))
        if held >= limit.amount:
            return Usage(False, 0, None)
        self.hold(key, lease)
        return Usage(True, limit.amount - held - 1, None)

    async def release(self, key: str, lease: str) -> None:
        self.drop(key, lease)

    def hold(self, key: str, lease: str) -> None:
        """Count a lease that was acquired elsewhere."""
        self._leases[key].add(lease)

    def drop(self, key: str, lease: str) -> None:
        """Count a lease no longer."""
        if key in self._leases:
            self._leases[key].discard(lease)
            if not self._leases[key]:
                del self._leases[key]

    @staticmethod
    def _forget(logs: "OrderedDict[str, _Log]", now: float) -> None:
        while logs and next(iter(logs.values())).is_over(now):
            logs.popitem(last=False)


class _Log:
    """What one caller used of one limit within the window, oldest first."""

    def __init__(self, window_s: int) -> None:
        self._window_s = window_s
        self._entries: deque[tuple[float, int]] = deque()
        self._total = 0

    def is_over(self, now: float) -> bool:
        """Whether all of it is longer ago than the window."""
        return not self._entries or self._entries[-1][0] <= now - self._window_s

    def add(self, now: float, cost: int) -> None:
        self._entries.append((now, cost))
        self._total += cost

    def usage(self, now: float, amount: int, cost: int) -> Usage:
        """What is left of `amount` now, and when there is room for `cost`."""
        while self._entries and self._entries[0][0] <= now - self._window_s:
            self._total -= self._entries.popleft()[1]
        reset_s = self._entries[0][0] + self._window_s - now if self._entries else float(self._window_s)
        excess, wait_s = self._total + cost - amount, 0.0
        fits = excess <= 0
        for moment, used in self._entries:
            if excess <= 0:
                break
            excess -= used
            wait_s = moment + self._window_s - now
        return Usage(fits, max(0, amount - self._total), reset_s, wait_s)
