"""When a piece of audio is due, and that no more comes after somebody has said stop.

Owns the clock of what is sent. Knows nothing of where audio comes from or goes to.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

Pieces = AsyncGenerator[bytes, None]
"""Audio in pieces of whole samples, in the order in which it was heard."""


async def paced(
    pieces: Pieces,
    bytes_per_s: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,  # noqa: TID251 - the pace of speech
) -> Pieces:
    """The same pieces, each when its last sample has been spoken if the first was at the start; 0: at once.

    Times count from the start, so that nothing drifts: who was held up catches up.
    """
    async with contextlib.aclosing(pieces):
        started_s, sent_bytes = clock(), 0
        async for piece in pieces:
            sent_bytes += len(piece)
            early_s = started_s + sent_bytes / bytes_per_s - clock() if bytes_per_s else 0.0
            if early_s > 0:
                await pause(early_s)
            yield piece


async def until(stop: asyncio.Event, pieces: Pieces) -> Pieces:
    """The same pieces until `stop`, however long the next of them would take."""
    stopped = asyncio.create_task(stop.wait())
    try:
        async with contextlib.aclosing(pieces):
            while not stop.is_set():
                following = asyncio.create_task(_next(pieces))
                try:
                    await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not following.done():
                        following.cancel()
                        await asyncio.wait({following})
                piece = None if following.cancelled() else following.result()
                if piece is None:
                    return
                yield piece
    finally:
        stopped.cancel()


async def _next(pieces: Pieces) -> bytes | None:
    return await anext(pieces, None)
