"""The service under measurement, as users start it: `asr-service serve` on a free port, spoken to over HTTP.

Owns its start and stop, and the one request that benchmarks send.
"""

import os
import sys
from collections.abc import Mapping

import httpx
import psutil

from benchmarks.clips import Clip
from benchmarks.processes import Server

_START_S = 600.0
_REQUEST_S = 1800.0


class Service:
    """Our service. Implements `load.System`."""

    name = "asr-service"

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        language: str | None = "en",
        arguments: tuple[str, ...] = ("-m", "asr_service", "serve"),
    ) -> None:
        """`env` is added to this process's environment. `arguments` to Python must start a service on --port 0."""
        self._fields = {} if language is None else {"language": language}
        environment = {**os.environ, **(env or {}), "ASR_LOG_FORMAT": "json", "ASR_LOG_LEVEL": "info"}
        self.server = Server([sys.executable, *arguments, "--port", "0"], environment)
        self.client = httpx.AsyncClient()

    async def start(self) -> None:
        """Return when /readyz answers 200. Raises ServerDied, TimeoutError."""
        await self.server.start()
        url = (await self.server.said(r'"url": "(http://[^"]+)"', _START_S))[1]
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.client = httpx.AsyncClient(base_url=url, timeout=_REQUEST_S, limits=limits, trust_env=False)
        await self.server.said(r'"event": "ready"', _START_S)
        (await self.client.get("/readyz")).raise_for_status()

    async def aclose(self) -> None:
        await self.client.aclose()
        await self.server.aclose()

    async def transcribe(self, clip: Clip) -> str:
        """The text of `clip`. Raises httpx.HTTPStatusError."""
        return str((await self.reply(clip))["text"])

    async def reply(self, clip: Clip) -> dict[str, object]:
        """The whole reply to one file."""
        files = {"file": (clip.path.name, clip.wav, "audio/wav")}
        response = await self.client.post("/transcribe", files=files, data=self._fields)
        response.raise_for_status()
        reply: dict[str, object] = response.json()
        return reply

    def processes(self) -> list[psutil.Process]:
        return self.server.processes()
