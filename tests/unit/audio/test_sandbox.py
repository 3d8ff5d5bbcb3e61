"""The limits bite: each is tried in a process of its own."""

import signal
import subprocess
import sys
from pathlib import Path


def run(program: str) -> "subprocess.CompletedProcess[str]":
    import asr_service

    source = Path(asr_service.__file__).parents[1]
    prelude = "import os, resource\nfrom asr_service.audio import sandbox\nsandbox.confine(64 << 20, 1 << 20)\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(source)},
        timeout=60,
    )


def test_memory() -> None:
    done = run("a = bytearray(32 << 20)\ntry: bytearray(64 << 20)\nexcept MemoryError: print('refused')")
    assert (done.stdout, done.returncode) == ("refused\n", 0)


def test_file_size() -> None:
    program = """
fd = os.memfd_create('x')
os.write(fd, bytes(1 << 20))
try: os.write(fd, b'1')
except OSError as e: print(e.errno)
"""
    assert run(program).stdout == "27\n"


def test_open_files() -> None:
    program = (
        "files = []\ntry:\n  while True: files.append(os.open('/dev/null', 0))\nexcept OSError as e: print(e.errno)"
    )
    assert run(program).stdout == "24\n"


def test_no_core_files_and_no_new_privileges() -> None:
    program = (
        "print(resource.getrlimit(resource.RLIMIT_CORE)[1], 'NoNewPrivs:\\t1' in open('/proc/self/status').read())"
    )
    assert run(program).stdout == "0 True\n"


def test_limits_cannot_be_raised_again() -> None:
    program = "print([len(set(resource.getrlimit(limit))) for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)])"
    assert run(program).stdout == "[1, 1]\n"


def test_computing_time_ends_the_process() -> None:
    assert run("sandbox.CpuBudget().grant(0.1)\nwhile True: pass").returncode == -signal.SIGXCPU


def test_computing_time_can_be_granted_again() -> None:
    program = """
import time
budget = sandbox.CpuBudget()
start = time.process_time()
while (used := time.process_time() - start) < 1.2:
    budget.grant(used + 1)
print("alive")
"""
    assert run(program).stdout == "alive\n"
