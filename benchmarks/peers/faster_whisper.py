"""faster-whisper in a process of its own, one file after the other, as its API works.

Owns the start, the stop and the conversation with the worker.
"""

import asyncio
import json
import os
from pathlib import Path

import psutil

from benchmarks.clips import Clip
from benchmarks.peers import environments
from benchmarks.processes import ServerDied, tree

_WORKER = Path(__file__).with_name("faster_whisper_worker.py")


class FasterWhisper:
    """Implements `load.System`. It does not batch across requests, so simultaneous ones wait for each other."""

    def __init__(self, *, compute_type: str = "int8", threads: int = 2, batch: int = 0, library_defaults: bool = False):
        """`batch` above 0 takes BatchedInferencePipeline. `library_defaults`: with timestamps and second attempts."""
        self.name = f"faster-whisper {compute_type}" + (f", batches of {batch}" if batch else "")
        # -P: this folder must not be searched for modules, since one is named like the package.
        self._command = [environments.python("faster-whisper"), "-P", _WORKER]
        self._arguments = ["--model", environments.ctranslate2_folder(), "--compute-type", compute_type]
        self._arguments += ["--threads", threads, "--batch", batch] + ["--library-defaults"] * library_defaults
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *map(str, [*self._command, *self._arguments]),
            env=environments.clean_environment() | {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**22,
        )
        await self._answer()

    async def aclose(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.kill()
        await self._process.wait()

    async def transcribe(self, clip: Clip) -> str:
        """The text of `clip`. Raises ServerDied."""
        async with self._turn:
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"path": os.fspath(clip.path)}).encode() + b"\n")
            return str((await self._answer())["text"])

    def processes(self) -> list[psutil.Process]:
        return [] if self._process is None else tree(self._process.pid)

    async def _answer(self) -> dict[str, object]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ServerDied("faster-whisper's worker ended; its error stands above.")
        answer: dict[str, object] = json.loads(line)
        return answer
