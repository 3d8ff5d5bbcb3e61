"""WS /v1/realtime: live sessions in the events of OpenAI's API.

Owns the connection: who may open it, what it may send and how long it may last, in which order events go out, and that
nothing is left when it ends. Must not know how speech becomes text.
"""

import asyncio
import base64
import binascii
import contextlib
import itertools
import math
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Request, WebSocket
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from asr_service.api import realtime_schemas as schemas
from asr_service.api.auth import gate_of
from asr_service.api.context import RequestRecord, record_of
from asr_service.api.jobs import serving_model
from asr_service.api.limits import LimitedRequest, limited
from asr_service.api.openai_schemas import ErrorReply
from asr_service.api.parts import Parts
from asr_service.api.problems import INTERNAL_DETAIL, error_response, loggable, problem
from asr_service.domain import ModelInfo
from asr_service.errors import AsrError, InvalidOption, Unavailable, UnknownModel
from asr_service.realtime.events import Completed, Event, Failed
from asr_service.realtime.session import Session
from asr_service.realtime.surroundings import Watcher

_PROTOCOL = "realtime"
_KEY_PROTOCOL = "openai-insecure-api-key."
_MAX_MESSAGE_BYTES = 1024 * 1024
_MAX_ERRORS = 100
_MAX_UNSENT_EVENTS = 1000
_CHARGED_S = 5
"""Audio is counted against its caller's limits in steps of so many seconds."""
_LAST_WORDS_S = 10.0
"""Time for what was said to become text when the service ends, and for the last events to be sent."""

_NORMAL, _TOO_BIG, _POLICY, _INTERNAL, _RESTART, _TRY_AGAIN = 1000, 1009, 1008, 1011, 1012, 1013
"""Why a WebSocket ends (RFC 6455, section 7.4.1, and IANA's registry)."""
_CLOSE_CODES = {"shutting_down": _RESTART, "message_too_big": _TOO_BIG, "internal_error": _INTERNAL}

_log = structlog.stdlib.get_logger("asr_service")

router = APIRouter()


