"""The real service in processes of its own, and what tests want to know of it."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 100.0


@dataclass
class Service:
    process: "subprocess.Popen[str]"
    url: str = ""
    log: "queue.SimpleQueue[dict[str, Any]]" = field(default_factory=queue.SimpleQueue)

    def wait_for(self, event: str, limit_s: float = START_LIMIT_S) -> dict[str, Any]:
        """The next line of the log with this event. Fails when the service ends first."""
        while True:
            line = self.log.get(timeout=limit_s)
            assert line.get("event") != "the service has ended", f"the service ended before it logged {event!r}"
            if line.get("event") == event:
                return line

    def engine(self) -> psutil.Process:
        """The engine's process."""
        for child in psutil.Process(self.process.pid).children():
            if "asr_service.engine.process" in child.cmdline():
                return child
        raise AssertionError("no engine is running")

    def metric(self, name: str) -> float:
        """The sum of a metric's samples over all its labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def serve(command: Sequence[str] = ("asr_service", "serve", "--port", "0"), **settings: str) -> Iterator[Service]:
    """A service on a free port with ASR_... `settings`, not yet ready. `command`: a module and its arguments."""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        env=_environment(settings),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        service = Service(process)
        reader = threading.Thread(target=_read_log, args=(service,))
        reader.start()
        try:
            service.url = service.wait_for("listening")["url"]
            yield service
        finally:
            process.kill()
            process.wait()
            reader.join()


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ASR_LOG_FORMAT": "json", **settings}


def _read_log(service: Service) -> None:
    assert service.process.stderr is not None
    for line in service.process.stderr:
        try:
            service.log.put(json.loads(line))
        except ValueError:
            service.log.put({"event": line.rstrip()})
    service.log.put({"event": "the service has ended"})
