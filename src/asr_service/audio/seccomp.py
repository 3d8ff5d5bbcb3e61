"""Which system calls a process may still make: an allow-list, put into force with a seccomp filter.

Owns the list, its translation into the kernel's filter language (classic BPF, see seccomp(2) and
Documentation/userspace-api/seccomp_filter.rst) and its installation. Knows nothing of audio. Written here because it is
short: the usual bindings need libseccomp on the machine, and those that do not are in their first releases.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_Numbers = dict[str, tuple[int, int | None]]
"""Numbers of system calls on x86_64 and aarch64; None: it does not exist there."""

_ALLOWED: _Numbers = {
    # Files and the channel that are open already.
    **{"read": (0, 63), "write": (1, 64), "close": (3, 57), "lseek": (8, 62), "fstat": (5, 80)},
    **{"pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "poll": (7, None), "ppoll": (271, 73)},
    **{"recvmsg": (47, 212), "recvfrom": (45, 207), "sendto": (44, 206)},
    # Memory and the waits of the only thread.
    **{"munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233), "futex": (202, 98)},
    **{"clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115)},
    **{"nanosleep": (35, 101), "gettimeofday": (96, 169), "sched_yield": (24, 124), "restart_syscall": (219, 128)},
    # Signals to itself, and the end.
    **{"rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132)},
    **{"exit": (60, 93), "exit_group": (231, 94)},
    # Questions that libraries ask.
    **{"getrandom": (318, 278), "getrusage": (98, 165), "sched_getaffinity": (204, 123), "sysinfo": (99, 179)},
    **{"getpid": (39, 172), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175)},
}
_FATAL: _Numbers = {
    **{"execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None)},
    **{"socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201)},
    **{"accept": (43, 202), "accept4": (288, 242), "ptrace": (101, 117)},
    **{"process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434)},
    **{"mount": (165, 40), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280)},
    **{"io_uring_setup": (425, 425), "userfaultfd": (323, 282), "perf_event_open": (298, 241)},
    **{"keyctl": (250, 219), "init_module": (175, 105), "finit_module": (313, 273)},
}
"""No library of ours ever tries these: whoever does has taken the process over, and it ends at once."""

_MMAP, _MPROTECT, _NEWFSTATAT, _PRLIMIT64, _TGKILL = (9, 222), (10, 226), (262, 79), (302, 261), (234, 131)
_PROT_EXEC = 0x4
_AT_EMPTY_PATH = 0x1000
_RLIMIT_CPU = 0

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW = 0x7FFF_0000
_REFUSE = 0x0005_0000 | errno.EPERM
_KILL_PROCESS = 0x8000_0000
_OTHER_TABLE = 0x4000_0000
"""Numbers from here on are those of x32, a second table on x86_64."""

_SET_MODE_FILTER = 1
_ALL_THREADS = 1
_INSTRUCTION = struct.Struct("=HBBI")


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processors: AUDIT_ARCH_..., the column in the tables above, the number of seccomp(2)."""

    audit_architecture: int
    column: int
    seccomp: int


MACHINES = {"x86_64": Machine(0xC000_003E, 0, 317), "aarch64": Machine(0xC000_00B7, 1, 277)}


def install() -> str | None:
    """Confine all threads of this process for good; it must have set no_new_privs.

    What is on no list fails with EPERM. Returns None, or why there is no filter: an unknown processor, or a kernel (or
    another sandbox around this one) that offers none.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return f"there is no list of system calls for the processor {platform.machine()}"
    code = program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # With this flag the answer may also be the id of a thread that could not be confined.
    result = libc.syscall(ctypes.c_long(machine.seccomp), _SET_MODE_FILTER, _ALL_THREADS, header)
    if result == 0:
        return None
    return "the kernel refuses the filter: " + (os.strerror(ctypes.get_errno()) if result < 0 else "a thread resists")


def program(machine: Machine, pid: int) -> bytes:
    """The filter for the process `pid`, as instructions of 8 bytes."""
    return b"".join(_instructions(machine, pid))


def _instructions(machine: Machine, pid: int) -> Iterator[bytes]:
    yield from _load(_ARCHITECTURE_AT)
    yield from _when(_EQUAL, machine.audit_architecture, then=b"", otherwise=_return(_KILL_PROCESS))
    yield from _load(_NUMBER_AT)
    yield from _when(_AT_LEAST, _OTHER_TABLE, then=_return(_KILL_PROCESS))
    for numbers, verdict in ((_ALLOWED, _ALLOW), (_FATAL, _KILL_PROCESS)):
        for columns in numbers.values():
            number = columns[machine.column]
            if number is not None:
                yield from _when(_EQUAL, number, then=_return(verdict))
    rules = {
        # No new code comes into the process.
        _MMAP: _argument(2, _ANY_BIT, _PROT_EXEC, then=_REFUSE, otherwise=_ALLOW),
        _MPROTECT: _argument(2, _ANY_BIT, _PROT_EXEC, then=_REFUSE, otherwise=_ALLOW),
        # How the C library asks about an open file.
        _NEWFSTATAT: _argument(3, _ANY_BIT, _AT_EMPTY_PATH, then=_ALLOW, otherwise=_REFUSE),
        # Its own CPU budget, which is granted while a recording is read; nobody else's limits.
        _PRLIMIT64: _argument(0, _EQUAL, 0, then=None, otherwise=_REFUSE)
        + _argument(1, _EQUAL, _RLIMIT_CPU, then=_ALLOW, otherwise=_REFUSE),
        # abort() sends itself a signal.
        _TGKILL: _argument(0, _EQUAL, pid, then=_ALLOW, otherwise=_REFUSE),
    }
    for columns, rule in rules.items():
        yield from _when(_EQUAL, columns[machine.column], then=rule)
    yield _return(_REFUSE)


def _argument(index: int, test: int, value: int, *, then: int | None, otherwise: int) -> bytes:
    """A verdict on one argument of the call (its low 32 bits). `then` None: go on with the next instruction."""
    passed = b"" if then is None else _return(then)
    return b"".join((*_load(_ARGUMENTS_AT + 8 * index), *_when(test, value, then=passed, otherwise=_return(otherwise))))


def _when(test: int, value: int, *, then: bytes, otherwise: bytes = b"") -> Iterator[bytes]:
    """Run `then` if the test succeeds, else `otherwise`, which ends with a verdict unless it is empty."""
    size = _INSTRUCTION.size
    yield _INSTRUCTION.pack(test, len(otherwise) // size, 0 if otherwise else len(then) // size, value)
    yield otherwise + then


def _load(offset: int) -> Iterator[bytes]:
    yield _INSTRUCTION.pack(_LOAD, 0, 0, offset)


def _return(verdict: int) -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, verdict)
