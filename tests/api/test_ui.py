"""The page at /ui: rendered once and late, nothing of gradio's server, and what it asks of the service."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import webvtt

from asr_service.api.headers import DEFAULTS
from asr_service.api.ui.page import NotInstalled, Page, Rendered, RenderFailed, render_in_child
from asr_service.api.ui.subtitles import MAX_BODY_BYTES
from asr_service.settings import decoder_environment
from tests.api.conftest import Serve, simple_page
from tests.fakes import GLM_ASR, FakeEngine, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

OWN_FILES = ("page.js", "page.css", "worklet.js", "icon.svg", "strings.js")
SEGMENT: dict[str, Any] = {"start": 0.5, "end": 2.5, "text": "Good morning. Is anybody there?"}


class Rendering:
    """Renders when it is told to."""

    def __init__(self, *outcomes: Rendered | Exception) -> None:
        self.outcomes = list(outcomes)
        self.begun = 0
        self.go = asyncio.Event()

    async def __call__(self) -> Rendered:
        self.begun += 1
        await self.go.wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_the_page_is_rendered_when_it_is_first_asked_for_and_once(serve: Serve) -> None:
    rendering = Rendering(await simple_page())
    async with serve(FakeEngine(), page=Page(rendering)) as client:
        await client.get("/livez")
        await client.get("/ui/about")
        assert rendering.begun == 0
        requests = [asyncio.create_task(client.get("/ui/")) for _ in range(5)]
        gone = asyncio.create_task(client.get("/ui/"))
        await settle()
        gone.cancel()
        await settle()
        rendering.go.set()
        answers = await asyncio.gather(*requests)
        answers.append(await client.get("/ui/"))

    assert {(answer.status_code, answer.text) for answer in answers} == {(200, (await simple_page()).html)}
    assert rendering.begun == 1


async def test_a_rendering_that_fails_is_tried_again_by_the_next_visitor(serve: Serve) -> None:
    rendering = Rendering(RenderFailed(), await simple_page())
    rendering.go.set()
    async with serve(FakeEngine(), page=Page(rendering)) as client:
        failed, page = await client.get("/ui/"), await client.get("/ui/")

    assert (failed.status_code, failed.json()["code"], failed.headers["retry-after"]) == (503, "unavailable", "10")
    assert page.status_code == 200


async def test_a_service_that_ends_does_not_wait_for_a_rendering(serve: Serve) -> None:
    async with serve(FakeEngine(), page=Page(Rendering())) as client:
        request = asyncio.create_task(client.get("/ui/"))
        await settle()
        request.cancel()


async def test_without_gradio_the_page_says_what_to_install(serve: Serve) -> None:
    rendering = Rendering(NotInstalled(), NotInstalled())
    rendering.go.set()
    async with serve(FakeEngine(), page=Page(rendering)) as client:
        for path in ("/ui/", "/ui/theme.css"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            assert "pip install 'asr-service[ui]'" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/login", "/ui/about", "/ui/page/page.js", "/ui/theme.css"])
async def test_it_can_be_turned_off(serve: Serve, path: str) -> None:
    async with serve(FakeEngine(), ui=False) as client:
        answer = await client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_child_that_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, log_lines: list[Mapping[str, Any]]
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RenderFailed):
        await render_in_child({})
    assert [line["exit_code"] for line in log_lines] == [1]


async def test_a_child_that_is_not_waited_for_ends(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\nexec sleep 1000\n")
    stuck.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(stuck))
    monkeypatch.setattr("asr_service.api.ui.page._RENDER_LIMIT_S", 0.0)
    with pytest.raises(RenderFailed):
        await render_in_child({})
    stuck.unlink()


@pytest.fixture(scope="module")
async def rendered(anyio_backend: str) -> Rendered:
    """The real page, from its own process."""
    return await render_in_child(decoder_environment())


async def test_the_real_page_names_no_other_host_and_all_its_files_are_there(serve: Serve, rendered: Rendered) -> None:
    async def render() -> Rendered:
        return rendered

    async with serve(FakeEngine(), page=Page(render)) as client:
        page = await client.get("/ui/")
        named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        files = {name: await client.get(f"/ui/{name.removeprefix('./')}") for name in named if name != "./"}
        theme = await client.get("/ui/theme.css")

    assert "http:" not in page.text
    assert "https:" not in page.text
    assert "http" not in theme.text.replace("http://www.w3.org/2000/svg", "")
    assert {"page/page.js", "page/page.css", "page/icon.svg"} < files.keys()
    assert {answer.status_code for answer in files.values()} == {200}
    assert theme.headers["content-type"].startswith("text/css")


async def test_the_page_may_do_little(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        page = await client.get("/ui/")
        files = [await client.get(f"/ui/page/{name}") for name in OWN_FILES]

    policy = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])
    assert (policy["connect-src"], policy["media-src"]) == ("'self'", "'self' blob:")
    assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == ("'none'", "'self'", "'self'")
    assert page.headers["permissions-policy"].startswith("microphone=(self), camera=()")
    # `no-referrer` would have the form for logging out sent with `Origin: null`.
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["cache-control"] == "no-store"
    for answer in files:
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == DEFAULTS["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/ui/page/routes.py",
        "/ui/page/..%2froutes.py",
        "/ui/page/%2e%2e",
        "/ui/page/..%2f..%2fauth.py",
        "/ui/page/none.js",
        "/ui/page/",
        "/ui/assets/..%2findex.html",
        "/ui/assets/..%2fassets",
        "/ui/assets/%2fetc%2fpasswd",
        "/ui/static/js/..%2findex.html",
        "/ui/index.html",
    ],
)
async def test_no_other_files_are_served(serve: Serve, path: str) -> None:
    async with serve(FakeEngine()) as client:
        assert (await client.get(path)).status_code == 404


ROUTES_OF_GRADIO = """
import json, sys
from fastapi.routing import iter_route_contexts
from gradio.routes import App
from asr_service.api.ui.frame import blocks
found = [[sorted(getattr(r, "methods", None) or ["GET", "POST"]), r.path]
         for r in iter_route_contexts(App.create_app(blocks()).routes)]
