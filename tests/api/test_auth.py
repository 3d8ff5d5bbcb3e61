"""Every route with every credential, and what refusals tell: to callers nothing, to the log why."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Route, WebSocketRoute

from asr_service.api.ui.page import frontend
from asr_service.auth import AuthUnusable, key_store
from asr_service.auth.grants import Limits
from asr_service.callers import Scope
from asr_service.domain import WindowResult
from asr_service.observability.metrics import Metrics
from tests.api.conftest import Serve, build
from tests.fakes import FakeDecoder, FakeEngine, result
from tests.unit.auth.signing import SECRET, jwk, jwks, key_pair, public_pem, token
from tests.unit.auth.standins import Issuer, serving

pytestmark = pytest.mark.anyio

Lines = list[MutableMapping[str, Any]]
ISSUER, AUDIENCE = "https://id.example", "asr"
FORM = {"data": {"model": "whisper-1"}, "files": {"file": b"x"}}
ASSET = min(path.name for path in (frontend() / "assets").glob("index-*.js"))


@dataclass(frozen=True)
class Protected:
    """A route: what it needs (`open`, `key` for an API key, or a scope), a request, and its status when it may.

    `elsewhere`: who may not is not refused, but led to another page.
    """

    needs: str
    status: int = 200
    url: str = ""
    request: Any = None
    elsewhere: bool = False


ROUTES: dict[tuple[str, str], Protected] = {
    ("POST", "/transcribe"): Protected("transcribe", request={"content": b"x"}),
    ("POST", "/v1/audio/transcriptions"): Protected("transcribe", request=FORM),
    ("POST", "/v1/audio/translations"): Protected("transcribe", request=FORM),
    ("GET", "/v1/models"): Protected("transcribe"),
    ("GET", "/v1/models/{model:path}"): Protected("transcribe", url="/v1/models/whisper-1"),
    ("GET", "/metrics"): Protected("metrics"),
    ("POST", "/auth/token"): Protected("key"),
    ("GET", "/v1/realtime"): Protected("open", 426),
    ("WEBSOCKET", "/v1/realtime"): Protected("transcribe", 101),
    ("GET", "/livez"): Protected("open"),
    ("GET", "/readyz"): Protected("open"),
    ("GET", "/openapi.json"): Protected("open"),
    ("GET", "/docs"): Protected("open"),
    ("GET", "/docs/{name}"): Protected("open", url="/docs/start.js"),
    ("GET", "/ui"): Protected("open", 303),
    ("GET", "/ui/"): Protected("transcribe", elsewhere=True),
    ("GET", "/ui/login"): Protected("open"),
    ("POST", "/ui/login"): Protected("open", 422),
    ("POST", "/ui/logout"): Protected("open", 303),
    ("GET", "/ui/about"): Protected("transcribe"),
    ("POST", "/ui/subtitles"): Protected("transcribe", request={"json": {"format": "srt", "segments": []}}),
    ("GET", "/ui/theme.css"): Protected("transcribe"),
    ("GET", "/ui/page/{name}"): Protected("transcribe", url="/ui/page/page.js"),
    ("GET", "/ui/assets/{name}"): Protected("transcribe", url=f"/ui/assets/{ASSET}"),
    ("GET", "/ui/static/js/iframeResizer.contentWindow.min.js"): Protected("transcribe"),
}


async def ask(client: httpx.AsyncClient, method: str, url: str, **request: Any) -> httpx.Response:
    """The answer to a request, or to the handshake of a WebSocket."""
    if method != "WEBSOCKET":
        return await client.request(method, url, **request)
    prepared = client.build_request("GET", url, **request)
    answers: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect", "code": 1000} if answers else {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        answers.append(message)

    assert isinstance(client._transport, httpx.ASGITransport)
    scope = {
        "type": "websocket",
        "path": url,
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in prepared.headers.raw],
        "subprotocols": [],
        "client": ("127.0.0.1", 123),
        "extensions": {"websocket.http.response": {}},
    }
    await client._transport.app(scope, receive, send)
    return httpx.Response(answers[0].get("status", 101), headers=answers[0]["headers"])


class Always(list[WindowResult | Exception]):
    """Answers without end."""

    def pop(self, index: Any = -1) -> WindowResult:
        return result("Yes.")


def engine() -> FakeEngine:
    fake = FakeEngine([])
    fake._answers = Always()
    return fake


@dataclass(frozen=True)
class World:
    """What callers are checked by, and the keys that there are."""

    settings: dict[str, Any]
    keys: dict[str, str]
    path: Path


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """The address of a web server in a process of its own, so that its files do not look like ours."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().split(' port ')[1].split()[0]}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("auth")
    path = folder / "keys.json"
    now = datetime.now(UTC)
    wanted: list[tuple[str, list[Scope], datetime | None]] = [
        ("good", ["transcribe", "metrics"], None),
        ("metrics", ["metrics"], None),
        ("admin", ["admin"], now + timedelta(hours=1)),
        ("expired", ["admin"], now - timedelta(seconds=1)),
        ("revoked", ["admin"], None),
    ]
    keys = {name: key_store.create(path, name, scopes, Limits(), end)[0] for name, scopes, end in wanted}
    key_store.revoke(path, "revoked")
    pem = folder / "key.pem"
    pem.write_bytes(public_pem(key_pair("RS256")))
    (folder / "jwks.json").write_bytes(jwks(jwk("ES256", "ec"), jwk("EdDSA", "ed")))
    with serving_files(folder) as url:
        jwt = {
            "secret": SECRET,
            "public_key_file": pem,
            "jwks_url": f"{url}/jwks.json",
            "issuer": ISSUER,
            "audience": AUDIENCE,
        }
        auth = {"mode": "required", "keys_file": path, "jwt": jwt}
        yield World({"auth": auth, "rate_limit": {"failed_logins_per_minute": 0}}, keys, path)


