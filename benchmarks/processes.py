"""Server processes under measurement: started, waited for by what they say, stopped with all their children.

Owns process groups and what they use (CPU time, memory). Knows no protocol.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_GRACE_S = 30.0


class ServerDied(Exception):
    """A server ended before it said what was waited for; the message holds its last lines."""


class Server:
    """One server with its children, in a process group of its own. What it prints is read, its last lines are kept."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        self._command = [str(part) for part in command]
        self._env = dict(env)
        self._tail: deque[str] = deque(maxlen=40)
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.ReadTransport | None = None
        self._reader: asyncio.Task[None] | None = None
        self._awaited: list[tuple[re.Pattern[str], asyncio.Future[re.Match[str]]]] = []

    async def start(self) -> None:
        # A pipe of our own: asyncio's wait for a process is over only when its children have let go of asyncio's pipes.
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(writing)
        stream = asyncio.StreamReader(limit=2**22)
        loop = asyncio.get_running_loop()
        output = os.fdopen(reading, "rb", 0)
        self._output, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), output)
        self._reader = asyncio.create_task(self._read(stream))

    async def said(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """The first match of `pattern` in the output so far or to come. Raises ServerDied, TimeoutError."""
        compiled = re.compile(pattern)
        for line in self._tail:
            if (match := compiled.search(line)) is not None:
                return match
        if self._reader is None or self._reader.done():
            raise self._death()
        future: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()
        self._awaited.append((compiled, future))
        async with asyncio.timeout(timeout_s):
            return await future

    async def aclose(self) -> None:
        """Ask the server to end, and kill what is left of its group after 30 s."""
        process = self._process
        if process is None:
            return
        # Known before the server ends, when they would have no parent to be found by.
        everyone = self.processes()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _GRACE_S)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        for straggler in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                straggler.kill()
        if self._output is not None:
            self._output.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def processes(self) -> list[psutil.Process]:
        """The server and all its children that run now."""
        if self._process is None:
            return []
        return tree(self._process.pid)

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for raw in output:
            line = raw.decode("utf-8", "replace").rstrip()
            self._tail.append(line)
            for pattern, future in self._awaited:
                if not future.done() and (match := pattern.search(line)) is not None:
                    future.set_result(match)
        for _, future in self._awaited:
            if not future.done():
                future.set_exception(self._death())

    def _death(self) -> ServerDied:
        return ServerDied(f"{' '.join(self._command)} ended; its last lines:\n" + "\n".join(self._tail))


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its children that run now; empty when it has gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def paused(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop these processes for a while: some go on spinning for a second after their last work, or poll when idle."""
    stopped = []
    try:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped.append(process)
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds that these processes have used so far."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def memory_mb(processes: Sequence[psutil.Process]) -> tuple[float, float]:
    """Resident memory in MB: shared pages counted once (PSS), and once per process (RSS)."""
    pss = rss = 0
    for process in processes:
        info = process.memory_full_info()
        pss += info.pss
        rss += info.rss
    return pss / 1e6, rss / 1e6
