"""What gradio makes of the page: its HTML and theme. Runs in a process of its own, once, and then ends.

    python -m asr_service.api.ui.frame

Owns the layout: a header, two tabs and a footer, empty boxes that `static/page.js` fills. The only module that imports
gradio, which takes seconds and 100 MB that the service's process is spared. Must not know the service: the page needs
nothing of gradio's server, since its work is done by the service's own API.
"""

import asyncio
import json
import re
import sys
from typing import Any

import fastapi
import gradio as gr

# Made relative in the end, so that the page works under any name, and behind a proxy that adds a prefix.
_ORIGIN = "http://asr.invalid"
_MOUNT = "/ui"
TITLE = "asr-service"
_HEAD = """\
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<link rel="icon" href="page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page/page.css">
<script type="module" src="page/page.js"></script>
"""
# What gradio's template says to other sites and to installers of apps.
_UNWANTED = re.compile(r'<link rel="manifest"[^>]*>|<meta\s+(?:property|name)="(?:og|twitter):[^>]*>')
_SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Microsoft YaHei", "sans-serif")
_MONOSPACED = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def blocks() -> gr.Blocks:
    """The page as gradio sees it. Without events: no call of its browser side ever needs a server."""
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.Column(elem_id="asr-header")
        with gr.Tabs(elem_id="asr-tabs"):
            with gr.Tab("Microphone", id="microphone"):
                gr.Column(elem_id="asr-microphone")
            with gr.Tab("File", id="file"):
                gr.Column(elem_id="asr-file")
        gr.Column(elem_id="asr-footer")
    return page


def theme() -> gr.Theme:
    """Calm colours, and fonts of the reader's own system: those of gradio's themes come from Google."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=_SYSTEM_FONTS,
        font_mono=_MONOSPACED,
    )


def application() -> fastapi.FastAPI:
    """An application that has the page at /ui, as gradio mounts it."""
    app = fastapi.FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        blocks(),
        path=_MOUNT,
        theme=theme(),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        show_error=False,
    )
    return app


def render() -> dict[str, str]:
    """The page's `html`, and `theme` as a style sheet."""
    app = application()
    html = asyncio.run(_get(app, f"{_MOUNT}/"))
    html = _UNWANTED.sub("", html.replace(f"{_ORIGIN}{_MOUNT}", "./"))
    return {
        # Not through gradio, whose script would add it late.
        "html": html.replace("</head>", f"{_HEAD}</head>", 1),
        "theme": asyncio.run(_get(app, f"{_MOUNT}/theme.css")),
    }


async def _get(app: fastapi.FastAPI, path: str) -> str:
    """The body that a browser would get."""
    status, body = 0, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", _ORIGIN.removeprefix("http://").encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"gradio answered {path} with {status}")
    return body.decode()


def main() -> None:
    """Write the page to stdout, as JSON."""
    answer = sys.stdout
    # Whatever a library has to say is not the answer.
    sys.stdout = sys.stderr
    answer.write(json.dumps(render()))


if __name__ == "__main__":
    main()
