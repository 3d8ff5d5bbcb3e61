"""One live session over its WebSocket, from the handshake to the last text.

Owns the connection and what runs beside what: sending at the audio's pace, reading, and the end. Knows neither what
events mean nor how text is shown.
"""

import asyncio
import contextlib
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from asr_service import __version__
from asr_service.live.address import Address
from asr_service.live.dialogue import Dialogue
from asr_service.live.failures import LiveFailed, broken_off, unreachable
from asr_service.live.pace import Pieces, until
from asr_service.live.show import Show

LAST_WORDS_S = 10.0
"""How long the last text is waited for once somebody has said stop."""
_CONNECT_S = 10.0
_CLOSE_S = 2.0
_PING_EVERY_S, _PONG_WITHIN_S = 20.0, 60.0
_MAX_MESSAGE_BYTES = 16 * 2**20


class _Direct(connect):
    """Follows no redirects: a key must not travel further than it was meant to."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def talk(
    address: Address,
    dialogue: Dialogue,
    pieces: Pieces,
    show: Show,
    stop: asyncio.Event,
    *,
    on_ready: Callable[[], None] = lambda: None,
    last_words_s: float = LAST_WORDS_S,
) -> None:
    """Send `pieces` until they end or `stop`, and show what comes back until all of it has its text.

    Raises LiveFailed; when the pieces fail, after what was heard before has become text.
    """
    async with contextlib.aclosing(pieces):
        socket = await _connected(address)
        try:
            async with socket:
                try:
                    await _begin(socket, dialogue, show)
                    on_ready()
                    await _converse(socket, dialogue, until(stop, pieces), show, stop, last_words_s)
                except asyncio.CancelledError:
                    # Whoever ends it all does not want to wait for farewells either.
                    socket.transport.abort()
                    raise
        except ConnectionClosed as closed:
            raise broken_off(closed) from None


async def _connected(address: Address) -> ClientConnection:
    try:
        return await _Direct(
            address.url,
            additional_headers={"Authorization": f"Bearer {address.api_key}"} if address.api_key else None,
            user_agent_header=f"asr-service-live/{__version__}",
            # The audio goes to the address that was asked for, and PCM is not worth compressing.
            proxy=None,
            compression=None,
            open_timeout=_CONNECT_S,
            close_timeout=_CLOSE_S,
            ping_interval=_PING_EVERY_S,
            ping_timeout=_PONG_WITHIN_S,
            max_size=_MAX_MESSAGE_BYTES,
        )
    except (OSError, InvalidHandshake) as error:
        raise unreachable(address.url, error) from None


async def _begin(socket: ClientConnection, dialogue: Dialogue, show: Show) -> None:
    for message in dialogue.opening():
        # One that does not take them has said why.
        with contextlib.suppress(ConnectionClosed):
            await socket.send(message)
    while not dialogue.ready:
        show.outcomes(dialogue.take(await socket.recv()))


async def _converse(
    socket: ClientConnection, dialogue: Dialogue, pieces: Pieces, show: Show, stop: asyncio.Event, last_words_s: float
) -> None:
    reading = asyncio.create_task(_read(socket, dialogue, show), name="live-read")
    sending = asyncio.create_task(_send(socket, dialogue, pieces), name="live-send")
    limit = asyncio.create_task(_not_for_ever(reading, stop, last_words_s), name="live-limit")
    tasks: set[asyncio.Task[LiveFailed | None]] = {reading, sending, limit}
    pending = tasks
    try:
        while not reading.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        if (failure := await sending) is not None:
            raise failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(socket: ClientConnection, dialogue: Dialogue, show: Show) -> None:
    while not dialogue.done:
        outcomes = dialogue.take(await socket.recv())
        # What is final is no draft any more: it is not shown twice, however short the moment.
        show.drafts(dialogue.drafts)
        show.outcomes(outcomes)


async def _send(socket: ClientConnection, dialogue: Dialogue, pieces: Pieces) -> LiveFailed | None:
    """Send all audio, and that it was all. Returns what went wrong with the audio, which is no reason to lose text."""
    failure = None
    try:
        async with contextlib.aclosing(pieces):
            try:
                async for piece in pieces:
                    await socket.send(piece)
            except LiveFailed as failed:
                failure = failed
        for message in dialogue.closing():
            await socket.send(message)
    except ConnectionClosed:
        # Who reads comes to the same end, after all that was said before.
        return failure
    return failure


async def _not_for_ever(reading: "asyncio.Task[None]", stop: asyncio.Event, limit_s: float) -> None:
    await stop.wait()
    await asyncio.wait({reading}, timeout=limit_s)
    if not reading.done():
        raise LiveFailed(f"The service had no text for the last words within {limit_s:g} s.")
