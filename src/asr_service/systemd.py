"""What systemd is told: that the service is ready, how it is, that it ends, and, again and again, that it is alive.

Owns the protocol of sd_notify(3): lines of text in a datagram to a Unix socket. Knows no engine and no settings.
"""

import asyncio
import socket
from collections.abc import Callable

import structlog

_log = structlog.stdlib.get_logger("asr_service")


class Notifier:
    """Tells systemd. Without an `address` (the service was started by something else) it says nothing."""

    def __init__(self, address: str | None) -> None:
        """`address`: a path, or a name in the abstract namespace with @ before it."""
        self._address = address
        self._was_ready = False

    def engine_state(self, not_ready_reason: str | None) -> None:
        """The engine is ready (None), or not, for a reason. When it is for the first time, the start is over."""
        if not_ready_reason is not None:
            self._tell(f"STATUS=not ready: {' '.join(not_ready_reason.split())}")
        elif self._was_ready:
            self._tell("STATUS=ready")
        else:
            self._was_ready = True
            self._tell("READY=1", "STATUS=ready")

    def stopping(self, requests: int) -> None:
        """The service ends as soon as the `requests` in work are done."""
        self._tell("STOPPING=1", f"STATUS=shutting down; requests in work: {requests}")

    async def watchdog(self, interval_s: float, is_alive: Callable[[], bool]) -> None:
        """Say every `interval_s` seconds that the service is alive, for as long as it is.

        It is said from the event loop, so a loop that is blocked says nothing either; systemd ends such a service.
        """
        while is_alive():
            self._tell("WATCHDOG=1")
            await asyncio.sleep(interval_s)  # noqa: TID251 - the next moment to speak is what is waited for
        _log.error("the service is stuck; systemd will end it")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.connect(address)
                sock.send("\n".join(lines).encode(errors="replace"))
        except OSError as error:
            # What the service does is worth more than what is known of it.
            _log.warning("systemd could not be told", what=lines[0], error=str(error))
