"""Framed messages between this process and a child, over a Unix socket pair.

Owns: how a child is started, how bytes become frames, passing open files along with them, and what becomes of a
child's own messages (its stderr goes into the log of this process). Knows nothing of what the frames mean. A socket
pair rather than a broker, because its end is the news: when either side dies, however it dies, the other reads
end-of-file at once. So a dead child is noticed without heartbeats, and a child never outlives its parent.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

_HEADER = struct.Struct("<I")
_MAX_FDS = 4
_MESSAGE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):(.*)")
"""As logging.BASIC_FORMAT writes it. What else a child says is a traceback, or comes from a library in C."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_MESSAGE_CHARACTERS = 4000
_LAST_WORDS_S = 1.0


class ChannelClosed(ConnectionError):
    """The other side has closed the channel or died."""


class Channel:
    """The parent's, asyncio side. Frames arrive in the order in which they were sent."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._send_lock = asyncio.Lock()

    async def send(self, payload: bytes, fds: Sequence[int] = ()) -> None:
        """Send one frame, with open files attached. Raises ChannelClosed."""
        loop = asyncio.get_running_loop()
        async with self._send_lock:
            try:
                head = _HEADER.pack(len(payload))
                if fds:
                    # Files ride on the header, alone: the receiver reads exactly that much before it looks for them.
                    await self._send_with_fds(head, fds)
                    await loop.sock_sendall(self._sock, payload)
                else:
                    await loop.sock_sendall(self._sock, head + payload)
            except OSError as error:
                raise ChannelClosed(str(error)) from error

    async def _send_with_fds(self, head: bytes, fds: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                socket.send_fds(self._sock, [head], list(fds))
                return
            except BlockingIOError:
                writable = loop.create_future()
                loop.add_writer(self._sock, _wake, writable)
                try:
                    await writable
                finally:
                    loop.remove_writer(self._sock)

    async def receive(self, max_bytes: int | None = None) -> bytes:
        """The next frame. Raises ChannelClosed at end-of-file, and when the frame is longer than `max_bytes`."""
        (size,) = _HEADER.unpack(await self._receive_exactly(_HEADER.size))
        if max_bytes is not None and size > max_bytes:
            raise ChannelClosed(f"a frame of {size} bytes")
        return await self._receive_exactly(size)

    async def _receive_exactly(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size:
            try:
                count = await loop.sock_recv_into(self._sock, view[filled:])
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if count == 0:
                raise ChannelClosed("end of file")
            filled += count
        return bytes(buffer)

    def close(self) -> None:
        self._sock.close()


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class BlockingChannel:
    """The child's side: plain blocking calls, `receive` from one thread only."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(True)

    def send(self, payload: bytes) -> None:
        """Send one frame. Raises ChannelClosed when the parent has gone."""
        try:
            self._sock.sendall(_HEADER.pack(len(payload)) + payload)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> tuple[bytes, list[int]]:
        """The next frame and the files that came with it (the caller closes them). Raises ChannelClosed."""
        head, fds, _, _ = socket.recv_fds(self._sock, _HEADER.size, _MAX_FDS)
        head += self._receive_exactly(_HEADER.size - len(head)) if head else b""
        if not head:
            raise ChannelClosed("end of file")
        (size,) = _HEADER.unpack(head)
        return self._receive_exactly(size), fds

    def close(self) -> None:
        self._sock.close()

    def _receive_exactly(self, size: int) -> bytes:
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size:
            count = self._sock.recv_into(view[filled:])
            if count == 0:
                raise ChannelClosed("end of file")
            filled += count
        return bytes(buffer)


@dataclass(frozen=True, slots=True)
class Child:
    """A running child process and the channel to it."""

    process: asyncio.subprocess.Process
    channel: Channel
    _relay: "asyncio.Task[None]"
    about: dict[str, object] = field(default_factory=dict)
    """Fields that its messages are logged with, such as the request that it works on. Whoever uses it keeps them."""

    async def kill(self) -> None:
        """End the child at once and reap it. Safe to call when it is already dead."""
        self.channel.close()
        if self.process.returncode is None:
            # Not `process.kill()`: that would reap a child that has just died, behind the back of asyncio's watcher.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        _, late = await asyncio.wait({self._relay}, timeout=_LAST_WORDS_S)
        for relay in late:
            relay.cancel()


async def spawn(module: str, env: Mapping[str, str]) -> Child:
    """Start `python -m module FD` with exactly the environment `env`; FD is its end of the channel.

    What it writes to stderr is logged here, under the name of the module.
    """
    ours, theirs = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            env=dict(env),
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    assert process.stderr is not None
    about: dict[str, object] = {}
    relayed = _log_all(process.stderr, logging.getLogger(module), about)
    return Child(process, Channel(ours), asyncio.create_task(relayed, name=f"stderr of {module}"), about)


async def _log_all(stderr: asyncio.StreamReader, log: logging.Logger, about: Mapping[str, object]) -> None:
    def write(lines: Sequence[bytes]) -> None:
        with structlog.contextvars.bound_contextvars(**about):
            _log_lines(lines, log)

    rest = b""
    while piece := await stderr.read(_MAX_MESSAGE_CHARACTERS):
        *lines, rest = (rest + piece).split(b"\n")
        write(lines)
        if len(rest) > _MAX_MESSAGE_CHARACTERS:
            write([rest])
            rest = b""
    write([rest])


def _log_lines(lines: Sequence[bytes], log: logging.Logger) -> None:
    """Log what came together: each message with its level, the lines of a traceback as one."""
    others: list[str] = []
    for line in (*lines, None):
        # A worker that a file has taken over must not write what looks like lines of ours, or drives a terminal.
        text = "" if line is None else _UNPRINTABLE.sub("\ufffd", line.decode("utf-8", "replace").rstrip())
        message = _MESSAGE.fullmatch(text)
        if others and (message or line is None):
            log.warning("%s", "\n  ".join(others))
            others = []
        if message:
            log.log(logging.getLevelNamesMapping()[message[1]], "%s", message[2])
        elif text:
            others.append(text)
