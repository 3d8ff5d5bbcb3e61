"""The shipped nginx against those who mean harm: request smuggling and slowloris must not reach the service."""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events
import pytest

from tests.e2e.conftest import OUTSIDE
from tests.e2e.proxy import Proxy, needs_nginx
from tests.e2e.replica import Replica

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, needs_nginx]

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HIDDEN = b"0\r\n\r\n" + SMUGGLED


async def exchange(front: Proxy, data: bytes) -> bytes:
    """All that comes back for raw bytes over TLS, until nginx closes the connection or has nothing more to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.https_port, ssl=front.certificates.trusted())
    writer.write(data)
    answer = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return answer


def statuses_of(answer: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)


def post(headers: bytes, body: bytes) -> bytes:
    return b"POST /transcribe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n" + body


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "CL.TE": post(length(HIDDEN) + CHUNKED, HIDDEN),
    "TE.CL": post(CHUNKED + b"Content-Length: 4\r\n", b"5c\r\n" + HIDDEN),
    "TE twice": post(CHUNKED + CHUNKED, HIDDEN),
    "TE chunked, then another": post(CHUNKED + b"Transfer-Encoding: identity\r\n", HIDDEN),
    "TE of two codings": post(b"Transfer-Encoding: identity, chunked\r\n", HIDDEN),
    "TE misspelt": post(length(HIDDEN) + b"Transfer-Encoding: xchunked\r\n", HIDDEN),
    "TE quoted": post(length(HIDDEN) + b'Transfer-Encoding: "chunked"\r\n', HIDDEN),
    "TE after a vertical tab": post(length(HIDDEN) + b"Transfer-Encoding:\x0bchunked\r\n", HIDDEN),
    "TE after a tab": post(length(HIDDEN) + b"Transfer-Encoding:\tchunked\r\n", HIDDEN),
    "TE with a space before the colon": post(length(HIDDEN) + b"Transfer-Encoding : chunked\r\n", HIDDEN),
    "TE on a folded line": post(length(HIDDEN) + b"Transfer-Encoding:\r\n chunked\r\n", HIDDEN),
    "TE behind a bare line feed": post(length(HIDDEN) + b"X: x\nTransfer-Encoding: chunked\r\n", HIDDEN),
    "TE in HTTP/1.0": post(CHUNKED, HIDDEN).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "CL twice": post(b"Content-Length: 0\r\n" + length(SMUGGLED), SMUGGLED),
    "CL twice, the same": post(length(SMUGGLED) * 2, SMUGGLED),
    "CL as a list": post(b"Content-Length: 0, 36\r\n", SMUGGLED),
    "CL with a sign": post(b"Content-Length: +36\r\n", SMUGGLED),
    "CL below zero": post(b"Content-Length: -1\r\n", SMUGGLED),
    "CL in hexadecimal": post(b"Content-Length: 0x24\r\n", SMUGGLED),
    "CL without end": post(b"Content-Length: 99999999999999999999\r\n", SMUGGLED),
    "CL with a space before the colon": post(b"Content-Length : 36\r\n", SMUGGLED),
    "a chunk larger than numbers are": post(CHUNKED, b"fffffffffffffffff\r\n" + SMUGGLED),
    "a chunk in hexadecimal": post(CHUNKED, b"0x24\r\n" + SMUGGLED),
    "a chunk below zero": post(CHUNKED, b"-1\r\n" + SMUGGLED),
    "a chunk longer than it says": post(CHUNKED, b"1\r\nab\r\n" + HIDDEN),
    "a null byte": post(b"X: a\x00b\r\n" + length(SMUGGLED), SMUGGLED),
    "a bare carriage return": post(b"X: a\rContent-Length: 36\r\n", SMUGGLED),
    "two hosts": post(b"Host: y\r\n" + length(SMUGGLED), SMUGGLED),
    "no host": post(length(SMUGGLED), SMUGGLED).replace(b"Host: x\r\n", b"", 1),
    "a version of its own": post(b"", SMUGGLED).replace(b"HTTP/1.1", b"HTTP/1.1x", 1),
    "HTTP/2 in plain words": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_requests_that_two_could_read_differently_end_at_the_proxy(
    front: Proxy, behind: Replica, name: str
) -> None:
    answer = await exchange(front, AMBIGUOUS[name])
    assert statuses_of(answer) in ([b"400"], [b"501"])
    assert b'"code":"' in answer
    assert behind.received == b""


async def test_bare_line_feeds_are_put_right_before_the_service_sees_them(front: Proxy, behind: Replica) -> None:
    head = post(b"X-One: 1\r\n" + length(SMUGGLED), b"").replace(b"\r\n", b"\n")
    assert statuses_of(await exchange(front, head + SMUGGLED)) == [b"200"]
    (seen,) = behind.seen
    assert (seen.target, seen.all("x-one"), seen.body) == ("/transcribe", ["1"], SMUGGLED)
    assert b"\n" not in bytes(behind.received).removesuffix(SMUGGLED).replace(b"\r\n", b"")


async def test_what_follows_a_body_is_a_request_of_its_own(front: Proxy, behind: Replica) -> None:
    chunked = post(CHUNKED, HIDDEN).replace(b"Connection: close\r\n", b"", 1)
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert statuses_of(await exchange(front, chunked + last)) == [b"200"] * 3
    assert [(seen.method, seen.target, seen.body) for seen in behind.seen] == [
        ("POST", "/transcribe", b""),
        ("GET", "/smuggled", b""),
        ("GET", "/livez", b""),
    ]
    # Each with an id of its own, and under the limits of this address: nothing came past the proxy.
    assert len({request_id for seen in behind.seen for request_id in seen.all("x-request-id")}) == 3


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /livez?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414", b"uri_too_long"),
        (post(b"X: " + b"a" * 9000 + b"\r\n", b""), b"431", b"headers_too_large"),
        (post(b"".join(b"X-%d: %s\r\n" % (n, b"a" * 4000) for n in range(8)), b""), b"431", b"headers_too_large"),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", b"405", b"method_not_allowed"),
    ],
    ids=["long address", "long header", "many headers", "trace"],
)
async def test_oversized_heads_are_refused(
    front: Proxy, behind: Replica, request_: bytes, status: bytes, code: bytes
) -> None:
    answer = await exchange(front, request_.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n", 1))
    assert statuses_of(answer) == [status]
    assert b'"code":"%s"' % code in answer
    assert behind.received == b""


HTTP2 = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/transcribe")]
DOWNGRADES: dict[str, tuple[list[tuple[str, str]], bytes]] = {
    "TE": ([*HTTP2, ("transfer-encoding", "chunked")], HIDDEN),
    "TE and CL": ([*HTTP2, ("content-length", str(len(HIDDEN))), ("transfer-encoding", "chunked")], HIDDEN),
    "CL too small": ([*HTTP2, ("content-length", "0")], SMUGGLED),
    "CL too large": ([*HTTP2, ("content-length", "1000")], SMUGGLED),
    "CL twice": ([*HTTP2, ("content-length", "36"), ("content-length", "0")], SMUGGLED),
    "a line break in a value": ([*HTTP2, ("x", "a\r\nTransfer-Encoding: chunked")], HIDDEN),
    "a line feed in a value": ([*HTTP2, ("x", "a\nTransfer-Encoding: chunked")], HIDDEN),
    "a line break in a name": ([*HTTP2, ("x: y\r\ntransfer-encoding", "chunked")], HIDDEN),
    "a colon in a name": ([*HTTP2, ("transfer-encoding:", "chunked")], HIDDEN),
    "a line break in the path": ([*HTTP2[:3], (":path", "/ HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled")], b""),
    "a line break in the method": ([(":method", "GET /smuggled HTTP/1.1\r\nX:"), *HTTP2[1:]], b""),
    "a line break in the authority": ([*HTTP2[:2], (":authority", "x\r\nX: y"), HTTP2[3]], b""),
    "a scheme with a request": ([HTTP2[0], (":scheme", "https://x/smuggled HTTP/1.1\r\nx: y"), *HTTP2[2:]], b""),
    "a second path": ([*HTTP2, (":path", "/smuggled")], b""),
    "no path": (HTTP2[:3], b""),
}


async def over_http2(front: Proxy, headers: Iterable[tuple[str, str]], body: bytes) -> str:
    """The status of a request whose headers nobody has checked, or "reset"."""
    context = front.certificates.trusted()
    context.set_alpn_protocols(["h2"])
    config = h2.config.H2Configuration(
        client_side=True,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.send_headers(1, headers, end_stream=not body)
    if body:
        connection.send_data(1, body, end_stream=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.https_port, ssl=context)
    writer.write(connection.data_to_send())
    status = ""
    try:
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[b":status"].decode()
                elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return status or "reset"
                elif isinstance(event, h2.events.StreamEnded):
                    return status
        return status or "reset"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("name", DOWNGRADES)
async def test_nothing_is_smuggled_from_http2_into_http1(front: Proxy, behind: Replica, name: str) -> None:
    status = await over_http2(front, *DOWNGRADES[name])
    if status == "200" and name.startswith("TE"):
        # Some versions of nginx take no notice of this header, in which case the service must not either.
        (seen,) = behind.seen
        assert (seen.body, seen.all("content-length"), seen.all("transfer-encoding")) == (
            HIDDEN,
            [str(len(HIDDEN))],
            [],
        )
    else:
        assert status in ("400", "reset")
        assert behind.received == b""


async def test_http2_without_mischief_passes(front: Proxy, behind: Replica) -> None:
    assert await over_http2(front, HTTP2, HIDDEN) == "200"
    (seen,) = behind.seen
    assert (seen.body, seen.all("content-length"), seen.all("host")) == (
        HIDDEN,
        [str(len(HIDDEN))],
        [f"x:{front.https_port}"],
    )


async def trickle(front: Proxy, head: bytes, letter: bytes, limit_s: float) -> float:
    """Seconds until nginx gives up on a client that sends a letter every 0.1 s."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.https_port, ssl=front.certificates.trusted(), local_addr=(OUTSIDE, 0)
    )
    started = time.monotonic()
    writer.write(head)
    try:
        while time.monotonic() < started + limit_s:
            try:
                async with asyncio.timeout(0.1):
                    if await reader.read(1) == b"":
                        break
            except TimeoutError:
                writer.write(letter)
        return time.monotonic() - started
    except OSError:
        return time.monotonic() - started
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_slow_heads_are_cut_off_and_cost_nobody_else_anything(front: Proxy, behind: Replica) -> None:
    connections = behind.connections
    head = b"POST /transcribe HTTP/1.1\r\nHost: x\r\nX-Slow: "
    attack = asyncio.gather(*(trickle(front, head, b"a", limit_s=20) for _ in range(100)))
    async with front.client() as client:
        assert (await client.post("/transcribe", content=b"RIFF")).status_code == 200
    # A second is what the proxy of these tests gives, however lively the letters are.
    assert max(await attack) < 10
    assert behind.connections <= connections + 1
    assert len(behind.seen) == 1


async def test_slow_bodies_never_reach_the_service(front: Proxy, behind: Replica) -> None:
    connections = behind.connections
    head = post(b"Content-Length: 1000\r\n", b"RIFF")
    trickling = [trickle(front, head, b"a", limit_s=2) for _ in range(50)]
    stopping = [trickle(front, head, b"", limit_s=20) for _ in range(50)]
    passed_s = await asyncio.gather(*trickling, *stopping)
    assert max(passed_s[50:]) < 10, "who stops is cut off"
    assert behind.connections == connections
    assert behind.received == b""
