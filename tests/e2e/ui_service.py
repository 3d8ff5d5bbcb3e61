"""The service's HTTP side with a scripted engine and a scripted WS /v1/realtime, for tests of the page in a browser.

    python -m tests.e2e.ui_service

Every recording has three windows of a second, and each of them a sentence. With the language `de`, each waits for
somebody to POST /go.
"""

import asyncio
import socket
from collections.abc import Callable

import structlog
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from asr_service.api.app import create_app
from asr_service.domain import ModelInfo, Priority, WindowOptions, WindowResult, WindowTimings, Word
from asr_service.observability import logs
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings
from tests.e2e.scripted_realtime import realtime
from tests.fakes import FakeDecoder, FakeListener

SENTENCES = ("Good morning.", "The meeting begins at nine <b>sharp</b>.", "Thank you & goodbye.")
MODEL = ModelInfo(
    "scripted", "whisper", "cpu", "float32", ("en", "de", "zh"), 4, 0, 0.0, translates=True, word_times=True
)


class ScriptedEngine:
    """Implements `service.Engine`: says the sentences, one a window. With the language `de` it waits before each."""

    model: ModelInfo | None = MODEL
    not_ready_reason: str | None = None

    def __init__(self) -> None:
        self.go = asyncio.Semaphore(0)

    async def start(self) -> None:
        """There is nothing to start."""

    async def wait_ready(self) -> None:
        """It always is."""

    async def aclose(self) -> None:
        """There is nothing to stop."""

    async def transcribe(
        self,
        request_id: str,
        pcm: bytes,
        options: WindowOptions,
        *,
        on_started: Callable[[str | None], None] | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> WindowResult:
        if options.language == "de":
            await self.go.acquire()
        number = int.from_bytes(pcm[:2], "little") % len(SENTENCES)
        texts = SENTENCES[number].split(" ")
        step_s = 0.8 / len(texts)
        words = tuple(Word(0.1 + i * step_s, 0.1 + (i + 1) * step_s, text) for i, text in enumerate(texts))
        return WindowResult(
            SENTENCES[number], options.language or "en", 4, WindowTimings(1.0, 1.0, 1.0, 4), words=words
        )


async def serve() -> None:
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    engine = ScriptedEngine()

    async def go(request: Request) -> Response:
        engine.go.release()
        return PlainTextResponse("")

    app = create_app(settings, engine, FakeDecoder(len(SENTENCES)), Metrics(), listener=FakeListener())
    app.router.routes.insert(0, WebSocketRoute("/v1/realtime", realtime))
    app.router.routes.insert(0, Route("/go", go, methods=["POST"]))
    config = uvicorn.Config(app, http="h11", ws="websockets-sansio", lifespan="on", log_config=None, access_log=False)
    with socket.create_server((settings.host, 0)) as listener:
        structlog.stdlib.get_logger("fake").info("listening", url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve())
