"""What systemd hears, on a socket such as its own."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from asr_service.settings import ServiceManager
from asr_service.systemd import Notifier


class Listener:
    """A datagram socket at an address as systemd would give it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def heard(self) -> list[str]:
        """The messages that have come since the last look."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    async def next(self) -> str:
        return (await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    # The path of a socket has room for 107 bytes only.
    monkeypatch.chdir(tmp_path)
    listener = Listener("notify" if request.param == "path" else f"@asr-test-{os.getpid()}")
    yield listener
    listener.close()


def test_the_start_is_over_once_and_the_status_follows_the_engine(listener: Listener) -> None:
    notifier = Notifier(listener.address)
    notifier.engine_state("the model is loading")
    notifier.engine_state(None)
    notifier.engine_state("the engine died:\n  out of memory")
    notifier.engine_state(None)
    notifier.stopping(3)

    assert listener.heard() == [
        "STATUS=not ready: the model is loading",
        "READY=1\nSTATUS=ready",
        "STATUS=not ready: the engine died: out of memory",
        "STATUS=ready",
        "STOPPING=1\nSTATUS=shutting down; requests in work: 3",
    ]


@pytest.mark.anyio
async def test_it_says_that_it_is_alive_until_it_is_not(listener: Listener) -> None:
    alive = [True, True, True]
    notifier = Notifier(listener.address)
    with capture_logs() as lines:
        await notifier.watchdog(0.001, lambda: bool(alive) and alive.pop())

    assert listener.heard() == ["WATCHDOG=1"] * 3
    assert [line["event"] for line in lines] == ["the service is stuck; systemd will end it"]


@pytest.mark.anyio
async def test_a_loop_that_is_blocked_does_not_say_that_it_is_alive(listener: Listener) -> None:
    """The period passes several times while the loop does something else, and nothing is made up for it afterwards."""
    loop = asyncio.get_running_loop()
    watchdog = asyncio.create_task(Notifier(listener.address).watchdog(0.01, lambda: True))
    assert await listener.next() == "WATCHDOG=1"

    until = loop.time() + 0.1
    while loop.time() < until:
        assert listener.heard() == []

    assert await listener.next() == "WATCHDOG=1"
    assert listener.heard() == []
    watchdog.cancel()


@pytest.mark.parametrize("address", ["nobody-listens-here", "@nor-here", "x" * 200])
def test_a_manager_that_cannot_be_told_harms_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with capture_logs() as lines:
        Notifier(address).engine_state(None)

    assert [(line["event"], line["what"]) for line in lines] == [("systemd could not be told", "READY=1")]


def test_a_manager_that_does_not_listen_blocks_nothing(listener: Listener) -> None:
    """Its queue is full, and the next message is not waited for."""
    notifier = Notifier(listener.address)
    with capture_logs() as lines:
        for _ in range(5000):
            notifier.engine_state(None)
            if lines:
                break

    assert lines[0]["event"] == "systemd could not be told"


def test_without_a_manager_nothing_is_said() -> None:
    with capture_logs() as lines:
        Notifier(None).engine_state(None)

    assert lines == []


@pytest.mark.parametrize(
    ("variables", "address", "watchdog_s"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": ""}, None, None),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, "/run/systemd/notify", None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"}, "@x", 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, None, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, None),
        ({"WATCHDOG_USEC": "0"}, None, None),
        ({"WATCHDOG_USEC": "soon"}, None, None),
    ],
)
def test_what_the_manager_wants_is_read_from_the_environment(
    variables: dict[str, str], address: str | None, watchdog_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert ServiceManager.found() == ServiceManager(address, watchdog_s)
