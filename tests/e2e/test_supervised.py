"""The real service under something that plays systemd."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import START_LIMIT_S, serve

pytestmark = pytest.mark.e2e


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that hears what systemd would; the service is told of it by its environment."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("notify")
        listener.settimeout(START_LIMIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", "notify")
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        yield listener


def test_systemd_is_told_of_the_start_the_life_and_the_end(manager: socket.socket) -> None:
    with serve() as service:
        heard = [manager.recv(4096).decode()]
        assert heard[0] in ("STATUS=not ready: the model is loading", "WATCHDOG=1")
        while heard[-1] != "READY=1\nSTATUS=ready":
            heard.append(manager.recv(4096).decode())
        # While the model was loading, too.
        assert heard.count("WATCHDOG=1") > 1
        # The children were told nothing of systemd, so none of them can speak for the service.
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(service.engine().environ())

        service.process.terminate()
        while heard[-1] != "STOPPING=1\nSTATUS=shutting down; requests in work: 0":
            heard.append(manager.recv(4096).decode())
        assert service.process.wait(30) == 0
