"""The OpenAPI document: its introduction, and how errors appear in it.

Owns texts for readers of /docs. The endpoints describe themselves.
"""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from asr_service.api.openai_schemas import ErrorReply
from asr_service.api.schemas import Problem
from asr_service.errors import (
    AsrError,
    AudioTooLong,
    AuthUnavailable,
    DeadlineExceeded,
    EngineCrashed,
    EngineError,
    EngineNotReady,
    Forbidden,
    InvalidInput,
    InvalidOption,
    MissingAudio,
    Overloaded,
    RateLimited,
    ShuttingDown,
    TokensNotIssued,
    Unauthenticated,
    Unavailable,
    UnknownModel,
    UnreadableAudio,
    UnsupportedUpload,
    UploadTimeout,
    UploadTooLarge,
)

DESCRIPTION = """\
Speech recognition: send a recording, get what was said.

```
curl -F file=@recording.mp3 http://127.0.0.1:8000/transcribe
curl --data-binary @recording.wav -H "Content-Type: audio/wav" "http://127.0.0.1:8000/transcribe?language=en"
```

Existing clients of OpenAI's API work with `http://127.0.0.1:8000/v1` as their base URL.

Errors are [problem documents](https://www.rfc-editor.org/rfc/rfc9457) with a stable `code`. Every answer carries the
header `X-Request-ID`; send your own (letters, digits, `.`, `_`, `-`; at most 128) to find a request in the log. A 503
says in `Retry-After` when to try again.
"""

_INTERNAL = "Something unexpected; the log has the details."
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}

# Each error once, with the sentence that describes it to readers.
ERRORS: dict[type[AsrError], str] = {
    InvalidInput: "The form is malformed.",
    MissingAudio: "There is no file, or it is empty.",
    UnreadableAudio: "It is not audio, has no sound, or is damaged beyond reading.",
    Unauthenticated: "There is no API key or token, or it is not valid.",
    Forbidden: "The API key or token lacks the scope that this needs.",
    TokensNotIssued: "The service has no secret to sign tokens with, or takes no API keys.",
    UploadTimeout: "The body arrives too slowly, or not at all.",
    UploadTooLarge: "The body is larger than the service takes.",
    UnknownModel: "The model that is named is not served here.",
    AudioTooLong: "The recording is longer than the service takes.",
    UnsupportedUpload: "The body is neither a form nor audio.",
    InvalidOption: "An option is unknown, given twice, or has a value that the model cannot follow.",
    EngineError: "The model failed on this recording.",
    Unavailable: "A resource of the service is used up; try again later.",
    Overloaded: "Too many requests, or too much audio, are waiting.",
    ShuttingDown: "The service is shutting down.",
    RateLimited: "More than this caller may use, or too many refused credentials from its address.",
    AuthUnavailable: "Who issues tokens cannot be reached, so they cannot be checked.",
    EngineNotReady: "The model is still loading, or engines keep dying.",
    EngineCrashed: "The engine died repeatedly while it worked on this recording.",
    DeadlineExceeded: "The recording was not finished in time.",
}


_CHALLENGE = {"WWW-Authenticate": {"description": "As RFC 6750 says.", "schema": {"type": "string"}}}
_HEADERS = {401: _CHALLENGE, 403: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def openai_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route under /v1: errors in OpenAI's envelope, with the same codes."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        possible = {
            error.code: sentence
            for error, sentence in ERRORS.items()
            if (400 if error.status in (415, 422) else error.status) == status and error is not TokensNotIssued
        }
        if status == 500:
            possible["internal_error"] = _INTERNAL
        examples = {
            code: {"value": ErrorReply.build(status, code, text, None).model_dump()} for code, text in possible.items()
        }
        responses[status] = {
            "model": ErrorReply,
            "description": "\n".join(f"- `{code}`: {sentence}" for code, sentence in possible.items()),
            "content": {"application/json": {"examples": examples}},
        }
        if status in _HEADERS:
            responses[status]["headers"] = _HEADERS[status]
    return responses


def problem_responses(*statuses: int, without: Collection[type[AsrError]] = ()) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these error statuses, but never `without`."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        possible = {
            error.code: sentence
            for error, sentence in ERRORS.items()
            if error.status == status and error not in without
        }
        if status == 500:
            possible["internal_error"] = _INTERNAL
        responses[status] = {
            "description": "\n".join(f"- `{code}`: {sentence}" for code, sentence in possible.items()),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {code: {"value": _example(status, code, text)} for code, text in possible.items()},
                }
            },
        }
        if status in _HEADERS:
            responses[status]["headers"] = _HEADERS[status]
    return responses


def install(app: FastAPI) -> None:
    """Give `app` a document that knows the Problem schema."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _example(status: int, code: str, detail: str) -> dict[str, Any]:
    return Problem(
        type=f"urn:asr-service:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        request_id="3f0c4e0f5d9b4c2e9a55b6c8e7d10a2f",
    ).model_dump()
