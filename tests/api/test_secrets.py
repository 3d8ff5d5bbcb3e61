"""Nothing secret and nothing private gets into a log, at any level, in either form, whatever happens."""

import asyncio
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import structlog

from asr_service.auth import key_store
from asr_service.auth.grants import Limits
from asr_service.observability import logs
from asr_service.settings import Settings, SettingsError
from tests.api.test_connections import listening
from tests.fakes import FakeEngine, result

pytestmark = pytest.mark.anyio

SECRET = "kP3xV9sLq0ZtB7nYw2RfH5cJm8DgA1uE4iToXyWb"
REDIS_PASSWORD = "r3d!s-pässw/rd"
REDIS_URL = "redis://limits:r3d!s-p%C3%A4ssw%2Frd@127.0.0.1:1/0"
SPOKEN, PROMPT, HOTWORD, AUDIO, QUERY = (
    "der-gesprochene-satz",
    "der-hinweis",
    "das-stichwort",
    "die-aufnahme",
    "die-frage",
)
LINES = {"Accept": "application/x-ndjson"}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {
        name: logging.getLogger(name).level for name in ("", "asr_service", "uvicorn", "python_multipart", "httpx")
    }
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


class Moody(FakeEngine):
    """Answers, and fails in every third window with secrets all around."""

    async def transcribe(self, request_id: str, pcm: bytes, options: Any, **named: Any) -> Any:
        self.calls.append(None)  # type: ignore[arg-type]
        heard, prompt = SPOKEN, options.prompt
        if len(self.calls) % 3 == 0:
            raise RuntimeError("the model fell over") from ValueError(len(heard) + len(prompt or ""))
        return result(heard)


def requests(key: str) -> list[tuple[str, dict[str, Any]]]:
    """All kinds of requests that carry something private."""
    audio = AUDIO.encode()
    form = {"model": "whisper-1", "prompt": PROMPT, "hotwords": HOTWORD}
    grant = {"grant_type": "client_credentials", "scope": QUERY}
    return [
        (f"/transcribe?prompt={PROMPT}", {"content": audio}),
        ("/transcribe", {"content": audio, "headers": LINES}),
        (f"/transcribe?access_token={key}&{QUERY}=1", {"content": audio}),
        (f"/transcribe?language={QUERY}", {"content": audio}),
        ("/v1/audio/transcriptions", {"data": form, "files": {"file": (f"{QUERY}.wav", audio)}}),
        ("/transcribe", {"data": {"hotwords": HOTWORD * 20}, "files": {"file": b"x"}}),
        ("/transcribe", {"data": {"prompt": PROMPT * 9000}, "files": {"file": b"x"}}),
        ("/transcribe", {"content": audio, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}),
        (f"/auth/token?{QUERY}=1", {"data": grant}),
        (f"/v1/models/{QUERY}", {}),
        (f"/{QUERY}/{key}", {}),
    ]


