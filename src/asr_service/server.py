"""The HTTP server: how it is configured, and how it ends: politely, and in time.

Owns the signals and the order of the end. Must not know what is served.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
import uvicorn

from asr_service.admission import Admission
from asr_service.protocol import (
    HEAD_LIMIT_BYTES,
    KEEP_ALIVE_S,
    PING_INTERVAL_S,
    PING_TIMEOUT_S,
    WEBSOCKET_MESSAGE_BYTES,
    Protocol,
    WebSocketProtocol,
)

_CLOSING_S = 2.0
"""What the end takes of the grace time: to send the last bytes, and to stop the engine and the decode workers."""
_SENDING_S = 1

_log = structlog.stdlib.get_logger("asr_service")


def configuration(
    app: Callable[..., Any], trusted_proxies: Sequence[str] = (), http: type[Protocol] = Protocol
) -> uvicorn.Config:
    """How `app` is served. Only what comes from `trusted_proxies` is believed about clients."""
    return uvicorn.Config(
        app,
        http=http,
        h11_max_incomplete_event_size=HEAD_LIMIT_BYTES,
        timeout_keep_alive=KEEP_ALIVE_S,
        ws=WebSocketProtocol,
        ws_max_size=WEBSOCKET_MESSAGE_BYTES,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=PING_TIMEOUT_S,
        # Audio does not shrink, and what was made to explode would.
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
    )


class Server(uvicorn.Server):
    """On SIGTERM and SIGINT it takes nobody in any more, waits for the requests in work, and ends with exit code 0.

    It listens until they are done, so that probes and callers on open connections are told. What the grace time is too
    short for is cancelled by uvicorn. A second SIGINT ends it at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        admission: Admission,
        grace_s: float,
        *,
        on_drain: Callable[[int], None] = lambda requests: None,
    ) -> None:
        """`grace_s`: seconds from the signal to the end of the process, at most. `on_drain` gets the number of requests
        in work when the signal comes.
        """
        config.timeout_graceful_shutdown = _SENDING_S
        super().__init__(config)
        self._admission = admission
        self._grace_s = grace_s
        self._on_drain = on_drain
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Not uvicorn's own, which raises the signal once more when it is done.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="drain")
        elif number is signal.SIGINT:
            self.should_exit = self.force_exit = True

    async def _drain(self) -> None:
        self._admission.close()
        _log.info("shutting down", requests=self._admission.requests)
        self._on_drain(self._admission.requests)
        try:
            async with asyncio.timeout(max(0.0, self._grace_s - _CLOSING_S)):
                await self._admission.emptied()
        except TimeoutError:
            _log.warning("requests are cancelled", requests=self._admission.requests)
        self.should_exit = True
