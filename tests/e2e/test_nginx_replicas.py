"""The shipped nginx when replicas are silent, gone or broken: what it answers, and what it repeats elsewhere."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.proxy import (
    Certificates,
    Proxy,
    expect_error,
    free_port,
    needs_nginx,
    proxy,
)
from tests.e2e.replica import Replica, replica

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, needs_nginx]


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
async def test_a_service_that_does_not_answer_in_time_is_a_504(front: Proxy, behind: Replica, path: str) -> None:
    async with front.client() as client:
        expect_error(await client.post(path, headers={"X-Script": "hang"}), 504, "deadline_exceeded")
    assert len(behind.seen) == 1


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
async def test_a_service_that_is_gone_is_a_502(certificates: Certificates, tmp_path: Path, path: str) -> None:
    with proxy(tmp_path / "nginx", certificates, [f"127.0.0.1:{free_port()}"]) as front:
        async with front.client() as client:
            response = await client.post(path, content=b"RIFF")
    expect_error(response, 502, "bad_gateway")
    assert response.headers["retry-after"] == "5"


async def test_a_replica_that_refuses_connections_costs_nobody_an_answer(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with replica("b") as alive:
        dead = f"127.0.0.1:{free_port()}"
        with proxy(tmp_path / "nginx", certificates, [dead, alive.address]) as front:
            async with front.client() as client:
                answers = await asyncio.gather(*(client.post("/transcribe", content=bytes(300_000)) for _ in range(8)))
    assert [answer.json()["replica"] for answer in answers] == ["b"] * 8
    assert [len(seen.body) for seen in alive.seen] == [300_000] * 8


@pytest.mark.parametrize(("script", "status"), [("drop", 502), ("hang", 504), ("status 503", 503)])
async def test_a_post_that_was_heard_is_never_repeated(
    certificates: Certificates, tmp_path: Path, script: str, status: int
) -> None:
    async with replica("a") as a, replica("b") as b:
        addresses = [a.address, b.address]
        with proxy(tmp_path / "nginx", certificates, addresses, PROXY_ANSWER_TIMEOUT_S="1") as front:
            async with front.client() as client:
                response = await client.post("/transcribe", content=b"RIFF", headers={"X-Script": script})
    assert response.status_code == status
    assert len(a.seen + b.seen) == 1


@pytest.mark.parametrize("script", ["drop", "status 503"])
async def test_a_get_is_repeated_by_another_replica(certificates: Certificates, tmp_path: Path, script: str) -> None:
    async with replica("a") as a, replica("b") as b:
        with proxy(tmp_path / "nginx", certificates, [a.address, b.address]) as front:
            async with front.client() as client:
                response = await client.get("/v1/models", headers={"X-Script": script})
    assert response.status_code == (502 if script == "drop" else 503)
    assert (len(a.seen), len(b.seen)) == (1, 1)
