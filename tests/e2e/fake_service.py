"""The service's HTTP side in a process of its own, with an engine and a decoder that answer at once.

    python -m tests.e2e.fake_service

A recording lasts one second for each byte of the upload.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator

import structlog
import uvicorn

from asr_service.api.app import create_app
from asr_service.audio.listener import Listener
from asr_service.domain import AudioSummary, Window
from asr_service.observability import logs
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings
from benchmarks.fake_service import InstantEngine
from tests.fakes import FakeDecoder


class ByteDecoder(FakeDecoder):
    def windows(self, audio_fd: int, pcm_fd: int, size_bytes: int) -> AsyncGenerator[Window | AudioSummary, None]:
        return FakeDecoder(size_bytes).windows(audio_fd, pcm_fd, size_bytes)


async def serve() -> None:
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    app = create_app(settings, InstantEngine(), ByteDecoder(), Metrics(), listener=Listener({}))
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="on", log_config=None, access_log=False)
    with socket.create_server((settings.host, 0)) as listener:
        structlog.stdlib.get_logger("fake").info("listening", url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve())
