"""The real service, killed in the middle of an upload: what it has said until then, and what it leaves behind."""

import queue
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.service import Service, serve

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

SECRET = "kP3xV9sLq0ZtB7nYw2RfH5cJm8DgA1uE4iToXyWb"


def said(service: Service) -> list[dict[str, Any]]:
    lines = []
    while True:
        try:
            lines.append(service.log.get_nowait())
        except queue.Empty:
            return lines


def left(folder: Path) -> list[str]:
    """Files in a folder, but for what torch compiles."""
    files = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in files if not name.startswith("torchinductor_")]


def test_a_killed_service_leaves_nothing_and_has_told_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = {
        "TMPDIR": str(tmp_path),
        "HOME": str(home),
        "ASR_LOG_LEVEL": "debug",
        "ASR_CACHE_DIR": str(Path.home() / ".cache" / "asr-service"),
        "ASR_AUTH__JWT__SECRET": SECRET,
        "ASR_REDIS_URL": "redis://:geheim@127.0.0.1:1",
    }
    with serve(**settings) as service:
        ready = service.wait_for("ready")
        url = httpx.URL(service.url)
        children = psutil.Process(service.process.pid).children(recursive=True)
        assert len(children) >= 2
        with socket.create_connection((url.host, url.port or 0)) as connection:
            connection.sendall(
                b"POST /transcribe HTTP/1.1\r\nHost: asr\r\nContent-Length: 4000000\r\nExpect: 100-continue\r\n\r\n"
            )
            # It reads, so it has made its temporary file.
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
            connection.sendall(b"x" * 3_000_000)
            assert left(tmp_path) == []

            service.process.kill()
            service.process.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        assert left(tmp_path) == []
    lines = said(service)
    everything = f"{ready} {lines}"
    assert SECRET not in everything
    assert "geheim" not in everything
    # The last is the reader's own.
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines[:-1]), lines
