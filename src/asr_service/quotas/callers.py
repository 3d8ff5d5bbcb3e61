"""What a caller may use, from its first byte to its answer.

Owns the order in which limits are looked at, what counts when, and what callers are told. Must not know where it is
counted, nor HTTP.
"""

import contextlib
import dataclasses
import hashlib
import ipaddress
import math
import uuid
from collections.abc import AsyncIterator, Callable

from asr_service.callers import Caller, CallerLimits
from asr_service.errors import AudioTooLong, RateLimited
from asr_service.quotas.stores import DAY_S, MINUTE_S, Limit, Store, Usage

CONCURRENT_RETRY_S = 1.0
"""When one of the caller's other requests ends is not known, so it may ask again soon."""
_LONGEST_NAME = 128
_PER = {MINUTE_S: "minute", DAY_S: "day"}


class Quotas:
    """The limits of all callers."""

    def __init__(
        self,
        defaults: CallerLimits,
        store: Store,
        *,
        on_limited: Callable[[str], None] = lambda limit: None,
    ) -> None:
        """`defaults` are for callers without limits of their own. `on_limited` gets the name of the limit."""
        self._defaults = defaults
        self._store = store
        self._on_limited = on_limited

    def visit(self, caller: Caller) -> "Visit":
        """One request of `caller`, with the limits that it is under."""
        own = {name: value for name, value in dataclasses.asdict(caller.limits).items() if value is not None}
        limits = dataclasses.replace(self._defaults, **own)
        return Visit(group(caller.name), limits, self._store, self._on_limited)


class Visit:
    """One request, which may bring several recordings."""

    def __init__(self, key: str, limits: CallerLimits, store: Store, on_limited: Callable[[str], None]) -> None:
        self._key = key
        self._store = store
        self._on_limited = on_limited
        # 0 and None: no limit.
        self._concurrent = _limit(Limit("concurrent", limits.concurrent or 0, "concurrent-requests", None))
        self._requests = _limit(Limit("requests", limits.requests_per_minute or 0, "requests", MINUTE_S))
        self._audio = [
            *_limit(Limit("audio_minute", limits.audio_s_per_minute or 0, "audio-seconds", MINUTE_S)),
            *_limit(Limit("audio_day", limits.audio_s_per_day or 0, "audio-seconds", DAY_S)),
        ]
        self.standings: dict[Limit, Usage] = {}
        """Where the caller stands, as far as it was looked at."""

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Be in for as long as the block lasts. Raises RateLimited, and Unavailable if nothing can be counted.

        Who is refused has used up nothing: the requests of a minute are looked at last.
        """
        lease = uuid.uuid4().hex
        try:
            for limit in self._concurrent:
                self._check(limit, await self._store.acquire(self._key, limit, lease))
            for limit in self._audio:
                self._check(limit, await self._store.look(self._key, limit, 1))
            for limit in self._requests:
                self._check(limit, await self._store.take(self._key, limit, 1))
            yield
        finally:
            if self._concurrent:
                await self._store.release(self._key, lease)

    async def charge(self, seconds: float) -> None:
        """Count a recording, in whole seconds. Raises RateLimited, AudioTooLong, Unavailable; nothing counts then."""
        # Samples do not always divide into the seconds that a file says it has.
        cost = math.ceil(round(seconds, 3))
        if not cost:
            return
        for limit in self._audio:
            if cost > limit.amount:
                raise AudioTooLong(
                    f"The recording lasts {cost} s, and you may send {limit.amount} s of audio a {_per(limit)}: "
                    "cut it into pieces."
                )
        # All before any is used. The same caller's other requests may come between; then the first stays used.
        if len(self._audio) > 1:
            for limit in self._audio:
                self._check(limit, await self._store.look(self._key, limit, cost), cost)
        for limit in self._audio:
            self._check(limit, await self._store.take(self._key, limit, cost), cost)

    def _check(self, limit: Limit, usage: Usage, cost: int = 1) -> None:
        self.standings[limit] = usage
        if usage.fits:
            return
        self._on_limited(limit.name)
        wait_s = CONCURRENT_RETRY_S if limit.window_s is None else usage.wait_s
        raise RateLimited(f"{_reason(limit, usage, cost)} Try again in {math.ceil(wait_s)} s.", retry_after_s=wait_s)


def group(name: str) -> str:
    """What a caller is counted under: its name, but one for all IPv6 addresses of a network that one host may fill."""
    kind, _, rest = name.partition(":")
    if kind == "address":
        return f"address:{network(rest)}"
    return name if len(name) <= _LONGEST_NAME else f"{kind}:sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def network(address: str) -> str:
    """An IPv4 address as it is, an IPv6 address as its /64 network, anything else as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_LONGEST_NAME]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))


def _limit(limit: Limit) -> list[Limit]:
    return [limit] if limit.amount else []


def _per(limit: Limit) -> str:
    assert limit.window_s is not None
    return _PER[limit.window_s]


def _reason(limit: Limit, usage: Usage, cost: int) -> str:
    if limit.window_s is None:
        return f"You have {limit.amount} requests in work, which is as many as you may have at once."
    if limit.unit == "requests":
        return f"You have sent {limit.amount} requests within a minute, which is as many as you may."
    if usage.remaining:
        return (
            f"The recording lasts {cost} s, and of the {limit.amount} s of audio that you may send a {_per(limit)}, "
            f"{usage.remaining} s are left."
        )
    return f"You have sent {limit.amount} s of audio within a {_per(limit)}, which is as much as you may."