def configured(form: str, settings: Settings) -> io.StringIO:
    stream = io.StringIO()
    logs.configure("debug", form, stream, secrets=settings.secrets())
    structlog.stdlib.get_logger("asr_service").info("settings", **settings.changed())
    return stream


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_log_holds_a_secret_or_a_word(form: str, tmp_path: Path) -> None:
    good, _ = key_store.create(tmp_path / "keys.json", "good", ("transcribe",), Limits(), None)
    token = jwt.encode({"sub": "x", "scope": "transcribe", "exp": time.time() + 60}, SECRET, "HS256")
    expired = jwt.encode({"sub": "x", "scope": "transcribe", "exp": 1}, SECRET, "HS256")
    others: dict[str, Any] = {
        "auth": {"mode": "required", "keys_file": tmp_path / "keys.json", "jwt": {"secret": SECRET}},
        "redis_url": REDIS_URL,
        "rate_limit": {"requests_per_minute": 1000, "failed_logins_per_minute": 0},
        "log_level": "debug",
    }
    stream = configured(form, Settings(**others))
    statuses: list[int] = []

    async with listening(Moody(), **others) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("something is old", stacklevel=1)
        shown = [{"Authorization": f"Bearer {it}"} for it in (good, good[:-1], token, expired, "x y")]
        for headers in (*shown, {"X-API-Key": good}, {}):
            for path, content in requests(good):
                own = {**headers, **content.pop("headers", {})}
                answer = await client.request("POST" if content else "GET", path, headers=own, **content)
                statuses.append(answer.status_code)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /{QUERY} HTTP/1.1\r\nAuthorization: Bearer {good}\r\nbroken {PROMPT}\r\n\r\n".encode())
        assert b" 400 " in await reader.readline()
        writer.close()

    logged = stream.getvalue()
    secrets = [SECRET, REDIS_URL, REDIS_PASSWORD, "r3d!s", good, good[:-1], good.split("_", 2)[2][:12], token, expired]
    for private in (*secrets, token.split(".")[1], SPOKEN, PROMPT, HOTWORD, AUDIO, QUERY):
        assert private not in logged, next(line for line in logged.splitlines() if private in line)[:2000]
    assert {200, 401, 404, 422, 500} <= set(statuses)
    assert logged.count("request_ms") >= len(statuses)
    assert "the model fell over" in logged
    assert "something is old" in logged
    assert "ASR_AUTH__JWT__SECRET" in logged
    assert "redis://***@127.0.0.1:1/0" in logged


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_is_masked_even_where_a_library_writes_it(form: str) -> None:
    settings = Settings(redis_url=REDIS_URL, auth={"jwt": {"secret": SECRET[:20] + '"\\\n' + SECRET[20:]}})
    stream = configured(form, settings)
    real = settings.auth.jwt.secret
    assert real is not None

    for text in (real.get_secret_value(), REDIS_URL, REDIS_PASSWORD):
        logging.getLogger("redis").error("cannot use %s", text)
        logging.getLogger("redis").error("cannot use %r", text)
        structlog.stdlib.get_logger("asr_service.x").warning("odd", value=text, values=[text])
        try:
            raise ValueError(f"bad: {text!r}")
        except ValueError:
            logging.getLogger("asyncio").exception("failed")

    logged = stream.getvalue()
    assert "***" in logged
    for private in (SECRET[:20], SECRET[20:], "r3d!s"):
        assert private not in logged


def test_libraries_do_not_tell_more_at_the_level_debug() -> None:
    stream = configured("json", Settings())

    logging.getLogger("httpcore.http11").debug("Authorization: Bearer abc")
    logging.getLogger("python_multipart.multipart").warning("Skipping b'x'")
    logging.getLogger("asr_service.a").debug("ours")
    logging.getLogger("httpcore").info("theirs")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["settings", "ours", "theirs"]


@pytest.mark.parametrize(
    ("variables", "hidden"),
    [
        ({"ASR_AUTH__JWT__SECRET": "geheim"}, "geheim"),
        ({"ASR_AUTH__JWT__JWKS_URL": "ftp://user:geheim@keys.example/"}, "geheim"),
        ({"ASR_AUTH__JWT__JWKS_URL": "http://user:geheim@keys.example/?token=geheim"}, "geheim"),
        ({"ASR_AUTH__JWT__SECRET": SECRET, "ASR_AUTH__MODE": "maybe"}, SECRET),
        ({"ASR_REDIS_URL": "http://:geheim@redis"}, "geheim"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told_without_what_is_secret(variables: dict[str, str], hidden: str) -> None:
    try:
        shown = repr(Settings.load(variables).changed())
    except SettingsError as error:
        shown = str(error)
        assert "ASR_" in shown
    assert hidden not in shown


def test_only_what_was_changed_is_shown() -> None:
    assert Settings.load().changed() == {}
    shown = Settings.load({"ASR_PORT": "0", "ASR_CACHE_DIR": "/cache", "ASR_MODEL": "whisper-base"}).changed()
    assert shown == {"ASR_PORT": 0, "ASR_CACHE_DIR": "/cache"}
