"""What every answer carries, who may read it from a browser, and what never leaves the service."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from asr_service.api.headers import DEFAULTS
from tests.api.conftest import Serve, build
from tests.fakes import FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

PAGE = "https://app.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,x-stainless-lang",
}
LINES = {"Accept": "application/x-ndjson"}


class Exploding(FakeEngine):
    """Fails in a way that nobody has thought of."""

    async def transcribe(self, *args: Any, **named: Any) -> Any:
        raise ZeroDivisionError("cellar")


REQUESTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/livez", {}, 200),
    ("GET", "/readyz", {}, 200),
    ("GET", "/metrics", {}, 200),
    ("GET", "/openapi.json", {}, 200),
    ("GET", "/v1/models", {}, 200),
    ("GET", "/v1/models/none", {}, 404),
    ("GET", "/nothing", {}, 404),
    ("GET", "/livez/", {}, 404),
    ("HEAD", "/nothing", {}, 404),
    ("OPTIONS", "/transcribe", {}, 405),
    ("DELETE", "/v1/models", {}, 405),
    ("POST", "/transcribe", {}, 400),
    ("POST", "/transcribe?a=b", {"content": b"x"}, 422),
    ("POST", "/transcribe", {"json": {}}, 415),
    ("POST", "/transcribe", {"content": b"x" * (2 << 20)}, 413),
    ("POST", "/transcribe", {"content": b"x"}, 200),
    ("POST", "/transcribe", {"content": b"x", "headers": LINES}, 200),
    ("POST", "/v1/audio/transcriptions", {"data": {"model": "whisper-1"}, "files": {"file": b"x"}}, 200),
]


@pytest.mark.parametrize(("method", "path", "content", "status"), REQUESTS)
async def test_every_answer_has_the_security_headers(
    serve: Serve, method: str, path: str, content: dict[str, Any], status: int
) -> None:
    async with serve(FakeEngine([result("x")])) as client:
        response = await client.request(method, path, **content)

    assert response.status_code == status
    assert {name: response.headers.get(name) for name in DEFAULTS} == DEFAULTS
    assert "server" not in response.headers
    assert response.headers["x-request-id"]
    assert "location" not in response.headers


@pytest.mark.parametrize("headers", [{}, LINES])
async def test_an_unexpected_error_says_nothing_of_the_inside(serve: Serve, headers: dict[str, str]) -> None:
    async with serve(Exploding(), cors_origins=PAGE) as client:
        response = await client.post("/transcribe", content=b"x", headers=headers | {"Origin": PAGE})

    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    for word in ("ZeroDivisionError", "cellar", "Traceback", ".py"):
        assert word not in response.text
    assert response.headers["access-control-allow-origin"] == PAGE
    assert {name: response.headers.get(name) for name in DEFAULTS} == DEFAULTS


async def test_an_unexpected_error_in_a_stream_only_breaks_it_off(serve: Serve) -> None:
    engine = FakeEngine([result("first"), ZeroDivisionError("cellar")])
    async with serve(engine, FakeDecoder(2), windows_in_flight=1) as client:
        response = await client.post("/transcribe", content=b"x", headers=LINES)

    assert response.status_code == 200
    assert "first" in response.text
    assert "transcript" not in response.text
    assert "cellar" not in response.text


@pytest.mark.parametrize("host", ["[", "a b", "x/v1/", "", "asr:99999999"])
@pytest.mark.parametrize("path", ["/nothing", "/transcribe", "/v1/models/none"])
async def test_no_host_header_confuses_the_answer(serve: Serve, host: str, path: str) -> None:
    async with serve(FakeEngine()) as client:
        response = await client.get(path, headers={"Host": host})

    assert response.status_code in (404, 405)
    assert ("error" in response.json()) is path.startswith("/v1/")
    assert host not in response.headers.values() or host == ""


@pytest.mark.parametrize("given", ["a\tb", "x" * 129, "ä", "a;b", "%0d%0aSet-Cookie:x", ""])
async def test_a_request_id_that_could_mean_something_else_is_replaced(serve: Serve, given: str) -> None:
    async with serve(FakeEngine()) as client:
        response = await client.get("/livez", headers=[(b"X-Request-ID", given.encode("latin-1"))])

    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


async def test_no_page_may_read_answers_unless_it_is_listed(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        preflight = await client.options("/transcribe", headers=PREFLIGHT)
        answer = await client.get("/livez", headers={"Origin": PAGE})

    assert preflight.status_code == 405
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_listed_page_may_send_credentials_and_read_what_it_needs(serve: Serve) -> None:
    async with serve(FakeEngine([result("x")]), cors_origins=f"http://localhost:3000, {PAGE}") as client:
        preflight = await client.options("/transcribe", headers=PREFLIGHT)
        answer = await client.post("/transcribe", content=b"x", headers={"Origin": PAGE})
        refusal = await client.post("/transcribe", content=b"", headers={"Origin": PAGE})

    assert preflight.status_code == 200
    allowed = {name.strip().lower() for name in preflight.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "x-stainless-lang"} <= allowed
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for response in (preflight, answer, refusal):
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in response.headers
        assert "Origin" in response.headers["vary"]
        assert {name: response.headers.get(name) for name in DEFAULTS} == DEFAULTS
    for response in (answer, refusal):
        exposed = response.headers["access-control-expose-headers"]
        assert exposed == "X-Request-ID, Retry-After, RateLimit, RateLimit-Policy"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil.example", "http://app.example"]
)
async def test_other_pages_are_not_let_in_by_a_list(serve: Serve, origin: str) -> None:
    async with serve(FakeEngine(), cors_origins=PAGE) as client:
        preflight = await client.options("/transcribe", headers=PREFLIGHT | {"Origin": origin})
        answer = await client.get("/livez", headers={"Origin": origin})

    assert preflight.status_code == 400
    for response in (preflight, answer):
        assert "access-control-allow-origin" not in response.headers


async def test_a_star_lets_every_page_in_without_credentials_of_the_browser(serve: Serve) -> None:
    async with serve(FakeEngine(), cors_origins="*") as client:
        preflight = await client.options("/transcribe", headers=PREFLIGHT)
        answer = await client.get("/livez", headers={"Origin": PAGE})

    for response in (preflight, answer):
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers


async def test_the_pages_for_people_load_nothing_from_elsewhere(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        page = await client.get("/docs")
        files = {
            name: await client.get(f"/docs/{name}")
            for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "start.js")
        }
        missing = [
            await client.get(f"/docs/{name}") for name in ("main.py", "..%2fmain.py", "%2e%2e", "oauth2-redirect")
        ]

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "//" not in page.text
    for name, file in files.items():
        assert file.status_code == 200
        assert f'"docs/{name}"' in page.text
        assert "max-age" in file.headers["cache-control"]
        assert file.headers["x-content-type-options"] == "nosniff"
    assert files["swagger-ui-bundle.js"].headers["content-type"].startswith("text/javascript")
    assert "openapi.json" in files["start.js"].text
    assert [response.status_code for response in missing] == [404] * 4


async def test_an_answer_with_headers_of_its_own_keeps_them(serve: Serve) -> None:
    app: FastAPI = build(FakeEngine(), FakeDecoder())

    @app.get("/page")
    async def page() -> StreamingResponse:
        return StreamingResponse(iter(["x"]), headers={"Content-Security-Policy": "default-src 'self'"})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://asr") as client:
        response = await client.get("/page")

    assert response.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert response.headers["x-frame-options"] == "DENY"


async def test_uploads_and_decoded_audio_have_no_names_even_for_a_moment(serve: Serve, tmp_path: Path) -> None:
    """So that nothing is left even when the process is killed."""
    seen: list[list[str]] = []
    engine = FakeEngine()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * (1 << 20)
        seen.append(os.listdir(tmp_path))
        yield b"x" * (1 << 20)
        seen.append(os.listdir(tmp_path))

    async with serve(engine, max_upload_mb=4) as client:
        request = asyncio.create_task(client.post("/transcribe", content=body()))
        call = await engine.next_call()
        seen.append(os.listdir(tmp_path))
        call.finish("x")
        assert (await request).status_code == 200
    assert seen == [[], [], []]
