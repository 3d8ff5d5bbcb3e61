"""The addresses under /ui, and who may see what there.

Owns which files a browser may have, and their headers. No route of gradio is among them, neither its queue nor its
uploads: the page is rendered once, and all that it loads later are the files named here.
"""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

import asr_service
from asr_service.api import cookies
from asr_service.api.auth import TRANSCRIBE, gate_of
from asr_service.api.parts import PartsDep
from asr_service.api.problems import problem
from asr_service.api.ui import login
from asr_service.api.ui.page import NotInstalled, Page, RenderFailed, frontend
from asr_service.api.ui.subtitles import Cutter
from asr_service.errors import Forbidden, Unauthenticated, Unavailable

_OWN = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
_PAGE_HEADERS = {
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), display-capture=()",
    "Referrer-Policy": "same-origin",
}
# Their names change with their content.
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
_ASKED_FOR = {"Cache-Control": "no-cache"}
_FRAMES_SCRIPT = "iframeResizer.contentWindow.min.js"
_INSTALL = "The page needs gradio, which is not installed here: pip install 'asr-service[ui]'"
_RETRY_S = 10.0

router = APIRouter(prefix=cookies.PAGE, include_in_schema=False)


def install(app: FastAPI, page: Page) -> None:
    """Serve `page` under /ui."""
    app.state.page, app.state.cutter = page, Cutter()
    app.include_router(router)


class About(BaseModel):
    """What the page must know of the service. `login`: whether there is anybody to log out."""

    version: str
    ready: bool
    reason: str | None
    model: str | None
    languages: list[str]
    word_times: bool
    translates: bool
    max_upload_bytes: int
    login: bool


@router.get("")
async def without_slash() -> Response:
    """The page's addresses are relative to the one with a slash."""
    return RedirectResponse("ui/", HTTPStatus.SEE_OTHER)


@router.get("/")
async def page(request: Request) -> Response:
    """The page, or the way to the login."""
    try:
        await gate_of(request).enter(request, "transcribe")
    except (Unauthenticated, Forbidden) as error:
        response: Response = RedirectResponse("login", HTTPStatus.SEE_OTHER)
        if isinstance(error, Forbidden) or error.credentials_given:
            # It is good for nothing any more, and each further try would count as a failed login.
            cookies.delete_on(response, request)
        return response
    try:
        rendered = await _page_of(request).rendered()
    except NotInstalled:
        return _not_installed(request)
    except RenderFailed:
        raise Unavailable("The page could not be rendered; the log says why.", retry_after_s=_RETRY_S) from None
    return HTMLResponse(rendered.html, headers={**_PAGE_HEADERS, "Content-Security-Policy": rendered.policy})


@router.get("/login")
async def show_login(request: Request) -> Response:
    """The login page."""
    return await login.show(request)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Log in."""
    return await login.enter(request)


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """Log out."""
    return await login.leave(request)


@router.get("/about", dependencies=TRANSCRIBE)
async def about(request: Request, parts: PartsDep) -> About:
    """What the page offers depends on the model."""
    model = parts.engine.model
    reason = "the service is shutting down" if parts.admission.closed else parts.engine.not_ready_reason
    if model is None:
        reason = reason or "the model is loading"
    return About(
        version=asr_service.__version__,
        ready=reason is None,
        reason=reason,
        model=model.name if model else None,
        languages=list(model.languages) if model else [],
        word_times=model is not None and model.word_times,
        translates=model is not None and model.translates,
        max_upload_bytes=parts.max_upload_bytes,
        login=gate_of(request).authenticator is not None,
    )


@router.post("/subtitles", dependencies=TRANSCRIBE)
async def cut_subtitles(request: Request) -> Response:
    """A transcript as SubRip or WebVTT."""
    cutter: Cutter = request.app.state.cutter
    return await cutter.cut(request)


@router.get("/theme.css", dependencies=TRANSCRIBE)
async def theme(request: Request) -> Response:
    """The theme's style sheet."""
    try:
        rendered = await _page_of(request).rendered()
    except (NotInstalled, RenderFailed):
        return _not_installed(request)
    return Response(rendered.theme, media_type="text/css", headers=_ASKED_FOR)


@router.get("/page/{name}", dependencies=TRANSCRIBE)
async def own_file(name: str) -> Response:
    """The page's own scripts and styles."""
    return _file(_OWN, name, _ASKED_FOR)


@router.get("/assets/{name}", dependencies=TRANSCRIBE)
async def asset(request: Request, name: str) -> Response:
    """Scripts and styles of gradio's browser side."""
    return _gradios(request, "assets", name, _KEPT)


@router.get(f"/static/js/{_FRAMES_SCRIPT}", dependencies=TRANSCRIBE)
async def frames_script(request: Request) -> Response:
    """A script that gradio's page always loads."""
    return _gradios(request, "static/js", _FRAMES_SCRIPT, _ASKED_FOR)


def _page_of(request: Request) -> Page:
    page: Page = request.app.state.page
    return page


def _not_installed(request: Request) -> Response:
    return problem(request, 404, "not_found", _INSTALL)


def _gradios(request: Request, folder: str, name: str, headers: dict[str, str]) -> Response:
    try:
        return _file(frontend() / folder, name, headers)
    except NotInstalled:
        return _not_installed(request)


def _file(folder: Path, name: str, headers: dict[str, Any]) -> Response:
    """A file that stands in `folder` itself, of a kind that pages are made of."""
    path = folder / name
    if path.parent != folder or path.suffix not in _TYPES or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=headers)