class _Ending(Exception):
    """The service ends the session, and says why."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@router.get("/v1/realtime", include_in_schema=False)
async def no_websocket(request: Request) -> Response:
    """For those who ask by plain HTTP."""
    raise HTTPException(426, "This is a WebSocket: docs/realtime.md says how to use it.", {"Upgrade": "websocket"})


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    """A live session."""
    parts: Parts = websocket.app.state.parts
    record = record_of(websocket.scope)
    if _is_foreign(websocket, parts.allowed_origins):
        refusal = "Pages of this origin may not use the service: ASR_CORS_ORIGINS names those that may."
        await websocket.send_denial_response(problem(websocket, 403, "foreign_origin", refusal))
        return
    try:
        await gate_of(websocket).enter(websocket, "transcribe", _credentials(websocket))
    except AsrError as error:
        await websocket.send_denial_response(error_response(websocket, error))
        return
    await websocket.accept(subprotocol=_PROTOCOL if _PROTOCOL in websocket.scope["subprotocols"] else None)
    connection = _Connection(websocket, record)
    async with connection.sending():
        try:
            async with _admitted(parts, record) as limits:
                await _serve(connection, websocket, parts, limits)
        except WebSocketDisconnect:
            record.code = "client_gone" if record.code == "ok" and connection.broken else record.code
        except AsrError as error:
            connection.end(_Ending(error.code, error.message, error.status), error)
        except _Ending as ending:
            connection.end(ending)
        except Exception:  # noqa: BLE001 - logged, and the client is told
            _log.exception("unexpected error")
            connection.end(_Ending("internal_error", INTERNAL_DETAIL, 500))


def _is_foreign(connection: HTTPConnection, allowed: tuple[str, ...]) -> bool:
    """Whether a page asks that may not: browsers let any page open WebSockets to any address, and say which it is."""
    origin = connection.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return False
    return urlsplit(origin).netloc != connection.headers.get("host")


def _credentials(websocket: WebSocket) -> set[str]:
    """Those of a browser, which can set no other header than the sub-protocols."""
    offered: list[str] = websocket.scope["subprotocols"]
    return {name.removeprefix(_KEY_PROTOCOL) for name in offered if name.startswith(_KEY_PROTOCOL)}


@contextlib.asynccontextmanager
async def _admitted(parts: Parts, record: RequestRecord) -> AsyncIterator[LimitedRequest]:
    """Hold a session within the bounds of the service and its caller. Raises AsrError."""
    with parts.admission.enter_session():
        async with limited(record, parts.quotas) as limits:
            with parts.metrics.live.session():
                yield limits


async def _serve(connection: "_Connection", websocket: WebSocket, parts: Parts, limits: LimitedRequest) -> None:
    """One session, from its first event to its last. Raises _Ending, AsrError, WebSocketDisconnect."""
    model = serving_model(parts.engine)
    names = (model.name, *parts.model_aliases)
    _check_model(websocket.query_params.get("model"), names)
    conversation = _Conversation(connection, model, names, limits, parts)
    conversation.begin()
    tasks = {
        asyncio.create_task(conversation.read(websocket), name="realtime-read"),
        asyncio.create_task(_until_end(parts), name="realtime-end"),
        asyncio.create_task(connection.failed(), name="realtime-send"),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    except _Ending as ending:
        if ending.code == "shutting_down":
            await conversation.finish()
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await conversation.aclose()


def _check_model(name: str | None, names: tuple[str, ...]) -> None:
    """Raises UnknownModel."""
    if name is not None and name not in names:
        raise UnknownModel(f"The model {name[:80]!r} is not served here; it is {' or '.join(names)}.", option="model")


async def _until_end(parts: Parts) -> None:
    """Raises _Ending when the session has lasted as long as it may, or the service ends."""
    try:
        async with asyncio.timeout(parts.session_limits.session_timeout_s):
            await parts.admission.until_closed()
    except TimeoutError:
        lasted_s = parts.session_limits.session_timeout_s
        raise _Ending("session_expired", f"A session lasts {lasted_s:g} s at most: open another one.") from None
    raise _Ending(
        "shutting_down", "The service is shutting down: connect again, to another instance if there is one.", 503
    )


class _Connection:
    """Sends events in order, and closes the WebSocket after the last."""

    def __init__(self, websocket: WebSocket, record: RequestRecord) -> None:
        self._websocket = websocket
        self._record = record
        self._outbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self._close_code, self._close_reason = _NORMAL, ""
        self._sender: asyncio.Task[None] | None = None
        self.broken = False
        """Whether the client left without a word."""

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send while the block lasts; at its end, send what is left and close."""
        self._sender = asyncio.create_task(self._send_all(), name="realtime-sender")
        try:
            yield
            self._outbox.put_nowait(None)
            await asyncio.wait({self._sender}, timeout=_LAST_WORDS_S)
        finally:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    def send(self, event: dict[str, Any]) -> None:
        if self._outbox.qsize() < _MAX_UNSENT_EVENTS:
            self._outbox.put_nowait(schemas.rendered(event, f"event_{next(self._numbers)}"))
        elif self._sender is not None:
            self._sender.cancel()

    def error(
        self, code: str, message: str, status: int = 400, *, param: str | None = None, about: str | None = None
    ) -> None:
        """Send an `error` event. `about`: the id of the event that caused it."""
        self.send(schemas.error_event(error_kind(status), code, message, param=param, event_id=about))

    def end(self, ending: _Ending, error: AsrError | None = None) -> None:
        """Have an error be the last event."""
        self._record.code, self._record.error = ending.code, loggable(ending.message)
        self.error(ending.code, ending.message, ending.status, param=None if error is None else error.option)
        unavailable = isinstance(error, Unavailable) and ending.code not in _CLOSE_CODES
        self._close_code = _TRY_AGAIN if unavailable else _CLOSE_CODES.get(ending.code, _POLICY)
        self._close_reason = ending.code

    def note(self, facts: dict[str, object]) -> None:
        """Have the log tell what is known of the session."""
        self._record.facts |= facts

    async def failed(self) -> None:
        """Wait until events can no longer be sent. Raises WebSocketDisconnect then."""
        assert self._sender is not None
        await asyncio.wait({self._sender})
        self.broken = True
        raise WebSocketDisconnect

    async def _send_all(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while (text := await self._outbox.get()) is not None:
                await self._websocket.send_text(text)
            await self._websocket.close(self._close_code, self._close_reason)


class _Conversation:
    """What a client and its session say to each other."""

    def __init__(
        self, connection: _Connection, model: ModelInfo, names: tuple[str, ...], limits: LimitedRequest, parts: Parts
    ) -> None:
        self._connection = connection
        self._model = model
        self._names = names
        self._limits = limits
        self._parts = parts
        self._id = uuid.uuid4().hex
        self._expires_at = int(time.time() + parts.session_limits.session_timeout_s)
        self._config = schemas.SessionConfig()
        live = parts.metrics.live
        self._session = Session(
            self._id[:12],
            parts.engine,
            parts.listener.stream(self._config.stream),
            self._config.options(model),
            self._happened,
            watcher=Watcher(draft=live.draft, final=live.final, age=live.draft_age),
        )
        self._errors = 0
        self._charged_s = 0

    def begin(self) -> None:
        self._say("session.created")

    async def read(self, websocket: WebSocket) -> None:
        """Do what the client says until it leaves. Raises WebSocketDisconnect, _Ending, AsrError."""
        idle_s = self._parts.session_limits.idle_timeout_s
        while True:
            try:
                async with asyncio.timeout(idle_s):
                    message = await websocket.receive()
            except TimeoutError:
                raise _Ending("idle_timeout", f"Nothing was sent for {idle_s:g} s.") from None
            if message["type"] == "websocket.disconnect":
                self._connection.broken = message.get("code") in (None, 1005, 1006) and not message.get("reason")
                raise WebSocketDisconnect(message.get("code") or _NORMAL)
            data, text = message.get("bytes"), message.get("text")
            if len(data or text or "") > _MAX_MESSAGE_BYTES:
                raise _Ending("message_too_big", f"A message may have {_MAX_MESSAGE_BYTES} bytes; send smaller pieces.")
            if data is not None:
                await self._hear(data, None)
            elif text is not None:
                await self._obey(text)

    async def _obey(self, text: str) -> None:
        try:
            event = schemas.parse(text)
        except schemas.InvalidEvent as error:
            self._refuse("invalid_event", str(error), about=schemas.event_id_of(text))
            return
        match event:
            case schemas.Append(audio, about):
                try:
                    data = base64.b64decode(audio, validate=True)
                except (binascii.Error, ValueError):
                    self._refuse("invalid_audio", "The audio is not base64.", param="audio", about=about)
                else:
                    await self._hear(data, about)
            case schemas.Commit(about):
                if not await self._session.commit():
                    message = "There is no speech to commit."
                    self._refuse("input_audio_buffer_commit_empty", message, about=about)
            case schemas.Clear():
                await self._session.clear()
                self._connection.send({"type": "input_audio_buffer.cleared"})
            case schemas.Update(changes, about):
                await self._update(changes, about)

    async def _hear(self, data: bytes, about: str | None) -> None:
        if len(data) % self._session.stream_settings.sample_bytes:
            self._refuse("invalid_audio", "The audio ends with half a sample.", param="audio", about=about)
            return
        await self._session.hear(data)
        while self._session.audio_s - self._charged_s >= _CHARGED_S:
            self._charged_s += _CHARGED_S
            await self._limits.charge(_CHARGED_S)

    async def _update(self, changes: dict[str, Any], about: str | None) -> None:
        try:
            config = self._config.updated(changes)
            _check_model(config.audio.input.transcription.model, self._names)
            options = config.options(self._model)
        except (InvalidOption, UnknownModel) as error:
            param = "session.audio.input.transcription.model" if isinstance(error, UnknownModel) else error.option
            self._refuse(InvalidOption.code, error.message, param=param, about=about)
            return
        await self._session.change(config.stream)
        self._config, self._session.options = config, options
        self._say("session.updated")

    def _refuse(self, code: str, message: str, *, param: str | None = None, about: str | None = None) -> None:
        self._errors += 1
        self._connection.error(code, message, param=param, about=about)
        if self._errors >= _MAX_ERRORS:
            raise _Ending("too_many_errors", f"The client has made {self._errors} errors.")

    def _say(self, kind: str) -> None:
        self._connection.send(schemas.session_event(kind, f"sess_{self._id}", self._expires_at, self._config))

    def _happened(self, event: Event) -> None:
        if isinstance(event, Completed):
            self._parts.metrics.live.utterance_ended("completed", event.audio_s)
        elif isinstance(event, Failed):
            self._parts.metrics.live.utterance_ended("failed")
        for told in schemas.events_of(event, self._config.include, error_kind):
            self._connection.send(told)

    async def finish(self) -> None:
        """Let what was said become text, as far as there is time."""
        with contextlib.suppress(TimeoutError, AsrError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._session.finish()

    async def aclose(self) -> None:
        await self._session.aclose()
        self._connection.note(
            {
                "model": self._model.name,
                "audio_s": round(self._session.audio_s, 3),
                "utterances": self._session.utterances,
                "errors": self._errors,
            }
        )
        rest_s = math.ceil(round(self._session.audio_s - self._charged_s, 3))
        if rest_s > 0:
            # It was used, even if that is more than there was.
            with contextlib.suppress(AsrError):
                await self._limits.charge(rest_s)


def error_kind(status: int) -> str:
    """OpenAI's type of errors with this HTTP status."""
    return ErrorReply.build(status, "", "", None).error.type
