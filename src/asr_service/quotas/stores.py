"""What limits are made of, and what a store that counts them can do.

Owns the types that stores and their users share. Knows neither a store's technique nor who is counted.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

MINUTE_S, DAY_S = 60, 86_400

Name = Literal["requests", "audio_minute", "audio_day", "concurrent", "failed_logins"]
Unit = Literal["requests", "audio-seconds", "concurrent-requests"]


class StoreGone(Exception):
    """The store cannot be reached, or does not work. The message says why, for the log."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` units in any `window_s` seconds; without a window, at once."""

    name: Name
    amount: int
    unit: Unit
    window_s: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Where a caller stands with a limit, and whether what it asked for is within it."""

    fits: bool
    remaining: int
    """Units that are left."""
    reset_s: float | None
    """Until then no more than `remaining` units can be used; None where time alone changes nothing."""
    wait_s: float = 0.0
    """When what did not fit would, if nothing else were used until then."""


class Store(Protocol):
    """Counts. A `key` names the caller; the limit's name keeps the limits apart. May raise StoreGone."""

    async def take(self, key: str, limit: Limit, cost: int) -> Usage:
        """Use `cost` units (at most the limit's amount) of a limit with a window, if they fit."""
        ...

    async def look(self, key: str, limit: Limit, cost: int) -> Usage:
        """What `take` would say, without using anything."""
        ...

    async def acquire(self, key: str, limit: Limit, lease: str) -> Usage:
        """Be one of those at once, under a name of one's own, until `release`."""
        ...

    async def release(self, key: str, lease: str) -> None:
        """Give a lease back. One that is not held is no error."""
        ...

    async def start(self) -> None:
        """To be called once, before anything else."""
        ...

    async def aclose(self) -> None:
        """End what `start` began."""
        ...


class SharedStore(Store, Protocol):
    """A store outside this process. Leases in it end by themselves if nobody renews them."""

    async def renew(self, leases: Mapping[str, Collection[str]]) -> None:
        """Keep leases (by key) for another while; those that were lost are there again."""
        ...

    async def probe(self) -> None:
        """Return if the store can be read and written. Raises StoreGone."""
        ...
