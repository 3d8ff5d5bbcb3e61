"""Frames and files over a socket pair, and the news that the other side has gone."""

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from asr_service.ipc import BlockingChannel, Channel, ChannelClosed

pytestmark = pytest.mark.anyio


@contextmanager
def pair() -> Iterator[tuple[Channel, BlockingChannel]]:
    ours, theirs = socket.socketpair()
    parent, child = Channel(ours), BlockingChannel(theirs.detach())
    try:
        yield parent, child
    finally:
        parent.close()
        child.close()


async def in_thread(function: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, function)


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
async def test_frames_of_any_size_pass_both_ways_in_order(size: int) -> None:
    with pair() as (parent, child):
        payloads = [bytes([i]) * size for i in range(3)]

        def echo() -> None:
            for _ in payloads:
                payload, fds = child.receive()
                assert fds == []
                child.send(payload)

        echoing = asyncio.create_task(in_thread(echo))
        sending = asyncio.gather(*(parent.send(payload) for payload in payloads))
        assert [await parent.receive() for _ in payloads] == payloads
        await asyncio.gather(sending, echoing)


async def test_open_files_come_along_with_their_frame() -> None:
    with pair() as (parent, child), tempfile.TemporaryFile() as file:
        file.write(b"content")
        file.flush()
        await parent.send(b"plain")
        await parent.send(b"with file", [file.fileno()])
        await parent.send(b"plain again")
        assert child.receive() == (b"plain", [])
        payload, (fd,) = child.receive()
        assert payload == b"with file"
        assert os.pread(fd, 100, 0) == b"content"
        os.close(fd)
        assert child.receive() == (b"plain again", [])


async def test_both_sides_learn_that_the_other_has_gone() -> None:
    with pair() as (parent, child):
        child.close()
        with pytest.raises(ChannelClosed):
            await parent.receive()
        with pytest.raises(ChannelClosed):
            await parent.send(b"x")

    with pair() as (parent, child):
        parent.close()
        with pytest.raises(ChannelClosed):
            child.receive()
        with pytest.raises(ChannelClosed):
            child.send(b"x")


async def test_a_receiver_that_waits_is_woken_by_the_end() -> None:
    with pair() as (parent, child):
        ended = threading.Event()

        def wait() -> None:
            with pytest.raises(ChannelClosed):
                child.receive()
            ended.set()

        waiting = asyncio.create_task(in_thread(wait))
        parent._sock.shutdown(socket.SHUT_RDWR)
        await waiting
        assert ended.is_set()
