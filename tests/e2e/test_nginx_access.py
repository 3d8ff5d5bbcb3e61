"""Who gets through the shipped nginx to what: limits by address, internal networks, passwords, upgrades."""

import asyncio
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.e2e.conftest import BALANCER, INSIDE, OUTSIDE
from tests.e2e.proxy import (
    Certificates,
    Proxy,
    expect_error,
    needs_nginx,
    proxy,
)
from tests.e2e.replica import Replica, replica

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, needs_nginx]


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
async def test_too_many_requests_from_one_address(certificates: Certificates, tmp_path: Path, path: str) -> None:
    async with replica("a") as behind:
        limits = {"PROXY_REQUESTS_PER_S": "1", "PROXY_BURST": "3"}
        with proxy(tmp_path / "nginx", certificates, [behind.address], **limits) as front:
            async with front.client() as client, front.client(OUTSIDE) as other:
                answers = await asyncio.gather(*(client.post(path, content=b"RIFF") for _ in range(30)))
                assert (await other.post(path, content=b"RIFF")).status_code == 200
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(refused) <= 26
    for answer in refused:
        expect_error(answer, 429, "rate_limited")
        assert answer.headers["retry-after"] == "1"


async def test_an_ipv6_network_counts_as_one_address(certificates: Certificates, tmp_path: Path) -> None:
    limits = {"PROXY_REQUESTS_PER_S": "1", "PROXY_BURST": "10", "PROXY_REAL_IP_FROM": BALANCER}
    async with replica("a") as behind:
        with proxy(tmp_path / "nginx", certificates, [behind.address], **limits) as front:
            async with front.client(BALANCER, http2=True) as client:

                async def answers(addresses: Iterable[str]) -> Counter[int]:
                    headers = [{"X-Forwarded-For": address} for address in addresses]
                    responses = await asyncio.gather(*(client.get("/livez", headers=each) for each in headers))
                    return Counter(response.status_code for response in responses)

                assert (await answers(f"2001:db8:1:{n}::1" for n in range(2, 32)))[200] == 30
                assert (await answers(f"2001:db8:a:b:{n}::1" for n in range(2, 32)))[429] > 0
                assert (await answers(f"2001:db8::{n}:1" for n in range(2, 32)))[429] > 0


@pytest.mark.parametrize("http2", [False, True])
async def test_too_many_requests_at_once_from_one_address(
    certificates: Certificates, tmp_path: Path, http2: bool
) -> None:
    async with replica("a") as behind:
        with proxy(tmp_path / "nginx", certificates, [behind.address], PROXY_CONNECTIONS="2") as front:
            async with front.client(http2=http2) as client, front.client(OUTSIDE) as other:
                headers = {"X-Script": "stream"}
                streams = [asyncio.create_task(client.get("/livez", headers=headers)) for _ in range(3)]
                done, _ = await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
                assert (await other.get("/livez")).status_code == 200
                behind.go.set()
                answers = await asyncio.gather(*streams)
    (refused,) = (task.result() for task in done)
    expect_error(refused, 429, "rate_limited")
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"])
async def test_operations_are_for_internal_networks(front: Proxy, behind: Replica, path: str) -> None:
    async with front.client(OUTSIDE) as outside, front.client(INSIDE) as inside:
        expect_error(await outside.get(path, headers={"X-Forwarded-For": INSIDE}), 403, "forbidden")
        assert behind.seen == []
        assert (await inside.get(path)).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/%6Detrics",
        "//metrics",
        "/./metrics",
        "/x/../metrics",
        "/x/..%2fmetrics",
        "/%2e/metrics",
        "/metrics?x=/livez",
        "/metrics#",
        "https://127.0.0.1/metrics",
        "/docs/",
        "/docs/../metrics",
        "/livez/%2e%2e/openapi.json",
    ],
)
async def test_other_spellings_of_a_path_do_not_open_it(front: Proxy, behind: Replica, target: str) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.https_port, ssl=front.certificates.trusted(), local_addr=(OUTSIDE, 0)
    )
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] in (b"400", b"403"), [unquote(seen.target) for seen in behind.seen]
    assert behind.seen == []


@pytest.fixture
def password() -> str:
    """The word "secret", as nginx wants it."""
    return subprocess.run(["openssl", "passwd", "-6", "secret"], capture_output=True, text=True, check=True).stdout


async def test_the_page_wants_a_password_and_keeps_it_from_the_service(
    front: Proxy, behind: Replica, password: str
) -> None:
    async with front.client() as client:
        closed = await client.get("/ui/", auth=("anna", "secret"))
        assert closed.status_code == 403, "there is no file of passwords yet"
        (front.folder / "passwords").write_text(f"anna:{password}")
        for path in ("/ui", "/ui/", "/ui/login", "/ui/subtitles", "/%75i/"):
            refused = await client.get(path, auth=("anna", "guess"))
            expect_error(refused, 401, "unauthenticated")
            assert refused.headers["www-authenticate"] == 'Basic realm="asr-service"'
        assert behind.seen == []
        for path in ("/ui", "/ui/", "/ui/about"):
            assert (await client.get(path, auth=("anna", "secret"))).status_code == 200
        assert [seen.all("authorization") for seen in behind.seen] == [[], [], []]
        await client.get("/v1/models", headers={"Authorization": "Bearer token"})
    assert behind.seen[-1].all("authorization") == ["Bearer token"]
    assert len(behind.seen) == 4


async def test_transcripts_for_subtitles_come_from_the_page_and_may_be_long(
    front: Proxy, behind: Replica, password: str
) -> None:
    (front.folder / "passwords").write_text(f"anna:{password}")
    cross = {"Sec-Fetch-Site": "cross-site"}
    async with front.client() as client:
        forged = await client.post("/ui/subtitles", auth=("anna", "secret"), headers=cross)
        expect_error(forged, 403, "forbidden")
        long = await client.post("/ui/subtitles", auth=("anna", "secret"), content=b" " * (15 << 20))
        assert long.status_code == 200
        expect_error(await client.post("/ui/subtitles", content=b" " * (17 << 20)), 413, "upload_too_large")
        expect_error(await client.post("/ui/login", content=b" " * (65 << 10)), 413, "upload_too_large")
    assert len(behind.seen) == 1


@pytest.mark.parametrize(
    "path", ["/ui/gradio_api/upload", "/ui/gradio_api/", "/ui/gradio_api", "/ui//gradio_api/queue/join"]
)
async def test_nothing_of_gradios_server_is_behind_the_page(
    front: Proxy, behind: Replica, password: str, path: str
) -> None:
    (front.folder / "passwords").write_text(f"anna:{password}")
    async with front.client() as client:
        for method in ("GET", "POST"):
            expect_error(await client.request(method, path, auth=("anna", "secret")), 404, "not_found")
    assert behind.seen == []


@pytest.mark.parametrize(("path", "upgraded"), [("/v1/realtime", True), ("/transcribe", False), ("/livez", False)])
async def test_only_websockets_and_only_where_they_belong_are_upgraded(
    front: Proxy, behind: Replica, path: str, upgraded: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.https_port, ssl=front.certificates.trusted())
    script = "X-Script: upgrade\r\n" if upgraded else ""
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\n{script}Connection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 " if upgraded else b"HTTP/1.1 200 ")
    if upgraded:
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
    writer.close()
    await writer.wait_closed()
    assert behind.seen[0].all("upgrade") == (["websocket"] if upgraded else [])
