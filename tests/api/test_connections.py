"""Connections over a real socket: heads that are too long, too slow, or no HTTP at all."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from asr_service.protocol import HEAD_LIMIT_BYTES, Protocol
from tests.api.conftest import serving
from tests.fakes import FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("log_lines")]

Reply = tuple[int, dict[str, str], bytes]


class Impatient(Protocol):
    """As the real one, but soon."""

    head_timeout_s = 0.2


@contextlib.asynccontextmanager
async def listening(
    engine: FakeEngine | None = None, protocol: type[Protocol] = Protocol, windows: int = 1, **settings: Any
) -> AsyncIterator[int]:
    """The application on a port of its own."""
    async with serving(engine or FakeEngine(), FakeDecoder(windows), protocol=protocol, **settings) as (port, _):
        yield port


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(first.split()[1]), headers, body


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


LIVEZ = b"GET /livez HTTP/1.1\r\nHost: asr\r\n\r\n"


async def test_an_ordinary_connection_is_kept_and_names_no_server() -> None:
    async with listening(protocol=Impatient) as port, connection(port) as (reader, writer):
        for _ in range(3):
            writer.write(LIVEZ)
            status, headers, _ = await answer(reader)
            assert status == 200
            assert "server" not in headers
            assert headers["x-content-type-options"] == "nosniff"
            # Longer than a head may take: an idle connection is something else.
            await asyncio.sleep(0.3)  # noqa: TID251 - time is what is tested


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: asr\r\nX: a\x00b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: asr\r\nX : a\r\n\r\n",
        b"GET /liv\xc3\xa4z HTTP/1.1\r\nHost: asr\r\n\r\n",
        b"POST /transcribe HTTP/1.1\r\nHost: asr\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /transcribe HTTP/1.1\r\nHost: asr\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /transcribe HTTP/1.1\r\nHost: asr\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: asr\r\nX: " + b"a" * HEAD_LIMIT_BYTES,
        b"GET /livez HTTP/1.1\r\nHost: asr\r\nX: " + b"a" * 2 * HEAD_LIMIT_BYTES + b"\r\n\r\n",
        b"GET /" + b"a" * 2 * HEAD_LIMIT_BYTES + b" HTTP/1.1\r\nHost: asr\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 600,
    ],
)
async def test_what_is_not_http_is_refused_and_the_connection_closed(request_: bytes) -> None:
    async with listening() as port, connection(port) as (reader, writer):
        writer.write(request_)
        status, headers, body = await answer(reader)

        assert (status, headers["content-type"]) == (400, "application/problem+json")
        assert json.loads(body)["code"] == "bad_request"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["connection"] == "close"
        assert await is_closed(reader)


async def test_a_broken_body_ends_its_request() -> None:
    async with listening() as port, connection(port) as (reader, writer):
        writer.write(b"POST /transcribe HTTP/1.1\r\nHost: asr\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nRIFF\r\nzz\r\n")
        status, _, _ = await answer(reader)
        assert status == 400
        assert await is_closed(reader)


@pytest.mark.parametrize("begun", [b"", b"G", LIVEZ[:-2]], ids=["nothing", "a letter", "almost all"])
async def test_a_head_that_does_not_come_in_time_costs_the_connection(begun: bytes) -> None:
    async with listening(protocol=Impatient) as port, connection(port) as (reader, writer):
        writer.write(begun)
        assert await is_closed(reader)


async def test_a_head_that_trickles_costs_the_connection_though_it_always_moves() -> None:
    async with listening(protocol=Impatient) as port, connection(port) as (reader, writer):
        writer.write(LIVEZ)
        await answer(reader)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        closed = asyncio.create_task(is_closed(reader))
        while not closed.done():
            writer.write(b"X: y\r\n")
            await asyncio.wait({closed}, timeout=0.02)
        assert await closed


async def test_a_body_that_goes_on_after_its_answer_costs_the_connection() -> None:
    async with listening(protocol=Impatient) as port, connection(port) as (reader, writer):
        writer.write(b"POST /livez HTTP/1.1\r\nHost: asr\r\nContent-Length: 1000000\r\n\r\nx")
        status, _, _ = await answer(reader)
        assert status == 405
        closed = asyncio.create_task(is_closed(reader))
        while not closed.done():
            writer.write(b"x")
            await asyncio.wait({closed}, timeout=0.02)
        assert await closed


async def test_a_request_in_work_may_take_its_time() -> None:
    engine = FakeEngine()
    async with listening(engine, protocol=Impatient) as port, connection(port) as (reader, writer):
        writer.write(b"POST /transcribe HTTP/1.1\r\nHost: asr\r\nContent-Length: 2\r\n\r\nx")
        await asyncio.sleep(0.3)  # noqa: TID251 - time is what is tested
        writer.write(b"x")
        call = await engine.next_call()
        await asyncio.sleep(0.3)  # noqa: TID251 - time is what is tested
        call.finish("done")
        status, _, body = await answer(reader)
    assert status == 200
    assert json.loads(body)["text"] == "done"


async def test_requests_that_come_together_are_answered_in_order() -> None:
    async with listening(protocol=Impatient) as port, connection(port) as (reader, writer):
        writer.write(LIVEZ + b"GET /nothing HTTP/1.1\r\nHost: asr\r\n\r\n" + LIVEZ)
        assert [(await answer(reader))[0] for _ in range(3)] == [200, 404, 200]


async def test_a_wish_for_another_protocol_is_ignored_in_silence(log_lines: list[MutableMapping[str, Any]]) -> None:
    async with listening() as port, connection(port) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: asr\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert (await answer(reader))[0] == 200
    assert not [line for line in log_lines if line["log_level"] in ("warning", "error")]


async def test_connections_leave_files_for_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as port, connection(port) as (reader, writer):
        monkeypatch.setattr("resource.getrlimit", lambda which: (4, 4))
        async with connection(port) as (second, _), connection(port) as (third, _):
            assert await is_closed(third)
            writer.write(LIVEZ)
            assert (await answer(reader))[0] == 200
            assert not second.at_eof()


async def test_an_unexpected_error_in_a_stream_closes_the_connection_in_the_middle() -> None:
    class Failing(FakeEngine):
        async def transcribe(self, *args: Any, **named: Any) -> Any:
            if self.calls:
                raise ZeroDivisionError("cellar")
            self.calls.append(None)  # type: ignore[arg-type]
            return result("first")

    app_lines = b"POST /transcribe HTTP/1.1\r\nHost: asr\r\nAccept: application/x-ndjson\r\nContent-Length: 1\r\n\r\nx"
    async with listening(Failing(), windows=2) as port, connection(port) as (reader, writer):
        writer.write(app_lines)
        whole = await reader.read()
    assert b" 200 " in whole
    assert b"cellar" not in whole
    assert not whole.endswith(b"0\r\n\r\n")
