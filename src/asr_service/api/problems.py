"""Errors as application/problem+json (RFC 9457); under /v1 as OpenAI's clients expect them.

Owns how every error of the service and of the framework looks on the wire. What an error means is in errors.py.
"""

import math
import re
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from asr_service.api import openai_schemas
from asr_service.api.context import record_of
from asr_service.api.schemas import Problem
from asr_service.errors import AsrError, Forbidden, InvalidOption, Unauthenticated, UploadTimeout

MEDIA_TYPE = "application/problem+json"
OPENAI_PREFIX = "/v1/"
REALM = "asr-service"

_FRAMEWORK_ERRORS = {
    404: ("not_found", "There is nothing at this path; /docs lists what there is."),
    405: ("method_not_allowed", "This path does not answer to this method; the header Allow names those that it does."),
}
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
INTERNAL_DETAIL = "Something went wrong inside the service; the log has the details under this request_id."


def problem(
    request: HTTPConnection,
    status: int,
    code: str,
    detail: str,
    *,
    option: str | None = None,
    retry_after_s: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response for an error, noted in the request's record too."""
    record = record_of(request.scope)
    record.code, record.error = code, loggable(detail)
    all_headers = dict(headers or {})
    if retry_after_s is not None:
        all_headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    # Not `request.url`, which is made of the header Host and so may not be readable.
    if request.scope["path"].startswith(OPENAI_PREFIX):
        status = 400 if status in (415, 422) else status
        envelope = openai_schemas.ErrorReply.build(status, code, detail, option)
        return JSONResponse(envelope.model_dump(), status, all_headers)
    body = problem_of(status, code, detail, record.request_id)
    return JSONResponse(body.model_dump(), status, all_headers, media_type=MEDIA_TYPE)


def loggable(detail: str) -> str:
    """A sentence without what it quotes: callers' words, which belong into their answer, but not into the log."""
    return _QUOTED.sub("'…'", detail)


def problem_of(status: int, code: str, detail: str, request_id: str) -> Problem:
    """The document for an error."""
    return Problem(
        type=f"urn:asr-service:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
    )


def install(app: FastAPI) -> None:
    """Answer all errors of `app` as problems."""
    app.add_exception_handler(AsrError, _on_asr_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_asr_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AsrError)
    return error_response(request, error)


def error_response(request: HTTPConnection, error: AsrError) -> JSONResponse:
    """The response for one of our errors, noted in the request's record too."""
    headers = {}
    if isinstance(error, UploadTimeout):
        # Else the server would go on reading what still trickles in.
        headers["Connection"] = "close"
    if isinstance(error, Unauthenticated | Forbidden):
        headers["WWW-Authenticate"] = _challenge(error)
    return problem(
        request,
        error.status,
        error.code,
        error.message,
        option=error.option,
        retry_after_s=error.retry_after_s,
        headers=headers,
    )


def _challenge(error: Unauthenticated | Forbidden) -> str:
    """RFC 6750, section 3: without credentials the challenge names no error."""
    if isinstance(error, Forbidden):
        return f'Bearer realm="{REALM}", error="insufficient_scope", scope="{error.scope}"'
    return f'Bearer realm="{REALM}"' + (', error="invalid_token"' if error.credentials_given else "")


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code, detail = _FRAMEWORK_ERRORS.get(error.status_code, ("http_error", error.detail))
    return problem(request, error.status_code, code, detail, headers=error.headers)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    sentences = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
    return problem(request, InvalidOption.status, InvalidOption.code, "; ".join(sentences))
