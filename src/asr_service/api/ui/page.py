"""What the page consists of, and how it comes about: rendered once, when somebody first asks for it.

Owns the one rendering that all requests share, the files of gradio that a browser may have, and the page's policy. Must
not import gradio: `frame` does, in a process that has ended by the time the page is sent.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

FRAMEWORK = "gradio"
_RENDER_LIMIT_S = 120.0
_INLINE_SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
_log = structlog.stdlib.get_logger("asr_service.ui")


class NotInstalled(Exception):
    """What the page is rendered with is not there."""


class RenderFailed(Exception):
    """The page could not be rendered; the log says why."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The page, the style sheet of its theme, and the Content-Security-Policy that lets its own scripts run."""

    html: str
    theme: str
    policy: str

    @classmethod
    def build(cls, html: str, theme: str) -> "Rendered":
        """Scripts within `html` are allowed by their hashes, so that nothing else within a page ever runs."""
        digests = (hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(html))
        hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
        policy = (
            f"default-src 'none'; script-src 'self' {hashes}; connect-src 'self'; font-src 'self'; "
            # gradio sets styles on elements; what is played was recorded or chosen in the page.
            "style-src 'self' 'unsafe-inline'; img-src 'self' data:; media-src 'self' blob:; worker-src 'self'; "
            "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
        )
        return cls(html, theme, policy)


class Page:
    """The page, rendered by `render` at the first request for it. All who ask meanwhile wait for the same rendering."""

    def __init__(self, render: Callable[[], Awaitable[Rendered]]) -> None:
        """`render` raises NotInstalled or RenderFailed; the next request then tries again."""
        self._render = render
        self._rendered: Rendered | None = None
        self._rendering: asyncio.Task[Rendered] | None = None

    async def rendered(self) -> Rendered:
        """The page. Raises NotInstalled, RenderFailed."""
        if self._rendered is None:
            if self._rendering is None:
                self._rendering = asyncio.create_task(self._rendered_now(), name="render the page")
            # A visitor who leaves does not end it for the others.
            self._rendered = await asyncio.shield(self._rendering)
        return self._rendered

    async def aclose(self) -> None:
        """End a rendering that is still going on."""
        if self._rendering is not None:
            self._rendering.cancel()
            await asyncio.gather(self._rendering, return_exceptions=True)

    async def _rendered_now(self) -> Rendered:
        try:
            return await self._render()
        finally:
            self._rendering = None


async def render_in_child(environment: Mapping[str, str]) -> Rendered:
    """The page as `frame` renders it, in a process that sees `environment` only. Raises NotInstalled, RenderFailed."""
    if importlib.util.find_spec(FRAMEWORK) is None:
        raise NotInstalled
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asr_service.api.ui.frame"),
        env={**environment, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_RENDER_LIMIT_S):
            answer, complaint = await process.communicate()
    except TimeoutError:
        _log.error("the page was not rendered in time", limit_s=_RENDER_LIMIT_S)
        raise RenderFailed from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        _log.error(
            "the page was not rendered", exit_code=process.returncode, stderr=complaint.decode(errors="replace")[-2000:]
        )
        raise RenderFailed
    return Rendered.build(**json.loads(answer))


@functools.cache
def frontend() -> Path:
    """The folder of the files that gradio's browser side is made of. Raises NotInstalled."""
    # Only the files of the package are wanted: it is not imported.
    spec = importlib.util.find_spec(FRAMEWORK)
    if spec is None or spec.origin is None:
        raise NotInstalled
    return Path(spec.origin).parent / "templates" / "frontend"
