"""Who is asking, and may they: the gate before every protected route, and POST /auth/token.

Owns where credentials stand in a request, and what of a refusal is told to the caller: never why. The reason goes into
the log and the metrics. How credentials are checked is the business of `asr_service.auth`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from asr_service.api import cookies
from asr_service.api.context import record_of
from asr_service.api.openapi import problem_responses
from asr_service.auth import KeysUnavailable, Refused
from asr_service.auth.grants import SCOPES, known_scopes
from asr_service.callers import Caller, Scope
from asr_service.errors import (
    AuthUnavailable,
    Forbidden,
    InvalidOption,
    RateLimited,
    TokensNotIssued,
    Unauthenticated,
    UnknownModel,
    UnsupportedUpload,
    UploadTimeout,
    UploadTooLarge,
)
from asr_service.observability.metrics import Metrics

if TYPE_CHECKING:
    from asr_service.auth.authenticator import Authenticator

KEY_HEADER = "X-API-Key"
_NO_CREDENTIALS = (
    f"This needs an API key or a token: send it as `Authorization: Bearer …`, or an API key as `{KEY_HEADER}: …`."
)
# One sentence for whatever is wrong, so that nobody learns which keys exist.
_BAD_CREDENTIALS = "The API key or token is not valid."
_OPEN_SCOPES: frozenset[Scope] = frozenset(("transcribe", "metrics"))
_MAX_FORM_BYTES = 4096
_FORM_TIMEOUT_S = 10.0
_FORM_TYPE = "application/x-www-form-urlencoded"
_Known = TypeVar("_Known")


class FailedLogins(Protocol):
    """Counts refused credentials by address."""

    async def may_try(self, address: str) -> float | None:
        """None, or for how many seconds no credentials are looked at from this address, not even good ones."""

    async def failed_login(self, address: str) -> None:
        """Credentials from this address were refused."""


class Gate:
    """Recognises callers and turns away those who may not do what they ask for."""

    def __init__(self, authenticator: "Authenticator | None", metrics: Metrics, failed_logins: FailedLogins) -> None:
        """Without an authenticator everybody may transcribe and read the metrics, and is known by address."""
        self.authenticator = authenticator
        self._metrics = metrics
        self._failed_logins = failed_logins

    async def enter(self, connection: HTTPConnection, scope: Scope, credentials: Collection[str] = ()) -> Caller:
        """The caller, who is noted in the record. Raises Unauthenticated, Forbidden, RateLimited, AuthUnavailable.

        `credentials`: what the request shows for itself elsewhere than in its headers for that.
        """
        if self.authenticator is None:
            caller = Caller(f"address:{_address(connection)}", _OPEN_SCOPES)
        else:
            caller = await self._checked(connection, self.authenticator.caller, credentials)
        record_of(connection.scope).caller = caller
        if not caller.may(scope):
            self._metrics.auth_refused("scope")
            raise Forbidden(f"The API key or token lacks the scope {scope}.", scope=scope)
        return caller

    async def token(
        self, connection: HTTPConnection, wanted_scopes: Callable[[], Awaitable[frozenset[str] | None]]
    ) -> "TokenReply":
        """A token for the holder of an API key. Raises as `enter` does, and TokensNotIssued, InvalidOption."""
        if self.authenticator is None or self.authenticator.issuer is None:
            raise TokensNotIssued(
                "Tokens are not made here: that takes ASR_AUTH__MODE=required, ASR_AUTH__KEYS_FILE and "
                "ASR_AUTH__JWT__SECRET."
            )
        caller, until = await self._checked(connection, self.authenticator.key_holder)
        record_of(connection.scope).caller = caller
        scopes = caller.scopes
        if (names := await wanted_scopes()) is not None:
            scopes = known_scopes(names)
            if scopes != names:
                raise InvalidOption(f"The scopes are {', '.join(SCOPES)}, separated by spaces.", option="scope")
            for scope in scopes:
                if not caller.may(scope):
                    self._metrics.auth_refused("scope")
                    raise Forbidden(f"The API key lacks the scope {scope}.", scope=scope)
        token, lifetime_s = self.authenticator.issuer.issue(caller, scopes, until)
        return TokenReply(access_token=token, expires_in=lifetime_s, scope=" ".join(sorted(scopes)))

    async def _checked(
        self,
        connection: HTTPConnection,
        check: Callable[[str], Awaitable[_Known]],
        credentials: Collection[str] = (),
    ) -> _Known:
        """What `check` makes of the request's credentials."""
        given = _credentials(connection.headers).union(credentials, cookies.credentials(connection))
        if not given:
            self._metrics.auth_refused("missing")
            raise Unauthenticated(_NO_CREDENTIALS, credentials_given=False)
        address = _address(connection)
        if (wait_s := await self._failed_logins.may_try(address)) is not None:
            self._metrics.auth_refused("failures")
            raise RateLimited("Too many credentials from this address were refused.", retry_after_s=wait_s)
        try:
            if len(given) > 1:
                raise Refused("malformed", "more than one credential")
            return await check(given.pop())
        except Refused as refused:
            self._metrics.auth_refused(refused.reason)
            record_of(connection.scope).facts["auth_refused"] = refused.detail
            await self._failed_logins.failed_login(address)
            raise Unauthenticated(_BAD_CREDENTIALS, credentials_given=True) from None
        except KeysUnavailable as error:
            self._metrics.auth_refused("unavailable")
            raise AuthUnavailable(
                "Tokens cannot be checked at the moment.", retry_after_s=error.retry_after_s
            ) from None


