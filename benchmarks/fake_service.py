"""The service with an engine that answers at once: everything that is not the model. Started by http_overhead.py.

    python -m benchmarks.fake_service --port 0

Owns the fake engine. The HTTP application, the decode pool and the VAD are the real ones.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Annotated

import structlog
import typer
import uvicorn

from asr_service.api.app import create_app
from asr_service.audio.listener import Listener
from asr_service.audio.pool import AudioLimits, DecodePool
from asr_service.domain import ModelInfo, Priority, WindowOptions, WindowResult, WindowTimings
from asr_service.observability import logs
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings, decoder_environment
from benchmarks.cli import start


class InstantEngine:
    """Implements `service.Engine`: the same text for every window, in no time."""

    model: ModelInfo | None = ModelInfo("instant", "whisper", "cpu", "float32", ("en",), 16, 0, 0.0)
    not_ready_reason: str | None = None

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
        return WindowResult("Something was said.", "en", 4, WindowTimings(0.0, 0.0, 0.0, 4))


def main(port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0) -> None:
    """Serve until a signal."""
    settings = Settings.load(host="127.0.0.1", port=port)
    logs.configure(settings.log_level, settings.log_format)
    # The protocol is named, as getaddrinfo does for the real service: asyncio sets TCP_NODELAY on no other sockets,
    # and without it every answer waits 40 ms for an acknowledgement.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind((settings.host, settings.port))
        listener.listen()
        asyncio.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    limits = AudioLimits(max_audio_s=settings.max_audio_s, max_memory_bytes=settings.decode_memory_mb * 2**20)
    decoder = DecodePool(settings.decode_worker_count, limits, decoder_environment())
    app = create_app(settings, InstantEngine(), decoder, Metrics(), listener=Listener({}))
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="on", log_config=None, access_log=False)
    structlog.stdlib.get_logger("fake").info("listening", url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    start(main)
