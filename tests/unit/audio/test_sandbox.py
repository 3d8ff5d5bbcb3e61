"""The limits and the filter bite: each is tried in a process of its own."""

import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import asr_service

LIMITS = "sandbox.limit(64 << 20, 1 << 20)\n"
EVERYTHING = "assert sandbox.confine(64 << 20, 1 << 20) is None\n"


def run(program: str, sandboxing: str = LIMITS) -> "subprocess.CompletedProcess[str]":
    source = Path(asr_service.__file__).parents[1]
    prelude = "import ctypes, mmap, os, resource, socket, threading\nfrom asr_service.audio import sandbox\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + sandboxing + program],
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


def filters_are_offered() -> bool:
    """Whether this kernel, and whatever it runs in, lets a process filter its system calls."""
    return run("", EVERYTHING).returncode == 0


needs_filter = pytest.mark.skipif(not filters_are_offered(), reason="no seccomp filters are to be had here")


REFUSED = (
    "open('/etc/passwd')",
    "open('/tmp/new', 'w')",
    "os.stat('/etc/passwd')",
    "os.listdir('/')",
    "os.unlink('/nothing')",
    "os.rename('/nothing', '/else')",
    "os.mkdir('/tmp/new')",
    "os.symlink('/nothing', '/tmp/new')",
    "os.chmod('/nothing', 0o777)",
    "os.chdir('/')",
    "os.pipe()",
    "os.dup(1)",
    "os.memfd_create('code')",
    "os.truncate(1, 0)",
    "os.set_blocking(2, False)",
    "os.kill(os.getppid(), 0)",
    "os.setpriority(os.PRIO_PROCESS, 0, 5)",
    "os.sched_setaffinity(0, {0})",
    "os.setuid(1)",
    "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
    "resource.prlimit(0, resource.RLIMIT_NOFILE)",
    "resource.setrlimit(resource.RLIMIT_CPU, (1, 1)) or os.getpgid(0)",
    "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
)


@needs_filter
def test_what_is_refused() -> None:
    program = f"""
for attempt in {REFUSED}:
    try:
        eval(attempt)
    except PermissionError:
        print(attempt)
"""
    done = run(program, EVERYTHING)
    assert done.stdout.splitlines() == list(REFUSED), done.stderr


@needs_filter
def test_no_thread_is_started() -> None:
    done = run("try: threading.Thread(target=print).start()\nexcept RuntimeError: print('refused')", EVERYTHING)
    assert done.stdout == "refused\n"


@needs_filter
def test_no_memory_becomes_code() -> None:
    program = """
libc = ctypes.CDLL(None, use_errno=True)
pages = mmap.mmap(-1, 4096)
address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(pages)))
sandbox.confine(64 << 20, 1 << 20)
print([libc.mprotect(address, ctypes.c_size_t(4096), protection) for protection in (1, 3, 4, 7)], ctypes.get_errno())
"""
    assert run(program, "").stdout == "[0, 0, -1, -1] 1\n"


@needs_filter
@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket()",
        "socket.socketpair()",
        "socket.socket(socket.AF_UNIX)",
        "os.execv('/bin/true', ['true'])",
        "libc.vfork()",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.process_vm_readv(1, 0, 0, 0, 0, 0)",
        "libc.mount(0, 0, 0, 0, 0)",
        "libc.unshare(0x10000000)",
        "libc.syscall(425, 1, 0)",
    ],
)
def test_what_is_fatal(attempt: str) -> None:
    done = run(f"libc = ctypes.CDLL(None)\n{EVERYTHING}{attempt}", "")
    assert done.returncode == -signal.SIGSYS, done.stderr


@needs_filter
def test_threads_that_run_already_are_confined_too() -> None:
    program = f"""
wake, seen = threading.Event(), []
def attempt():
    wake.wait()
    try: open('/etc/passwd')
    except PermissionError: seen.append('refused')
thread = threading.Thread(target=attempt)
thread.start()
{EVERYTHING}
wake.set()
thread.join()
print(seen)
"""
    assert run(program, "").stdout == "['refused']\n"


@needs_filter
def test_an_end_by_abort_keeps_its_signal() -> None:
    assert run("os.abort()", EVERYTHING).returncode == -signal.SIGABRT


@needs_filter
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other tables are those of x86_64")
def test_other_tables_of_system_calls_are_fatal() -> None:
    attempt = "ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))"
    assert run(f"libc = ctypes.CDLL(None)\n{EVERYTHING}{attempt}", "").returncode == -signal.SIGSYS


def test_a_processor_without_a_list_is_said() -> None:
    program = "import platform\nplatform.machine = lambda: 'vax'\nprint(sandbox.confine(64 << 20, 1 << 20))"
    assert run(program, "").stdout == "there is no list of system calls for the processor vax\n"


def test_a_kernel_that_refuses_is_said() -> None:
    # Without no_new_privs, and without the right to do without it.
    program = """
from asr_service.audio import seccomp
if os.getuid() == 0:
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
print(seccomp.install())
"""
    assert run(program, "").stdout == "the kernel refuses the filter: Permission denied\n"
