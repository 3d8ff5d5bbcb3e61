"""Limits counted in Redis, for all processes that use it together.

Owns what is kept there: moving windows, by the library `limits`, and leases in sorted sets. Knows nothing of what to do
when Redis is gone: it says StoreGone.
"""

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Collection, Iterator, Mapping

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from asr_service.quotas.stores import DAY_S, MINUTE_S, Limit, StoreGone, Usage

LEASE_S = 60
"""Leases that are not renewed for so long have lost their process."""
_CONNECTIONS = 4
# For what hangs while nobody waits for it; those who ask have their own, shorter patience.
_SOCKET_TIMEOUT_S = 5.0
_SOON_S = 0.001
_PREFIX = "asr"
_ITEMS: Mapping[int, type[RateLimitItem]] = {MINUTE_S: RateLimitItemPerMinute, DAY_S: RateLimitItemPerDay}

# Leases by the time of their end, by Redis' own clock: those of the processes do not matter.
_ACQUIRE = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held = redis.call('ZCARD', KEYS[1])
if held >= tonumber(ARGV[1]) then
  return -1
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[2] + 1)
return held + 1
"""
_RENEW = """
local t = redis.call('TIME')
local expires = t[1] + t[2] / 1000000 + ARGV[1]
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], expires, ARGV[i])
end
redis.call('EXPIRE', KEYS[1], ARGV[1] + 1)
"""


class RedisStore:
    """Implements `SharedStore`."""

    def __init__(self, url: str, *, lease_s: int = LEASE_S) -> None:
        """Does not connect yet. `url` is `redis://`, `rediss://` or `unix://`; raises ValueError for others."""
        self._lease_s = lease_s
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=None,
            # Without a conversation before the first command.
            protocol=2,
            driver_info=None,
            socket_timeout=_SOCKET_TIMEOUT_S,
            socket_connect_timeout=_SOCKET_TIMEOUT_S,
            # A connection may have died unnoticed since it was last used: once more, but not for one that hangs.
            retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
        )
        self._redis = Redis(connection_pool=pool)
        # The address is in the pool. Here it would come back in the library's own errors, with its password.
        self._storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=_PREFIX,
            connection_pool=pool,  # type: ignore[arg-type]
        )
        self._windows = MovingWindowRateLimiter(self._storage)
        self._acquire = self._redis.register_script(_ACQUIRE)
        self._renew = self._redis.register_script(_RENEW)

    async def start(self) -> None:
        """Connections are made when they are needed."""

    async def aclose(self) -> None:
        await self._redis.connection_pool.disconnect()

    async def take(self, key: str, limit: Limit, cost: int) -> Usage:
        item = _item(limit)
        with _errors():
            if await self._windows.hit(item, key, cost=cost):
                return await self._usage(key, limit, 0)
            usage = await self._usage(key, limit, cost)
        # It may fit by now, but was not taken.
        return dataclasses.replace(usage, fits=False, wait_s=max(_SOON_S, usage.wait_s))

    async def look(self, key: str, limit: Limit, cost: int) -> Usage:
        with _errors():
            return await self._usage(key, limit, cost)

    async def acquire(self, key: str, limit: Limit, lease: str) -> Usage:
        with _errors():
            held = int(await self._acquire(keys=[_lease_key(key)], args=[limit.amount, self._lease_s, lease]))
        return Usage(False, 0, None) if held < 0 else Usage(True, limit.amount - held, None)

    async def release(self, key: str, lease: str) -> None:
        with _errors():
            await self._redis.zrem(_lease_key(key), lease)

    async def renew(self, leases: Mapping[str, Collection[str]]) -> None:
        with _errors():
            for key, names in leases.items():
                await self._renew(keys=[_lease_key(key)], args=[self._lease_s, *names])

    async def probe(self) -> None:
        # Written, and not just pinged: a full or read-only Redis answers pings as well.
        name = uuid.uuid4().hex
        with _errors():
            await self._acquire(keys=[_lease_key("probe")], args=[1_000_000, self._lease_s, name])
            await self._redis.zrem(_lease_key("probe"), name)

    async def _usage(self, key: str, limit: Limit, cost: int) -> Usage:
        item, now = _item(limit), time.time()
        window_s = item.get_expiry()
        name = item.key_for(key)
        oldest, used = await self._storage.get_moving_window(name, item.amount, window_s)
        remaining = max(0, item.amount - used)
        reset_s = max(0.0, oldest + window_s - now) if used else float(window_s)
        if cost <= remaining:
            return Usage(True, remaining, reset_s)
        # Of the newest `amount - cost + 1` units, the oldest: once it has left the window, there is room for `cost`.
        blocking, _ = await self._storage.get_moving_window(name, item.amount - cost + 1, window_s)
        return Usage(False, remaining, reset_s, max(_SOON_S, blocking + window_s - now))


def _item(limit: Limit) -> RateLimitItem:
    assert limit.window_s is not None
    return _ITEMS[limit.window_s](limit.amount, namespace=limit.name)


def _lease_key(key: str) -> str:
    return f"{_PREFIX}:concurrent/{key}"


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreGone(f"{type(error).__name__}: {error}") from error