class TokenReply(BaseModel):
    """As OAuth 2.0 lays it out (RFC 6749, section 5.1)."""

    access_token: str = Field(description="Send it as `Authorization: Bearer …`.")
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of a kind
    expires_in: int = Field(description="Seconds until it ends.")
    scope: str = Field(description="What it allows, separated by spaces.")


# These two are only for the document: a request's headers are read by the gate, which also sees several of a name.
_BEARER = HTTPBearer(
    scheme_name="bearer", auto_error=False, description="An API key, or a token of an issuer that is trusted here."
)
_API_KEY = APIKeyHeader(name=KEY_HEADER, scheme_name="apiKey", auto_error=False, description="An API key.")
_SCHEMES = [Security(_BEARER), Security(_API_KEY)]


def gate_of(connection: HTTPConnection) -> Gate:
    """The gate of the application that handles this request."""
    gate: Gate = connection.app.state.gate
    return gate


def _needs(scope: Scope) -> list[Any]:
    async def caller_of(request: Request) -> Caller:
        return await gate_of(request).enter(request, scope)

    return [*_SCHEMES, Depends(caller_of)]


TRANSCRIBE = _needs("transcribe")
"""Dependencies of routes for callers who may transcribe. They come before the body is read."""
METRICS = _needs("metrics")
"""Dependencies of routes for callers who may read metrics."""

router = APIRouter(tags=["authentication"])


@router.post(
    "/auth/token",
    summary="A short-lived token for an API key",
    dependencies=_SCHEMES,
    responses=problem_responses(401, 403, 404, 408, 413, 415, 422, 429, 503, without=(UnknownModel,)),
    openapi_extra={
        "requestBody": {
            "content": {
                _FORM_TYPE: {
                    "schema": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "grant_type": {"type": "string", "enum": ["client_credentials"]},
                            "scope": {
                                "type": "string",
                                "description": f"Some of {', '.join(SCOPES)}, separated by spaces: not more than the "
                                "key allows. Without it: all that the key allows.",
                            },
                        },
                    }
                }
            }
        }
    },
)
async def issue_token(request: Request, response: Response) -> TokenReply:
    """Send an API key, get a token that can be handed on, to a browser for example: it counts for the same limits,
    allows the same or less, and ends by itself. It cannot be revoked before, and not be used to get another.
    """

    async def wanted_scopes() -> frozenset[str] | None:
        return _scopes(await form_of(request))

    reply = await gate_of(request).token(request, wanted_scopes)
    response.headers["Cache-Control"] = "no-store"
    return reply


def _scopes(form: list[tuple[str, str]]) -> frozenset[str] | None:
    fields = dict(form)
    if len(fields) < len(form) or fields.keys() - {"grant_type", "scope"}:
        raise InvalidOption("The form has grant_type and scope, once each.")
    if fields.get("grant_type", "client_credentials") != "client_credentials":
        raise InvalidOption("The only grant type is client_credentials.", option="grant_type")
    return frozenset(fields["scope"].split()) if fields.get("scope", "").strip() else None


async def form_of(request: Request) -> list[tuple[str, str]]:
    """The fields of a small form. Raises UploadTooLarge, UploadTimeout, UnsupportedUpload, InvalidOption."""
    body = b""
    try:
        async with asyncio.timeout(_FORM_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > _MAX_FORM_BYTES:
                    raise UploadTooLarge(f"The form has more than {_MAX_FORM_BYTES} bytes.")
    except TimeoutError:
        raise UploadTimeout("The form arrives too slowly.") from None
    if body and request.headers.get("content-type", "").split(";")[0].strip().lower() != _FORM_TYPE:
        raise UnsupportedUpload(f"The body should be {_FORM_TYPE}.")
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=8)
    except ValueError:
        raise InvalidOption("The form is malformed.") from None


def _credentials(headers: Headers) -> set[str]:
    """All that a request shows for itself. Other schemes than Bearer are for somebody else, such as a proxy."""
    given = {value.strip() for value in headers.getlist(KEY_HEADER)}
    for value in headers.getlist("Authorization"):
        scheme, _, credential = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            given.add(credential.strip())
    return given


def _address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client is not None else "unknown"