json.dump(found, sys.stdout)
"""
STAY: Mapping[tuple[str, str], int] = {
    ("GET", "/"): 200,
    ("GET", "/theme.css"): 200,
    # The service's own, which lead to the page, since nobody needs to log in here; and its answer to another method.
    ("POST", "/login"): 303,
    ("GET", "/logout"): 405,
}


@pytest.fixture(scope="module")
def routes_of_gradio() -> list[tuple[list[str], str]]:
    """Methods and paths, from a process of its own: importing gradio leaves open event loops behind."""
    command = [sys.executable, "-W", "ignore", "-c", ROUTES_OF_GRADIO]
    found: list[tuple[list[str], str]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


async def test_nothing_of_gradios_server_can_be_reached(
    serve: Serve, routes_of_gradio: list[tuple[list[str], str]]
) -> None:
    statuses: dict[tuple[str, str], int] = {}
    async with serve(FakeEngine()) as client:
        for methods, path in routes_of_gradio:
            for method in methods:
                url = re.sub(r"\{[^}]*\}", "x", path)
                statuses[method, path] = (await client.request(method, f"/ui{url}")).status_code

    assert len(statuses) > 40
    assert {"/gradio_api/queue/join", "/gradio_api/upload", "/config"} <= {path for _, path in statuses}
    opened = {key: status for key, status in statuses.items() if status not in (404, 405)}
    assert opened == {key: status for key, status in STAY.items() if status not in (404, 405)}
    assert statuses["GET", "/logout"] == STAY["GET", "/logout"]


async def test_about(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        whisper = (await client.get("/ui/about")).json()
    async with serve(FakeEngine(model=GLM_ASR)) as client:
        glm = (await client.get("/ui/about")).json()
    async with serve(FakeEngine(model=None)) as client:
        loading = await client.get("/ui/about")

    assert whisper == {
        "version": whisper["version"],
        "ready": True,
        "reason": None,
        "model": "whisper-test",
        "languages": ["en", "de", "zh", "jw"],
        "word_times": True,
        "translates": True,
        "max_upload_bytes": 1 << 20,
        "login": False,
    }
    assert (glm["languages"], glm["word_times"], glm["translates"]) == ([], False, False)
    assert loading.status_code == 200
    assert (loading.json()["ready"], loading.json()["reason"], loading.json()["model"]) == (
        False,
        "the model is loading",
        None,
    )


async def test_subtitles_are_cut_as_everywhere(serve: Serve) -> None:
    texts = SEGMENT["text"].split(" ")
    words = [{"word": text, "start": 0.5 + 0.4 * i, "end": 0.8 + 0.4 * i} for i, text in enumerate(texts)]
    async with serve(FakeEngine()) as client:
        srt = await client.post("/ui/subtitles", json={"format": "srt", "segments": [SEGMENT | {"words": words}]})
        vtt = await client.post("/ui/subtitles", json={"format": "vtt", "segments": [SEGMENT | {"words": None}]})
        empty = await client.post("/ui/subtitles", json={"format": "vtt", "segments": []})

    assert srt.text.startswith("1\n00:00:00,500 --> ")
    assert srt.headers["content-type"] == "application/x-subrip"
    captions = webvtt.from_string(vtt.text).captions
    assert " ".join(caption.text.replace("\n", " ") for caption in captions) == SEGMENT["text"]
    assert empty.text == "WEBVTT\n\n"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"json": {}}, 422, "invalid_option"),
        ({"json": {"format": "ass", "segments": []}}, 422, "invalid_option"),
        ({"json": {"format": "srt", "segments": [], "more": 1}}, 422, "invalid_option"),
        ({"json": {"format": "srt", "segments": [SEGMENT | {"start": -1}]}}, 422, "invalid_option"),
        ({"json": {"format": "srt", "segments": [SEGMENT | {"end": 1e300}]}}, 422, "invalid_option"),
        ({"json": {"format": "srt", "segments": [SEGMENT | {"words": [{"word": "secret"}]}]}}, 422, "invalid_option"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "invalid_option"),
        ({"content": b"\xff", "headers": {"Content-Type": "application/json"}}, 422, "invalid_option"),
        (
            {"content": b'{"format": "srt", "segments": [NaN]}', "headers": {"Content-Type": "application/json"}},
            422,
            "",
        ),
        ({"data": {"format": "srt"}}, 415, "unsupported_upload"),
        (
            {"content": b" " * (MAX_BODY_BYTES + 1), "headers": {"Content-Type": "application/json"}},
            413,
            "upload_too_large",
        ),
    ],
    ids=["empty", "format", "field", "before", "late", "word", "json", "bytes", "nan", "form", "large"],
)
async def test_what_is_no_transcript_is_refused(serve: Serve, request_: Any, status: int, code: str) -> None:
    async with serve(FakeEngine()) as client:
        answer = await client.post("/ui/subtitles", **request_)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["code"] == (code or "invalid_option")
    assert "secret" not in answer.json()["detail"]
