"""What a decode worker may use: memory, CPU seconds, file sizes, open files; and nothing to gain from an exploit.

Owns the process limits and the order in which everything comes into force. Knows nothing of audio. `confine` is called
once, when all libraries are loaded and before the first hostile byte: afterwards nothing can be loaded any more.
"""

import ctypes
import math
import os
import resource
import time
from pathlib import Path

from asr_service.audio import seccomp

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 64
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def confine(max_memory_bytes: int, max_output_bytes: int) -> str | None:
    """Limit this process for good, as `limit` does, and leave it only the system calls that decoding takes.

    After this, files, programs, processes and the network are out of reach. Returns None, or why the system calls are
    not filtered here. Raises OSError when the system refuses a limit.
    """
    limit(max_memory_bytes, max_output_bytes)
    return seccomp.install()


def limit(max_memory_bytes: int, max_output_bytes: int) -> None:
    """Set the limits of this process. `max_memory_bytes` comes on top of the address space in use now.

    After this a huge allocation is a MemoryError, a huge write an OSError (EFBIG), and there are no core files. Raises
    OSError when the system refuses.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Also hides this process's memory from others of the same user.
    _prctl(_PR_SET_DUMPABLE, 0)
    for resource_limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, max_output_bytes),
        (resource.RLIMIT_AS, _address_space_bytes() + max_memory_bytes),
    ):
        _, hard = resource.getrlimit(resource_limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(resource_limit, (value, value))


def release_memory() -> None:
    """Give what has been freed back to the system, where the C library can (glibc): 0.2 ms.

    Otherwise a process stays as large as the most demanding recording has made it.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


class CpuBudget:
    """CPU seconds that may be used from the making of this object on; beyond them the kernel ends us with SIGXCPU."""

    def __init__(self) -> None:
        self._start_s = time.process_time()

    def grant(self, seconds: float) -> None:
        """Set the budget to this many seconds in all (rounded up: the kernel counts whole ones)."""
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        until = math.ceil(self._start_s + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (until if hard == resource.RLIM_INFINITY else min(until, hard), hard))


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
