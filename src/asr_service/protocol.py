"""One HTTP connection: what it may cost before and between its requests.

Owns the limits on request heads and on connections that do not work, and how bytes that are not HTTP are answered. What
a request is given to is the application's business, and how long its upload may take too.
"""

import asyncio
import json
import logging
import resource

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_LIMIT_BYTES = 32 * 1024
"""Of a request line with all headers. More is answered with 400."""

KEEP_ALIVE_S = 75
"""Longer than proxies keep idle connections (nginx: 60 s): they close them, and no request meets a closing one."""

WEBSOCKETS = frozenset(("/v1/realtime",))
"""Where a connection may become a WebSocket. Elsewhere the wish is ignored, as HTTP allows."""
WEBSOCKET_MESSAGE_BYTES = 2 * 1024 * 1024
"""More ends the connection without a word; what is merely more than a session takes is told in an event."""
PING_INTERVAL_S, PING_TIMEOUT_S = 20.0, 60.0

_log = structlog.stdlib.get_logger("asr_service")

_REFUSAL = json.dumps(
    {
        "type": "urn:asr-service:problem:bad_request",
        "title": "Bad request",
        "status": 400,
        "detail": "This is not a request that HTTP/1.1 allows, or its head is too long.",
        "code": "bad_request",
    }
).encode()


class Protocol(H11Protocol):
    """uvicorn's, with a limit on the time in which no request is in work, though bytes may trickle.

    It covers a head that comes slowly or not at all, and a body that goes on after its answer. When half of the files
    that the process may open are connections, further ones are closed at once: the rest is for the requests in work.
    """

    head_timeout_s = 20.0

    _out_of_patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2:
            _log.warning("too many connections", connections=len(self.connections))
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and len(data) > HEAD_LIMIT_BYTES:
            # h11 looks at the size of a head only while it is incomplete, and this one may be whole.
            super().data_received(data[: HEAD_LIMIT_BYTES + 1])
            data = data[HEAD_LIMIT_BYTES + 1 :]
        if not self.transport.is_closing():
            super().data_received(data)
        if self.transport.get_protocol() is self:
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The time for keeping an idle connection is another, and already runs.
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def _watch(self) -> None:
        working = self.cycle is not None and not self.cycle.response_complete
        if working or self.transport.is_closing():
            self._relax()
        elif self._out_of_patience is None:
            self._out_of_patience = self.loop.call_later(self.head_timeout_s, self.transport.abort)

    def _relax(self) -> None:
        if self._out_of_patience is not None:
            self._out_of_patience.cancel()
            self._out_of_patience = None

    def _should_upgrade(self) -> bool:
        # Without the two warnings that uvicorn writes for every other request that asks for something.
        is_ours = self.scope["path"] in WEBSOCKETS and self.scope["method"] == "GET"
        if is_ours and self._get_upgrade() == b"websocket":
            self._relax()
            return True
        return False

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # The answer has begun already.
            self.transport.close()
            return
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(_REFUSAL)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=_REFUSAL)):
            self.transport.write(self.conn.send(event) or b"")
        self.conn.send(h11.EndOfMessage())
        self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, without its lines for each handshake, and for each that is refused: the service has its own."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.logger = self.conn.logger = _websocket_log


_websocket_log = logging.getLogger("uvicorn.error.websocket")
_websocket_log.setLevel(logging.CRITICAL)
