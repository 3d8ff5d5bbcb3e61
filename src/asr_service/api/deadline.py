"""How long a request may take: its upload, and the work from then on.

Owns both limits and what their end does. Must not know what is uploaded, or what the work is.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

from asr_service.errors import DeadlineExceeded, UploadTimeout

MIN_UPLOAD_BYTES_PER_S = 1024

_Item = TypeVar("_Item")


class Pace:
    """Gives up on a body that stops, or that trickles: a client must not hold a place in the queue for nothing."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Something must come within any `timeout_s`, and on average 1 KiB/s over at least that long."""
        self._timeout_s = timeout_s
        self._clock = clock
        self._since = clock()
        self._bytes = 0

    async def next(self, body: AsyncGenerator[bytes, None]) -> bytes | None:
        """The next chunk; None at the end. Raises UploadTimeout."""
        try:
            async with asyncio.timeout(self._timeout_s):
                chunk = await anext(body, None)
        except TimeoutError:
            raise UploadTimeout(f"Nothing came of the upload for {self._timeout_s:g} s.") from None
        if chunk is not None:
            self._count(len(chunk))
        return chunk

    def _count(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        passed_s = self._clock() - self._since
        if passed_s < self._timeout_s:
            return
        if self._bytes < MIN_UPLOAD_BYTES_PER_S * passed_s:
            raise UploadTimeout(f"The upload is too slow: {self._bytes} bytes came within {passed_s:.0f} s.")
        self._since, self._bytes = self._since + passed_s, 0


class Deadline:
    """A moment at which what is not done yet is cancelled."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s` seconds from now, which should be the end of the upload."""
        self._limit_s = limit_s
        self._at = asyncio.get_running_loop().time() + limit_s

    @contextlib.asynccontextmanager
    async def enforced(self, *, spare_s: float = 0.0) -> AsyncIterator[None]:
        """Cancel the block at the deadline, or `spare_s` seconds later. Raises DeadlineExceeded then."""
        try:
            async with asyncio.timeout_at(self._at + spare_s) as scope:
                yield
        except TimeoutError as error:
            if scope.expired():
                raise DeadlineExceeded(
                    f"The request was not finished within {self._limit_s:g} s: cut the recording into pieces, or try "
                    "again when the service has less to do."
                ) from error
            raise

    async def items(self, source: AsyncGenerator[_Item, None]) -> AsyncGenerator[_Item, None]:
        """What `source` yields, and its end. Raises DeadlineExceeded when the next item is not there in time."""
        async with contextlib.aclosing(source):
            while True:
                async with self.enforced():
                    try:
                        item = await anext(source)
                    except StopAsyncIteration:
                        return
                yield item
