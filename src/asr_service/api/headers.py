"""What every answer tells a browser: what it may do with it, and which other sites may ask.

Owns the security headers and cross-origin access. An answer that brings a header of its own keeps it: pages need
another Content-Security-Policy than data, and files may be cached.
"""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULTS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Right for data that nobody should render, frame, embed or keep: transcripts, errors, probes, metrics."""

EXPOSED = ("X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy")
_PREFLIGHT_S = 600
_STARTS = frozenset(("http.response.start", "websocket.http.response.start"))


class SecurityHeaders:
    """Adds the headers that an answer lacks. The outermost layer, so that no answer goes without."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = MutableHeaders(scope=message)
                for name, value in DEFAULTS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def install(app: FastAPI, origins: Sequence[str]) -> None:
    """Give all answers of `app` these headers, and let pages from `origins` read them. Call it after all other
    middleware has been added.

    They send their credentials in headers of their own; cookies and client certificates are never asked for, so
    that `*` opens nothing to a page that its user has not given a key.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            # Clients of OpenAI's API send many of their own; what matters is who may ask.
            allow_headers=("*",),
            expose_headers=EXPOSED,
            max_age=_PREFLIGHT_S,
        )
    app.add_middleware(SecurityHeaders)
