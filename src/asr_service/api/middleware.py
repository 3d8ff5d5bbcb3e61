"""The outermost layer: gives every request an id and accounts for it when it ends.

Owns request ids, the one log line per request, the request metric, what answers say while the service shuts down, and
the last resort for unexpected errors. A plain ASGI middleware: it neither buffers bodies nor hides a client's
disconnect from the handlers.
"""

import asyncio
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
from asr_service.observability.metrics import Metrics

REQUEST_ID_HEADER = "X-Request-ID"
CLIENT_GONE_STATUS = 499
"""nginx's status for a client that left before its answer; only in logs and metrics, nobody is there to read it."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_QUIET_ROUTES = frozenset(("/livez", "/readyz", "/metrics"))

_log = structlog.stdlib.get_logger("asr_service.requests")


class RequestContext:
    """Gives every request an id and a record, and accounts for it at its end."""

    def __init__(self, app: ASGIApp, metrics: Metrics, admission: Admission) -> None:
        self._app = app
        self._metrics = metrics
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        record = RequestRecord(_request_id(scope))
        scope.setdefault("state", {})["record"] = record
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = record.request_id
                if self._admission.closed:
                    # The next request belongs elsewhere, and nobody should wait for one here.
                    headers["Connection"] = "close"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=record.request_id):
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

    def _account(self, scope: Scope, record: RequestRecord, status: int, total_ms: float) -> None:
        # Templates and known methods only: a stranger must not be able to create endless label values.
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.request_ended(route, method, status, record.code)
        line: dict[str, Any] = {"method": method, "route": route, "status": status, "code": record.code}
        if record.error is not None:
            line["error"] = record.error
        line |= record.facts
        line["request_ms"] = round(total_ms, 1)
        log = _log.debug if route in _QUIET_ROUTES else _log.warning if status >= 500 else _log.info
        log("request", **line)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
