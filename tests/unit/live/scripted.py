"""A service that says over its WebSocket what a test has it say."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

TEXT = "conversation.item.input_audio_transcription."


@dataclass
class Call:
    """One connection, from the service's side."""

    socket: ServerConnection
    sent: list[dict[str, Any]] = field(default_factory=list)
    """What the client has sent in JSON."""
    audio: bytes = b""

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"event_id": "event_1", "type": kind, **fields}))

    async def start(self, item: str, start_s: float = 0.0) -> None:
        await self.say("input_audio_buffer.speech_started", item_id=item, audio_start_ms=round(1000 * start_s))

    async def commit(self, item: str) -> None:
        await self.say("input_audio_buffer.committed", item_id=item, previous_item_id=None)

    async def complete(self, item: str, text: str, start_s: float = 0.0, end_s: float = 1.0, **fields: Any) -> None:
        fields = {"language": "en", **fields}
        await self.say(f"{TEXT}completed", item_id=item, transcript=text, start=start_s, end=end_s, **fields)

    async def error(self, code: str, message: str, event_id: str | None = None) -> None:
        about = {"type": "server_error", "code": code, "message": message, "param": None, "event_id": event_id}
        await self.say("error", error=about)

    async def begin(self) -> None:
        """Greet, and take the client's settings."""
        await self.say("session.created", session={})
        await self.event("session.update")
        await self.say("session.updated", session={})

    async def hear(self, size_bytes: int) -> None:
        """Take so much audio."""
        until = len(self.audio) + size_bytes
        while len(self.audio) < until:
            data = await self.socket.recv()
            assert isinstance(data, bytes)
            self.audio += data

    async def event(self, kind: str) -> dict[str, Any]:
        """Take audio until the client sends an event, which must be of this kind."""
        while isinstance(message := await self.socket.recv(), bytes):
            self.audio += message
        event: dict[str, Any] = json.loads(message)
        self.sent.append(event)
        assert event["type"] == kind
        return event

    async def end(self) -> None:
        """Answer what the client sends last."""
        await self.event("input_audio_buffer.clear")
        await self.say("input_audio_buffer.cleared")
        await self.socket.wait_closed()


Script = Callable[[Call], Awaitable[None]]


@dataclass
class Scripted:
    url: str
    calls: list[Call] = field(default_factory=list)

    @property
    def call(self) -> Call:
        """The only connection that there was."""
        (call,) = self.calls
        return call


@contextlib.asynccontextmanager
async def scripted(script: Script, refusal: tuple[int, dict[str, str], bytes] | None = None) -> AsyncIterator[Scripted]:
    """A service that follows `script` with everybody, or refuses all with a status, headers and a body."""

    async def answer(socket: ServerConnection) -> None:
        call = Call(socket)
        service.calls.append(call)
        with contextlib.suppress(ConnectionClosed):
            await script(call)

    def refuse(socket: ServerConnection, request: Request) -> Response | None:
        if refusal is None:
            return None
        status, headers, body = refusal
        response = socket.respond(HTTPStatus(status), "")
        for name, value in headers.items():
            response.headers[name] = value
        del response.headers["Content-Length"]
        response.headers["Content-Length"] = str(len(body))
        return Response(status, response.reason_phrase, response.headers, body)

    async with serve(answer, "127.0.0.1", 0, process_request=refuse, close_timeout=1) as server:
        service = Scripted(f"ws://127.0.0.1:{_port(server)}")
        yield service


def _port(server: Server) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


async def polite(call: Call) -> None:
    """One utterance, as the service tells it."""
    await call.begin()
    await call.hear(2)
    await call.start("item_1", 0.25)
    await call.say(f"{TEXT}delta", item_id="item_1", delta="Good")
    await call.say(f"{TEXT}partial", item_id="item_1", settled="Good", unsettled=" mourning", audio_end_ms=900)
    await call.event("input_audio_buffer.commit")
    await call.commit("item_1")
    await call.say(f"{TEXT}delta", item_id="item_1", delta=" morning.")
    await call.say(f"{TEXT}segment", item_id="item_1", id="item_1_0", text="Good morning.", start=0.3, end=1.2)
    await call.complete("item_1", "Good morning.", 0.3, 1.2)
    await call.end()