def good(algorithm: str = "HS256", key: Any = None, kid: str | None = None, **claims: Any) -> str:
    right = {"iss": ISSUER, "aud": AUDIENCE, "scope": "transcribe metrics"}
    return token(algorithm, key, {"kid": kid} if kid else None, **right | claims)


def forged(header: dict[str, Any], secret: bytes | None) -> str:
    """A token with any header, signed with HMAC by any secret, or not at all."""
    content = {"sub": "mallory", "exp": int(time.time()) + 60, "iss": ISSUER, "aud": AUDIENCE, "scope": "admin"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, content)]
    mac = b"" if secret is None else hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join((*parts, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode()


def tampered(given: str) -> str:
    header, content, signature = given.split(".")
    claims = json.loads(base64.urlsafe_b64decode(content + "=="))
    changed = base64.urlsafe_b64encode(json.dumps(claims | {"scope": "admin"}).encode()).rstrip(b"=").decode()
    return f"{header}.{changed}.{signature}"


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


SCOPES = {"transcribe", "metrics", "key"}
# What is sent, what it is good for ("key" stands for getting a token), and which reason the metrics then give.
Case = tuple[Callable[[World], Any], set[str], str]
CREDENTIALS: dict[str, Case] = {
    "none": (lambda world: {}, set(), "missing"),
    "basic": (lambda world: {"Authorization": "Basic YTpi"}, set(), "missing"),
    "cookie": (lambda world: {"Cookie": f"token={world.keys['good']}"}, set(), "missing"),
    "empty bearer": (lambda world: {"Authorization": "Bearer "}, set(), "malformed"),
    "malformed": (lambda world: bearer("x"), set(), "malformed"),
    "malformed key": (lambda world: {"X-API-Key": "asr_x"}, set(), "malformed"),
    "not even text": (lambda world: {"X-API-Key": b"\xff\xfe"}, set(), "malformed"),
    "two": (lambda world: bearer(good()) | {"X-API-Key": world.keys["good"]}, set(), "malformed"),
    "two of a name": (
        lambda world: [("X-API-Key", world.keys["good"]), ("X-API-Key", world.keys["metrics"])],
        set(),
        "malformed",
    ),
    "key as bearer": (lambda world: bearer(world.keys["good"]), SCOPES, ""),
    "key": (lambda world: {"X-API-Key": world.keys["good"]}, SCOPES, ""),
    "key beside basic": (lambda world: {"X-API-Key": world.keys["good"], "Authorization": "Basic x"}, SCOPES, ""),
    "the same twice": (lambda world: bearer(world.keys["good"]) | {"X-API-Key": world.keys["good"]}, SCOPES, ""),
    "key in other letters": (lambda world: {"authorization": f"bearer  {world.keys['good']}"}, SCOPES, ""),
    "key of an admin": (lambda world: bearer(world.keys["admin"]), SCOPES, ""),
    "key without the scope": (lambda world: bearer(world.keys["metrics"]), {"metrics", "key"}, "scope"),
    "unknown key": (lambda world: bearer("asr_01234567_" + "A" * 43), set(), "unknown"),
    "wrong key": (lambda world: bearer(world.keys["good"][:13] + "A" * 43), set(), "unknown"),
    "revoked key": (lambda world: bearer(world.keys["revoked"]), set(), "revoked"),
    "expired key": (lambda world: bearer(world.keys["expired"]), set(), "expired"),
    "HS256": (lambda world: bearer(good()), {"transcribe", "metrics"}, ""),
    "RS256 by file": (lambda world: bearer(good("RS256")), {"transcribe", "metrics"}, ""),
    "ES256 by key set": (lambda world: bearer(good("ES256", kid="ec")), {"transcribe", "metrics"}, ""),
    "EdDSA by key set": (lambda world: bearer(good("EdDSA", kid="ed")), {"transcribe", "metrics"}, ""),
    "token of an admin": (lambda world: bearer(good(scope="openid admin")), {"transcribe", "metrics"}, ""),
    "token in the key's header": (lambda world: {"X-API-Key": good()}, {"transcribe", "metrics"}, ""),
    "token without scope": (lambda world: bearer(good(scope=None)), set(), "scope"),
    "token with another scope": (lambda world: bearer(good(scope="metrics")), {"metrics"}, "scope"),
    "scope in other letters": (lambda world: bearer(good(scope="TRANSCRIBE admins")), set(), "scope"),
    "alg none": (lambda world: bearer(forged({"alg": "none"}, None)), set(), "malformed"),
    "alg none, signed": (lambda world: bearer(forged({"alg": "none"}, SECRET.encode())), set(), "malformed"),
    "no alg": (lambda world: bearer(forged({}, None)), set(), "malformed"),
    "HS256 unsigned": (lambda world: bearer(forged({"alg": "HS256"}, None)), set(), "unknown"),
    "HS256 of somebody else": (lambda world: bearer(good(key="y" * 40)), set(), "unknown"),
    "HS256 with the public key": (
        lambda world: bearer(forged({"alg": "HS256"}, public_pem(key_pair("RS256")))),
        set(),
        "unknown",
    ),
    "HS256 with a key of the set": (
        lambda world: bearer(forged({"alg": "HS256", "kid": "ec"}, public_pem(key_pair("ES256")))),
        set(),
        "unknown",
    ),
    "RS256 with the secret": (lambda world: bearer(forged({"alg": "RS256"}, SECRET.encode())), set(), "unknown"),
    "RS256 of somebody else": (lambda world: bearer(good("RS256", key_pair("RS256", "x"))), set(), "unknown"),
    "ES256 of somebody else": (lambda world: bearer(good("ES256", key_pair("ES256", "x"), "ec")), set(), "unknown"),
    "ES256 with the other's id": (lambda world: bearer(good("ES256", kid="ed")), set(), "unknown"),
    "a key within the token": (
        lambda world: bearer(
            token("ES256", key_pair("ES256", "x"), {"jwk": jwk("ES256", which="x")}, iss=ISSUER, aud=AUDIENCE)
        ),
        set(),
        "unknown",
    ),
    "an address within the token": (
        lambda world: bearer(
            token("ES256", key_pair("ES256", "x"), {"jku": "https://evil.example"}, iss=ISSUER, aud=AUDIENCE)
        ),
        set(),
        "unknown",
    ),
    "tampered": (lambda world: bearer(tampered(good())), set(), "unknown"),
    "expired": (lambda world: bearer(good(exp=int(time.time()) - 31)), set(), "expired"),
    "without end": (lambda world: bearer(good(exp=None)), set(), "claims"),
    "not yet valid": (lambda world: bearer(good(nbf=int(time.time()) + 60)), set(), "claims"),
    "wrong audience": (lambda world: bearer(good(aud="mail")), set(), "claims"),
    "no audience": (lambda world: bearer(good(aud=None)), set(), "claims"),
    "wrong issuer": (lambda world: bearer(good(iss="https://evil.example")), set(), "claims"),
    "no issuer": (lambda world: bearer(good(iss=None)), set(), "claims"),
    "no subject": (lambda world: bearer(good(sub=None)), set(), "claims"),
}


def expected(route: Protected, allowed: set[str], reason: str) -> tuple[int, str | None]:
    """The status, and the challenge of a refusal."""
    if route.needs == "open" or route.needs in allowed:
        return route.status, None
    if route.elsewhere:
        return 303, None
    if reason == "missing":
        return 401, 'Bearer realm="asr-service"'
    if reason == "scope" and route.needs != "key":
        return 403, f'Bearer realm="asr-service", error="insufficient_scope", scope="{route.needs}"'
    return 401, 'Bearer realm="asr-service", error="invalid_token"'


def test_every_route_is_in_the_table() -> None:
    found = set()
    for route in iter_route_contexts(build(FakeEngine(), FakeDecoder()).routes):
        assert route.path is not None
        if isinstance(route.original_route, WebSocketRoute):
            found.add(("WEBSOCKET", route.path))
            continue
        assert isinstance(route.original_route, Route), f"{route.path} is of a kind that this table cannot check yet"
        # A HEAD is answered as the GET beside it is.
        found |= {(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    assert found == set(ROUTES)


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_every_route_with_every_credential(serve: Serve, world: World, name: str) -> None:
    credential, allowed, reason = CREDENTIALS[name]
    metrics = Metrics()
    answers, wanted, refused = {}, {}, 0
    async with serve(engine(), metrics=metrics, **world.settings) as client:
        for (method, path), route in ROUTES.items():
            response = await ask(client, method, route.url or path, headers=credential(world), **route.request or {})
            answers[method, path] = (response.status_code, response.headers.get("www-authenticate"))
            wanted[method, path] = expected(route, allowed, reason)
            refused += response.status_code in ((303,) if route.elsewhere else (401, 403))

    assert answers == wanted
    # Whom a token is too little for, it is no key for either.
    counted = sum(
        metrics.registry.get_sample_value("asr_auth_refused_total", {"reason": one}) or 0
        for one in {reason or "malformed", "malformed"}
    )
    assert counted == refused


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_other_methods_open_nothing(serve: Serve, world: World, method: str) -> None:
    async with serve(engine(), **world.settings) as client:
        for (_, path), route in ROUTES.items():
            if route.needs != "open" and path != "/v1/realtime":
                response = await client.request(method, route.url or path)
                assert response.status_code in (401, 405), path


async def test_without_authentication_everybody_is_known_by_address(serve: Serve, log_lines: Lines) -> None:
    async with serve(engine()) as client:
        statuses = {}
        for (method, path), route in ROUTES.items():
            response = await ask(client, method, route.url or path, headers=bearer("anything"), **route.request or {})
            statuses[method, path] = response.status_code

    # Nobody needs to log in, and tokens are not made.
    others = {("POST", "/auth/token"): 404, ("GET", "/ui/login"): 303, ("POST", "/ui/login"): 303}
    assert statuses == {key: route.status for key, route in ROUTES.items()} | others
    callers = {line["route"]: line.get("caller") for line in log_lines if line["event"] == "request"}
    assert callers["/transcribe"] == "address:127.0.0.1"
    assert callers["/livez"] is None


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
@pytest.mark.parametrize("credential", ["none", "malformed", "key without the scope"])
async def test_nobody_sends_a_body_before_being_known(serve: Serve, world: World, path: str, credential: str) -> None:
    sent = []

    async def body() -> AsyncIterator[bytes]:
        sent.append(True)
        yield b"x"

    async with serve(engine(), **world.settings) as client:
        response = await client.post(path, content=body(), headers=CREDENTIALS[credential][0](world))

    assert response.status_code in (401, 403)
    assert sent == []


async def test_a_refusal_does_not_say_why(serve: Serve, world: World) -> None:
    bodies = set()
    async with serve(engine(), **world.settings) as client:
        for credential, allowed, reason in CREDENTIALS.values():
            if not allowed and reason not in ("missing", "scope"):
                response = await client.get("/metrics", headers=credential(world))
                bodies.add(response.text.replace(response.headers["x-request-id"], "…"))

    assert len(bodies) == 1


async def test_the_log_says_who_and_why_but_no_credential(serve: Serve, world: World, log_lines: Lines) -> None:
    tried = []
    async with serve(engine(), **world.settings) as client:
        for credential, _, _ in CREDENTIALS.values():
            headers = credential(world)
            tried += list(dict(headers).values())
            await client.get("/v1/models", headers=headers)

    lines = dict(zip(CREDENTIALS, [line for line in log_lines if line["event"] == "request"], strict=True))
    assert lines["key"]["caller"] == "key:good"
    assert lines["HS256"]["caller"] == "token:alice"
    assert (lines["key without the scope"]["caller"], lines["key without the scope"]["status"]) == ("key:metrics", 403)
    assert lines["expired key"]["auth_refused"].startswith("the API key 'expired' (")
    assert lines["wrong audience"]["auth_refused"] == "the token's claims: Audience doesn't match"
    assert "auth_refused" not in lines["none"]
    written = str(log_lines)
    for value in tried:
        for word in (value if isinstance(value, str) else value.decode("latin-1")).split():
            assert len(word) < 10 or word not in written


async def test_answers_under_v1_are_what_the_official_client_expects(world: World) -> None:
    app = build(engine(), FakeDecoder(), **world.settings)
    async with app.router.lifespan_context(app):

        def client(key: str) -> openai.AsyncOpenAI:
            transport = httpx2.ASGITransport(app)
            http = openai.DefaultAsyncHttpxClient(transport=transport, base_url="http://asr")
            return openai.AsyncOpenAI(base_url="http://asr/v1", api_key=key, http_client=http, max_retries=0)

        async with client(world.keys["good"]) as good_client:
            assert [model.id async for model in good_client.models.list()] == ["whisper-test", "whisper-1"]
        async with client("wrong") as bad_client:
            with pytest.raises(openai.AuthenticationError) as unauthenticated:
                await bad_client.models.list()
        async with client(world.keys["metrics"]) as poor_client:
            with pytest.raises(openai.PermissionDeniedError) as forbidden:
                await poor_client.models.list()

    assert (unauthenticated.value.type, unauthenticated.value.code) == ("authentication_error", "unauthenticated")
    assert (forbidden.value.type, forbidden.value.code) == ("permission_error", "insufficient_scope")


async def test_an_address_that_fails_too_often_has_to_wait(serve: Serve, world: World) -> None:
    metrics = Metrics()
    settings = world.settings | {"rate_limit": {"failed_logins_per_minute": 3}}
    async with serve(engine(), metrics=metrics, **settings) as client:
        for _ in range(5):
            assert (await client.get("/v1/models")).status_code == 401
        for _ in range(3):
            assert (await client.get("/v1/models", headers=bearer(world.keys["metrics"]))).status_code == 403
        statuses = [(await client.get("/v1/models", headers=bearer("x"))).status_code for _ in range(4)]
        blocked = await client.post("/auth/token", headers=bearer(world.keys["good"]))

    assert statuses == [401, 401, 401, 429]
    assert (blocked.status_code, blocked.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(blocked.headers["retry-after"]) <= 60
    assert metrics.registry.get_sample_value("asr_auth_refused_total", {"reason": "failures"}) == 2


async def test_a_revoked_key_is_refused_while_the_service_runs(
    serve: Serve, world: World, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_service.auth.keys._RELOAD_INTERVAL_S", 0.0)
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    key = key_store.create(path, "web", ["transcribe"], Limits(), None)[0]
    async with serve(engine(), auth={"mode": "required", "keys_file": path}) as client:
        before = await client.get("/v1/models", headers=bearer(key))
        key_store.revoke(path, "web")
        after = await client.get("/v1/models", headers=bearer(key))
        new = key_store.create(path, "web", ["transcribe"], Limits(), None)[0]
        again = await client.get("/v1/models", headers=bearer(new))

    assert [response.status_code for response in (before, after, again)] == [200, 401, 200]


async def test_an_issuer_that_is_gone_is_not_the_callers_fault(serve: Serve) -> None:
    with serving(Issuer()) as issuer:
        url = issuer.url
    async with serve(engine(), auth={"mode": "required", "jwt": {"jwks_url": url}}) as client:
        response = await client.get("/v1/models", headers=bearer(good("RS256", kid="one")))

    assert (response.status_code, response.json()["error"]["code"]) == (503, "auth_unavailable")
    assert response.headers["retry-after"] == "10"


@pytest.mark.parametrize("form", [{}, {"scope": "transcribe"}, {"grant_type": "client_credentials"}], ids=str)
async def test_a_token_stands_for_its_key(serve: Serve, world: World, form: dict[str, str], log_lines: Lines) -> None:
    async with serve(engine(), **world.settings) as client:
        reply = await client.post("/auth/token", headers=bearer(world.keys["good"]), data=form)
        body = reply.json()
        models = await client.get("/v1/models", headers=bearer(body["access_token"]))
        metrics = await client.get("/metrics", headers=bearer(body["access_token"]))

    scope = form.get("scope", "metrics transcribe")
    assert body == {"access_token": body["access_token"], "token_type": "Bearer", "expires_in": 900, "scope": scope}
    assert reply.headers["cache-control"] == "no-store"
    assert models.status_code == 200
    assert metrics.status_code == (200 if "metrics" in scope else 403)
    assert {line["caller"] for line in log_lines if line["event"] == "request"} == {"key:good"}


async def test_an_admin_may_hand_on_less(serve: Serve, world: World) -> None:
    async with serve(engine(), **world.settings) as client:
        reply = await client.post("/auth/token", headers=bearer(world.keys["admin"]), data={"scope": "transcribe"})
        given = bearer(reply.json()["access_token"])
        statuses = [(await client.get(path, headers=given)).status_code for path in ("/v1/models", "/metrics")]

    assert reply.json()["scope"] == "transcribe"
    assert statuses == [200, 403]


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"data": {"scope": "transcribe"}}, 403, "insufficient_scope"),
        ({"data": {"scope": "admin"}}, 403, "insufficient_scope"),
        ({"data": {"scope": "root"}}, 422, "invalid_option"),
        ({"data": {"scope": ["metrics", "admin"]}}, 422, "invalid_option"),
        ({"data": {"scop": "metrics"}}, 422, "invalid_option"),
        ({"data": {"grant_type": "password"}}, 422, "invalid_option"),
        ({"json": {"scope": "metrics"}}, 415, "unsupported_upload"),
        ({"content": b"x" * 5000}, 413, "upload_too_large"),
        ({"content": b"\xff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 422, "invalid_option"),
    ],
    ids=["more", "admin", "unknown", "twice", "field", "grant", "json", "large", "bytes"],
)
async def test_tokens_that_are_not_made(
    serve: Serve, world: World, request_: dict[str, Any], status: int, code: str
) -> None:
    headers = bearer(world.keys["metrics"]) | request_.get("headers", {})
    async with serve(engine(), **world.settings) as client:
        response = await client.post("/auth/token", **request_ | {"headers": headers})

    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_tokens_need_a_secret(serve: Serve, world: World) -> None:
    async with serve(engine(), auth={"mode": "required", "keys_file": world.path}) as client:
        response = await client.post("/auth/token", headers=bearer(world.keys["good"]))

    assert (response.status_code, response.json()["code"]) == (404, "tokens_not_issued")
    assert "ASR_AUTH__JWT__SECRET" in response.json()["detail"]


async def test_the_document_says_what_is_protected() -> None:
    paths: dict[str, Any] = build(FakeEngine(), FakeDecoder()).openapi()["paths"]

    for (method, path), route in ROUTES.items():
        operation = paths.get(path.replace(":path", ""), {}).get(method.lower())
        if operation is not None:
            wanted: Any = None if route.needs == "open" else [{"bearer": []}, {"apiKey": []}]
            assert operation.get("security") == wanted, path
            assert ("401" in operation["responses"]) is (route.needs != "open"), path


@pytest.mark.parametrize(
    "auth", [{"keys_file": "/nowhere/keys.json"}, {"jwt": {"public_key_file": "/nowhere/key.pem"}}]
)
def test_files_that_are_not_there_end_the_start(auth: dict[str, Any]) -> None:
    with pytest.raises(AuthUnusable, match=r"^/nowhere/\S+: No such file or directory\."):
        build(FakeEngine(), FakeDecoder(), auth={"mode": "required"} | auth)
