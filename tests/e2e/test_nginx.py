"""The shipped nginx in front of a scripted service: what it lets through, and what it answers itself."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.e2e.conftest import BALANCER, INSIDE, OUTSIDE
from tests.e2e.proxy import (
    SECURITY_HEADERS,
    Proxy,
    expect_error,
    needs_nginx,
)
from tests.e2e.replica import Replica

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, needs_nginx]
UPLOADS = ["/transcribe", "/v1/audio/transcriptions", "/v1/audio/translations"]


async def test_http_leads_to_https(front: Proxy, behind: Replica) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.http_port}") as client:
        response = await client.post("/transcribe?language=en", content=b"RIFF")
    assert response.status_code == 308
    assert response.headers["location"] == f"{front.url}/transcribe?language=en"
    assert behind.seen == []


async def test_a_certificate_authority_finds_its_challenge_over_http(front: Proxy) -> None:
    folder = front.folder / "acme" / ".well-known" / "acme-challenge"
    folder.mkdir(parents=True)
    (folder / "token").write_text("token.thumbprint")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.http_port}") as client:
        assert (await client.get("/.well-known/acme-challenge/token")).text == "token.thumbprint"
        assert (await client.get("/.well-known/acme-challenge/other")).json()["code"] == "not_found"


async def test_plain_http_on_the_port_for_https_is_told_so(front: Proxy) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.https_port}") as client:
        expect_error(await client.get("/"), 400, "bad_request")


@pytest.mark.parametrize("http2", [False, True])
async def test_answers_of_the_service_pass_with_headers_of_the_proxy(
    front: Proxy, behind: Replica, http2: bool
) -> None:
    async with front.client(http2=http2) as client:
        response = await client.post("/transcribe?language=en", content=b"RIFF")
    assert (response.status_code, response.json()["replica"]) == (200, "a")
    assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert SECURITY_HEADERS.items() <= dict(response.headers).items()
    (seen,) = behind.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/transcribe?language=en", b"RIFF")
    assert seen.all("host") == [f"127.0.0.1:{front.https_port}"]
    assert seen.all("connection") == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503, 504])
async def test_errors_of_the_service_pass_unchanged(front: Proxy, behind: Replica, status: int) -> None:
    async with front.client() as client:
        response = await client.post("/transcribe", content=b"RIFF", headers={"X-Script": f"status {status}"})
    assert (response.status_code, response.json()) == (status, {"replica": "a", "code": "scripted"})
    assert response.headers.get("retry-after") == ("7" if status == 503 else None)
    assert len(behind.seen) == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("my.request-1_A", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ('x"}', False),
        ("a b", False),
        ("", False),
    ],
)
async def test_the_request_id_of_a_client_is_kept_if_it_is_sane(
    front: Proxy, behind: Replica, given: str, kept: bool
) -> None:
    async with front.client() as client:
        response = await client.get("/v1/models", headers={"X-Request-ID": given})
    (request_id,) = behind.seen[0].all("x-request-id")
    assert request_id == given if kept else re.fullmatch("[0-9a-f]{32}", request_id)
    assert response.headers.get_list("x-request-id") == [request_id]


async def test_what_a_client_claims_about_itself_ends_at_the_proxy(front: Proxy, behind: Replica) -> None:
    forged = {
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/evil",
        "X-Real-IP": "10.0.0.1",
        "Forwarded": "for=10.0.0.1",
        "X_Forwarded_For": "10.0.0.1",
        "Upgrade": "h2c",
        "Connection": "Upgrade, HTTP2-Settings",
        "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA",
    }
    async with front.client(OUTSIDE) as client:
        await client.get("/livez", headers=forged)
    (seen,) = behind.seen
    assert seen.all("x-forwarded-for") == [OUTSIDE]
    assert seen.all("x-forwarded-proto") == ["https"]
    for name in ("x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-real-ip", "forwarded"):
        assert seen.all(name) == []
    assert [name for name, _ in seen.headers if "_" in name] == []
    assert seen.all("upgrade") == seen.all("connection") == []


async def test_a_trusted_balancer_in_front_of_the_proxy_says_who_calls(front: Proxy, behind: Replica) -> None:
    async with front.client(BALANCER) as client:
        await client.get("/livez", headers={"X-Forwarded-For": "10.0.0.1, 203.0.113.7"})
        refused = await client.get("/metrics", headers={"X-Forwarded-For": f"{INSIDE}, 203.0.113.7"})
    assert [seen.all("x-forwarded-for") for seen in behind.seen] == [["203.0.113.7"]]
    expect_error(refused, 403, "forbidden")


@pytest.mark.parametrize("path", UPLOADS)
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_limit_is_refused_here(
    front: Proxy, behind: Replica, path: str, declared: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield bytes(65536)

    async with front.client() as client:
        response = await client.post(path, content=bytes(2**20 + 1) if declared else pieces())
        expect_error(response, 413, "upload_too_large")
        assert behind.seen == []
        largest = await client.post(path, content=bytes(2**20))
    assert largest.status_code == 200
    assert len(behind.seen[0].body) == 2**20


@pytest.mark.parametrize("path", ["/livez", "/auth/token", "/v1/models", "/v1/audio/transcriptions/x", "/transcribe/"])
async def test_only_uploads_may_be_large(front: Proxy, behind: Replica, path: str) -> None:
    async with front.client() as client:
        expect_error(await client.post(path, content=bytes(65537)), 413, "upload_too_large")
    assert behind.seen == []


async def test_a_body_without_declared_length_reaches_the_service_with_one(front: Proxy, behind: Replica) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"RI"
        yield b"FF"

    async with front.client() as client:
        await client.post("/transcribe", content=pieces())
    (seen,) = behind.seen
    assert (seen.body, seen.all("content-length"), seen.all("transfer-encoding")) == (b"RIFF", ["4"], [])


@pytest.mark.parametrize("http2", [False, True])
async def test_streams_arrive_piece_by_piece(front: Proxy, behind: Replica, http2: bool) -> None:
    headers = {"X-Script": "stream"}
    async with (
        front.client(http2=http2) as client,
        client.stream("POST", "/transcribe", content=b"RIFF", headers=headers) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == "one"
        # The service sends the second only now.
        behind.go.set()
        assert [line async for line in lines] == ["two"]


async def test_the_service_hears_when_a_client_leaves(front: Proxy, behind: Replica) -> None:
    async with front.client() as client:
        work = asyncio.create_task(client.post("/transcribe", content=b"RIFF", headers={"X-Script": "hang"}))
        await behind.arrived.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    await asyncio.wait_for(behind.left.wait(), 10)
