"""The limits of callers, as HTTP has them.

Owns the header fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers) of routes with limits.
What is counted, and where, is the business of `asr_service.quotas`.
"""

import contextlib
import math
from collections.abc import AsyncIterator, Mapping

from asr_service.api.context import RequestRecord
from asr_service.quotas.callers import Quotas, Visit
from asr_service.quotas.stores import Limit, Usage


class LimitedRequest:
    """One request within the limits of its caller, whose answer says where the caller stands."""

    def __init__(self, visit: Visit, record: RequestRecord) -> None:
        self._visit = visit
        self._record = record

    async def charge(self, seconds: float) -> None:
        """Count a recording. Raises RateLimited, AudioTooLong, Unavailable."""
        try:
            await self._visit.charge(seconds)
        finally:
            self.tell()

    def tell(self) -> None:
        """Have the answer say what is known, unless it has begun."""
        self._record.headers |= header_fields(self._visit.standings)


@contextlib.asynccontextmanager
async def limited(record: RequestRecord, quotas: Quotas) -> AsyncIterator[LimitedRequest]:
    """Hold a request within its caller's limits until the block ends. Raises RateLimited, Unavailable."""
    assert record.caller is not None, "routes with limits recognise their callers first"
    visit = quotas.visit(record.caller)
    request = LimitedRequest(visit, record)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(visit.enter())
        finally:
            request.tell()
        yield request


def header_fields(standings: Mapping[Limit, Usage]) -> dict[str, str]:
    """Both fields as lists of structured fields (RFC 9651), or none where there are no limits."""
    if not standings:
        return {}
    return {
        "RateLimit-Policy": ", ".join(_policy(limit) for limit in standings),
        "RateLimit": ", ".join(_standing(limit, usage) for limit, usage in standings.items()),
    }


def _policy(limit: Limit) -> str:
    parts = [f'"{limit.name}"', f"q={limit.amount}"]
    if limit.unit != "requests":
        parts.append(f'qu="{limit.unit}"')
    if limit.window_s is not None:
        parts.append(f"w={limit.window_s}")
    return ";".join(parts)


def _standing(limit: Limit, usage: Usage) -> str:
    reset = "" if usage.reset_s is None else f";t={max(1, math.ceil(usage.reset_s))}"
    return f'"{limit.name}";r={usage.remaining}{reset}'
