"""The filter, read instruction by instruction as the kernel would: so that the other processor's is tested as well."""

import struct

import pytest

from asr_service.audio.seccomp import MACHINES, program

ALLOW, REFUSE, KILL = 0x7FFF_0000, 0x0005_0001, 0x8000_0000
PID = 4321
# The audit architecture, and numbers from the kernel's own tables (arch/x86/entry/syscalls, asm-generic/unistd.h).
NUMBERS = {
    "x86_64": {"mmap": 9, "prlimit64": 302, "tgkill": 234, "read": 0, "openat": 257, "socket": 41, "execve": 59},
    "aarch64": {"mmap": 222, "prlimit64": 261, "tgkill": 131, "read": 63, "openat": 56, "socket": 198, "execve": 221},
}
ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
I386 = 0x4000_0003


def verdict(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the filter says about a system call."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", code))
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = instructions[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"an unknown instruction {operation:#x}")


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("read", (3,), ALLOW),
        ("openat", (), REFUSE),
        ("socket", (), KILL),
        ("execve", (), KILL),
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 5), REFUSE),
        ("prlimit64", (0, 0), ALLOW),
        ("prlimit64", (0, 7), REFUSE),
        ("prlimit64", (PID, 0), REFUSE),
        ("tgkill", (PID, 1, 6), ALLOW),
        ("tgkill", (PID + 1, 1, 6), REFUSE),
    ],
)
def test_verdicts(name: str, call: str, arguments: tuple[int, ...], expected: int) -> None:
    code = program(MACHINES[name], PID)
    assert verdict(code, ARCHITECTURES[name], NUMBERS[name][call], *arguments) == expected


@pytest.mark.parametrize("name", MACHINES)
def test_another_table_of_numbers_is_fatal(name: str) -> None:
    code = program(MACHINES[name], PID)
    assert verdict(code, I386, NUMBERS[name]["read"]) == KILL
    assert verdict(code, ARCHITECTURES[name], NUMBERS[name]["read"] + 0x4000_0000) == KILL


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_on_no_list_is_refused(name: str) -> None:
    """Whatever the kernel learns in years to come: all but the known numbers."""
    code = program(MACHINES[name], PID)
    verdicts = [verdict(code, ARCHITECTURES[name], number) for number in range(2000)]
    assert 40 <= verdicts.count(ALLOW) <= 50
    assert verdicts.count(REFUSE) > 1900


@pytest.mark.parametrize("name", MACHINES)
def test_the_filter_fits_the_kernel(name: str) -> None:
    """The kernel takes at most 4096 instructions, and jumps forward only."""
    assert len(program(MACHINES[name], PID)) % 8 == 0
    assert len(program(MACHINES[name], PID)) // 8 < 4096
