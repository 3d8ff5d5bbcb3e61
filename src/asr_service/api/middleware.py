"""The outermost layer: gives every request an id and accounts for it when it ends.

Owns request ids, the one log line per request, its trace and its metric, what answers say while the service shuts
down, and the last resort for unexpected errors. A plain ASGI middleware: it neither buffers bodies nor hides a client's
disconnect from the handlers.
"""

import asyncio
import dataclasses
import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr_service.admission import Admission, shutting_down
from asr_service.api.context import RequestRecord
from asr_service.api.problems import INTERNAL_DETAIL, problem
from asr_service.observability import traceparent
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import NO_SPAN, Tracer

REQUEST_ID_HEADER = "X-Request-ID"
SWITCHED_STATUS = 101
CLIENT_GONE_STATUS = 499
"""nginx's status for a client that left before its answer; only in logs and metrics, nobody is there to read it."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_QUIET_ROUTES = frozenset(("/livez", "/readyz", "/metrics"))

_log = structlog.stdlib.get_logger("asr_service.requests")


class RequestContext:
    """Gives every request an id and a record, and accounts for it at its end."""

    def __init__(self, app: ASGIApp, metrics: Metrics, admission: Admission, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer
        self._metrics = metrics
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        started = time.perf_counter()
        record, about = self._begin(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(record.headers)
                headers[REQUEST_ID_HEADER] = record.request_id
                if self._admission.closed:
                    # The next request belongs elsewhere, and nobody should wait for one here.
                    headers["Connection"] = "close"
            await send(message)

        with structlog.contextvars.bound_contextvars(**about):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status, record.code = CLIENT_GONE_STATUS, "client_gone"
            except asyncio.CancelledError:
                record.code = "cancelled"
                if status or not self._admission.closed:
                    raise
                # The time for shutting down is over.
                error = shutting_down()
                response = problem(
                    Request(scope), error.status, error.code, error.message, retry_after_s=error.retry_after_s
                )
                await response(scope, receive, send_with_id)
            except Exception:
                _log.exception("unexpected error")
                record.code = "internal_error"
                if status:
                    raise  # The answer is half sent: only a broken connection tells the client.
                response = problem(Request(scope), 500, "internal_error", INTERNAL_DETAIL)
                await response(scope, receive, send_with_id)
            finally:
                self._account(scope, record, status, (time.perf_counter() - started) * 1000)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        record, about = self._begin(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                status = message.get("status", SWITCHED_STATUS)
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                headers.update(record.headers)
                headers[REQUEST_ID_HEADER] = record.request_id
                message["headers"] = headers.raw
            await send(message)

        with structlog.contextvars.bound_contextvars(**about):
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:
                record.code = "cancelled"
                raise
            except Exception:  # noqa: BLE001 - logged, and the client is told by the way that its session ends
                _log.exception("unexpected error")
                record.code = "internal_error"
                await send({"type": "websocket.close", "code": 1011, "reason": "internal_error"})
            finally:
                self._account(scope, record, status, (time.perf_counter() - started) * 1000)

    def _begin(self, scope: Scope) -> tuple[RequestRecord, dict[str, str]]:
        """The request's record, and the fields that all its log lines have."""
        parent = traceparent.parse(Headers(scope=scope).getlist(traceparent.HEADER))
        # Probes and scrapes would be most of what is traced, and nobody wonders where their time went.
        span = NO_SPAN if scope["path"] in _QUIET_ROUTES else self._tracer.request(parent)
        record = RequestRecord(_request_id(scope), span=span)
        scope.setdefault("state", {})["record"] = record
        # Without traces of our own, what happens here happens in the caller's span.
        place = span.ids or (parent.ids if parent is not None else None)
        return record, {"request_id": record.request_id} | (dataclasses.asdict(place) if place is not None else {})

    def _account(self, scope: Scope, record: RequestRecord, status: int, total_ms: float) -> None:
        # Templates and known methods only: a stranger must not be able to create endless label values.
        route = getattr(scope.get("route"), "path", "unmatched")
        is_request = scope["type"] == "http"
        asked = scope["method"] if is_request else "WEBSOCKET"
        method = asked if asked in _METHODS or not is_request else "other"
        caller = record.caller.kind if record.caller is not None else "none"
        seconds = total_ms / 1000 if is_request else None
        self._metrics.request_ended(route, method, status, record.code, caller=caller, seconds=seconds)
        line: dict[str, Any] = {"method": method, "route": route, "status": status, "code": record.code}
        if record.error is not None:
            line["error"] = record.error
        if record.caller is not None:
            line["caller"] = record.caller.name
        line |= record.facts
        line["request_ms"] = round(total_ms, 1)
        log = _log.debug if route in _QUIET_ROUTES else _log.warning if status >= 500 else _log.info
        log("request", **line)
        record.span.add(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "asr.request_id": record.request_id,
            }
        )
        refused = 400 <= status < 500
        record.span.end(
            name=f"{method} {route}", error=None if record.code == "ok" else record.code, our_fault=not refused
        )


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
