"""The login of the page, and for which requests its cookie counts: never for those of another site."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection

from asr_service.api import cookies
from asr_service.auth import key_store
from asr_service.auth.grants import Limits
from asr_service.callers import Scope
from asr_service.observability.metrics import Metrics
from tests.api.conftest import Serve
from tests.fakes import FakeEngine, result
from tests.unit.auth.signing import SECRET, token

pytestmark = pytest.mark.anyio

HOST = "http://asr"


@dataclass(frozen=True)
class World:
    settings: dict[str, Any]
    path: Path
    key: str
    other: str
    metrics: str


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("login") / "keys.json"
    names: dict[str, Scope] = {"web": "transcribe", "other": "transcribe", "prometheus": "metrics"}
    keys = [key_store.create(path, name, [scope], Limits(), None)[0] for name, scope in names.items()]
    auth = {"mode": "required", "keys_file": path, "jwt": {"secret": SECRET}}
    return World({"auth": auth, "rate_limit": {"failed_logins_per_minute": 3}}, path, *keys)


def cookie(credential: str, **headers: str) -> dict[str, str]:
    return {"Cookie": f"asr_credential={credential}", **headers}


async def log_in(client: httpx.AsyncClient, credential: str, **headers: str) -> httpx.Response:
    return await client.post("/ui/login", data={"credential": credential}, headers=headers)


@pytest.mark.parametrize("kind", ["key", "token"])
async def test_a_credential_opens_the_page_and_what_it_calls(serve: Serve, world: World, kind: str) -> None:
    credential = world.key if kind == "key" else token(scope="transcribe")
    async with serve(FakeEngine([result("Yes.")]), **world.settings) as client:
        before = await client.get("/ui/")
        entered = await log_in(client, f" {credential} ", Origin=HOST, **{"Sec-Fetch-Site": "same-origin"})
        page, about = await client.get("/ui/"), await client.get("/ui/about")
        heard = await client.post("/transcribe", content=b"x", headers={"Origin": HOST})
        left = await client.post("/ui/logout", headers={"Origin": HOST})
        after = await client.get("/ui/")

    assert (before.status_code, before.headers["location"]) == (303, "login")
    assert (entered.status_code, entered.headers["location"]) == (303, "./")
    assert entered.headers["set-cookie"] == f"asr_credential={credential}; HttpOnly; Path=/; SameSite=strict"
    assert (page.status_code, about.status_code, heard.status_code) == (200, 200, 200)
    assert about.json()["login"] is True
    assert (left.status_code, left.headers["location"]) == (303, "login")
    assert after.status_code == 303


async def test_over_https_the_cookie_is_bound_to_it(serve: Serve, world: World) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        client.base_url = httpx.URL("https://asr")
        entered = await log_in(client, world.key)
        page = await client.get("/ui/")
        # Without the prefix a sibling host, or somebody on the way to plain HTTP, could have planted it.
        planted = await client.get("/ui/about", headers=cookie(world.key))
        both = {"Cookie": f"asr_credential=planted; __Host-asr_credential={world.key}"}
        beside = await client.get("/ui/about", headers=both)

    wanted = f"__Host-asr_credential={world.key}; HttpOnly; Path=/; SameSite=strict; Secure"
    assert entered.headers["set-cookie"] == wanted
    assert [answer.status_code for answer in (page, planted, beside)] == [200, 401, 200]


@pytest.mark.parametrize("origin", [HOST, "http://asr:80", "https://asr:80"])
async def test_the_cookie_counts_for_the_page_itself(serve: Serve, world: World, origin: str) -> None:
    async with serve(FakeEngine([result("Yes.")]), **world.settings) as client:
        headers = cookie(world.key, Origin=origin) | ({"Host": "asr:80"} if origin != HOST else {})
        assert (await client.post("/transcribe", content=b"x", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://asr.evil.example"},
        {"Origin": "http://evil.example/asr"},
        {"Origin": "http://asr:8000"},
        {"Origin": "https://asr"},
        {"Origin": "http://user@asr"},
        {"Origin": "http://asr/"},
        {"Origin": "http://asr?"},
        {"Origin": "ftp://asr"},
        {"Origin": "//asr"},
        {"Origin": "asr"},
        {"Origin": "http://asr:x"},
        {"Origin": "http://["},
        {"Origin": "http://asr", "Host": "other"},
        {"Origin": "http://asr", "Host": "["},
        {"Origin": "http://asr", "Host": "asr/x"},
        {"Origin": "http://asr", "Host": "user@asr"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Referer": "http://asr/ui/"},
    ],
    ids=str,
)
async def test_and_for_nobody_else(serve: Serve, world: World, headers: dict[str, str]) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        if headers.get("Origin") == "https://asr":
            headers = headers | {"Host": "asr:80"}
        paths = [("POST", "/transcribe"), ("GET", "/v1/models"), ("GET", "/uix"), ("POST", "/auth/token")]
        statuses = {
            path: (await client.request(method, path, headers=cookie(world.key) | headers)).status_code
            for method, path in paths
        }

    assert statuses == {"/transcribe": 401, "/v1/models": 401, "/uix": 404, "/auth/token": 401}


async def test_two_origins_are_none(serve: Serve, world: World) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        headers = [("Cookie", f"asr_credential={world.key}"), ("Origin", HOST), ("Origin", HOST)]
        assert (await client.get("/v1/models", headers=headers)).status_code == 401


@pytest.mark.parametrize(("scheme", "name"), [("ws", "asr_credential"), ("wss", "__Host-asr_credential")])
@pytest.mark.parametrize(("origin", "counts"), [("://asr", True), ("://evil.example", False), (None, False)])
def test_sockets_follow_the_same_rule(scheme: str, name: str, origin: str | None, counts: bool) -> None:
    headers = [(b"host", b"asr"), (b"cookie", f"a=b; {name}=key".encode())]
    if origin is not None:
        headers.append((b"origin", (scheme.replace("ws", "http") + origin).encode()))
    scope = {"type": "websocket", "path": "/v1/realtime", "scheme": scheme, "headers": headers}

    assert cookies.credentials(HTTPConnection(scope)) == ({"key"} if counts else set())


async def test_several_credentials_are_refused_unless_they_are_one(serve: Serve, world: World) -> None:
    def same_page(**headers: str) -> dict[str, str]:
        return cookie(world.key, Origin=HOST, **headers)

    async with serve(FakeEngine(), **world.settings) as client:
        same = await client.get("/v1/models", headers=same_page(Authorization=f"Bearer {world.key}"))
        differ = await client.get("/v1/models", headers=same_page(Authorization=f"Bearer {world.other}"))
        planted = f"asr_credential={world.key}; asr_credential={world.other}"
        two = await client.get("/v1/models", headers={"Cookie": planted, "Origin": HOST})
        # Where the cookie does not count, it does not stand in the way either.
        header = await client.get("/v1/models", headers=cookie(world.key, Authorization=f"Bearer {world.other}"))

    assert [answer.status_code for answer in (same, differ, two, header)] == [200, 401, 401, 200]


async def test_a_cookie_that_is_not_good_any_more_is_given_up(serve: Serve, world: World) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        key_store.revoke(world.path, "web")
        key_store.revoke(world.path, "other")
    async with serve(FakeEngine(), **world.settings) as client:
        page = await client.get("/ui/", headers=cookie(world.key))
        about = await client.get("/ui/about", headers=cookie(world.other))
        poor = await client.get("/ui/", headers=cookie(world.metrics))
        stranger = await client.get("/ui/")

    for answer in (page, poor):
        assert (answer.status_code, answer.headers["location"]) == (303, "login")
        assert 'asr_credential=""' in answer.headers["set-cookie"]
        assert "Max-Age=0" in answer.headers["set-cookie"]
    assert (about.status_code, about.json()["code"]) == (401, "unauthenticated")
    # A link on another site brings no cookie along, since it is `SameSite=Strict`. That is no reason to delete it.
    assert (stranger.status_code, "set-cookie" in stranger.headers) == (303, False)


@pytest.mark.parametrize(
    ("credential", "status", "sentence"),
    [
        ("", 422, "Enter an API key or a token."),
        ("wrong", 401, "This API key or token is not valid."),
        ("<script>", 401, "This API key or token is not valid."),
    ],
)
async def test_what_does_not_open_it(
    serve: Serve, world: World, credential: str, status: int, sentence: str, log_lines: list[MutableMapping[str, Any]]
) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        answer = await log_in(client, credential)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert sentence in answer.text
    assert "<script" not in answer.text
    assert "set-cookie" not in answer.headers
    line = next(line for line in log_lines if line["event"] == "request")
    assert line["code"] == ("unauthenticated" if status == 401 else "ok")
    assert len(credential) < 5 or credential not in str(log_lines)


async def test_a_key_without_the_scope_is_told_so(serve: Serve, world: World) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        answer = await log_in(client, world.metrics)

    assert answer.status_code == 403
    assert "may not transcribe" in answer.text
    assert "set-cookie" not in answer.headers


async def test_a_token_that_no_cookie_can_hold_is_told_so(serve: Serve, world: World) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        answer = await log_in(client, token(scope="transcribe", note="x" * 2800))

    assert answer.status_code == 422
    assert "too long" in answer.text


async def test_failed_logins_are_throttled(serve: Serve, world: World) -> None:
    metrics = Metrics()
    async with serve(FakeEngine(), metrics=metrics, **world.settings) as client:
        answers = [await log_in(client, "wrong") for _ in range(3)]
        answers.append(await log_in(client, world.key))
        elsewhere = await client.get("/v1/models", headers={"Authorization": f"Bearer {world.key}"})

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert f"Try again in {answers[3].headers['retry-after']} s." in answers[3].text
    assert elsewhere.status_code == 429
    assert metrics.registry.get_sample_value("asr_auth_refused_total", {"reason": "failures"}) == 2


@pytest.mark.parametrize("path", ["/ui/login", "/ui/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": HOST, "Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
async def test_forms_of_other_sites_are_refused(serve: Serve, world: World, path: str, headers: dict[str, str]) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        answer = await client.post(path, data={"credential": world.key}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "set-cookie" not in answer.headers


async def test_somebody_else_can_log_in_over_an_old_cookie(serve: Serve, world: World) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        answer = await client.post("/ui/login", data={"credential": world.key}, headers=cookie(world.other))

    assert answer.status_code == 303
    assert world.key in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("headers", "query", "language"),
    [
        ({}, "", "en"),
        ({"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}, "", "zh-Hans"),
        ({"Accept-Language": "fr, en-GB, zh"}, "", "en"),
        ({"Accept-Language": "fr"}, "", "en"),
        ({"Accept-Language": "en", "Cookie": "asr_language=zh"}, "", "zh-Hans"),
        ({"Cookie": "asr_language=zh"}, "?language=en", "en"),
        ({"Cookie": 'asr_language="><script>'}, "?language=%3Cscript%3E", "en"),
    ],
)
async def test_the_login_speaks_two_languages(
    serve: Serve, world: World, headers: dict[str, str], query: str, language: str
) -> None:
    async with serve(FakeEngine(), **world.settings) as client:
        answer = await client.get(f"/ui/login{query}", headers=headers)

    assert f'<html lang="{language}">' in answer.text
    assert ("登录" in answer.text) is (language == "zh-Hans")
    assert "<script" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"


async def test_without_authentication_nobody_logs_in(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        shown, entered = await client.get("/ui/login"), await log_in(client, "anything")
        page = await client.get("/ui/", headers=cookie("anything"))

    assert [(answer.status_code, answer.headers["location"]) for answer in (shown, entered)] == [(303, "./")] * 2
    assert "set-cookie" not in entered.headers
    assert page.status_code == 200
