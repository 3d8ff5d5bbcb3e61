"""A service that does as it is told and remembers all that it was sent: what stands behind the proxy in its tests."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11


@dataclass(frozen=True)
class Seen:
    """One request, as it arrived."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Replica:
    """The header `x-script` of a request says what becomes of it:

    none        200 with the replica's name
    status N    N, as the service refuses
    drop        the connection is closed when the whole request has been read
    hang        nothing, until the client has left, which sets `left`
    stream      a line, and another one when `go` is set
    upgrade     101, and every byte comes back
    """

    name: str
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    connections: int = 0
    malformed: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def forget(self) -> None:
        """As if it had just started, but for its connections."""
        self.seen.clear()
        self.received.clear()
        self.malformed.clear()
        for event in (self.go, self.left, self.arrived):
            event.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        try:
            while (request := await self._request(connection, reader)) is not None:
                self.seen.append(request)
                self.arrived.set()
                await self._answer(connection, reader, writer, request)
                if connection.our_state is not h11.DONE:
                    return
                connection.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self.malformed.append(str(error))
        finally:
            writer.close()

    async def _request(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Seen | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                self.received += data
                if not data and head is None:
                    return None
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                headers = tuple((name.decode(), value.decode("latin-1")) for name, value in head.headers)
                return Seen(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body))
            else:
                return None

    async def _answer(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Seen
    ) -> None:
        def send(*events: "h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage") -> None:
            for event in events:
                writer.write(connection.send(event) or b"")

        script, _, argument = (request.all("x-script") or [""])[0].partition(" ")
        if script == "drop":
            return
        if script == "hang":
            if await reader.read(1) == b"":
                self.left.set()
        elif script == "upgrade":
            send(
                h11.InformationalResponse(
                    status_code=101, headers=[("Upgrade", "websocket"), ("Connection", "upgrade")]
                )
            )
            while data := await reader.read(4096):
                writer.write(data)
        elif script == "stream":
            send(h11.Response(status_code=200, headers=[("X-Accel-Buffering", "no")]), h11.Data(data=b"one\n"))
            await self.go.wait()
            send(h11.Data(data=b"two\n"), h11.EndOfMessage())
        else:
            status = int(argument or 200)
            body = json.dumps({"replica": self.name, "code": "scripted"}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            if status == 503:
                headers.append(("Retry-After", "7"))
            send(h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())


@asynccontextmanager
async def replica(name: str) -> AsyncIterator[Replica]:
    """A replica on a free port."""
    running = Replica(name)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(running.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
