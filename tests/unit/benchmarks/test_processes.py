"""Servers under measurement are waited for by what they say, stand still when told to, and leave nothing running."""

import os
import subprocess
import sys

import psutil
import pytest

from benchmarks.processes import Server, ServerDied, paused

# Says which port it has, starts a child, and ends when asked to, while the child would not.
SCRIPT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("starting", "port 4711", flush=True)
signal.pause()
"""


@pytest.mark.anyio
async def test_a_server_is_waited_for_and_ended_with_its_children() -> None:
    server = Server([sys.executable, "-c", SCRIPT], os.environ)
    await server.start()
    try:
        assert (await server.said(r"port (\d+)", 30.0))[1] == "4711"
        assert (await server.said(r"(starting)", 30.0))[1] == "starting", "what was said before counts as well"
        everyone = server.processes()
        assert len(everyone) == 2
    finally:
        await server.aclose()
    _, alive = psutil.wait_procs(everyone, timeout=30.0)
    assert alive == []


@pytest.mark.anyio
async def test_a_server_that_dies_says_why() -> None:
    server = Server([sys.executable, "-c", "print('no such model'); raise SystemExit(3)"], os.environ)
    await server.start()
    try:
        with pytest.raises(ServerDied, match="no such model"):
            await server.said("ready", 30.0)
        with pytest.raises(ServerDied, match="no such model"):
            await server.said("ready", 30.0)
    finally:
        await server.aclose()


def test_processes_stand_still_while_paused() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with paused([psutil.Process(child.pid)]):
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        os.waitid(os.P_PID, child.pid, os.WCONTINUED | os.WNOWAIT)
        child.communicate(b"\n")
    assert child.returncode == 0


def test_a_process_that_has_gone_needs_no_pause() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        process = psutil.Process(child.pid)
    with paused([process]):
        assert not process.is_running()
