"""What this machine can do at best: matrix products per second, and memory read per second.

Owns the measurement of both with torch's own kernels. Everything else is compared with these figures.
"""

import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

_SIZES = (1024, 2048, 3072)
_READ_BYTES = 512 * 2**20


def best_s(work: Callable[[], object], *, repeat: int = 5, at_least_s: float = 0.5) -> float:
    """The shortest of several times that `work` takes, in seconds, after one that does not count."""
    work()
    times: list[float] = []
    while len(times) < repeat or sum(times) < at_least_s:
        times.append(once_s(work))
    return min(times)


def once_s(work: Callable[[], object]) -> float:
    """How long `work` takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.inference_mode()
def gemm_flops(dtype: torch.dtype) -> float:
    """Floating-point operations per second of the fastest of some square matrix products."""
    rates = []
    for size in _SIZES:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        rates.append(2 * size**3 / best_s(lambda a=a, b=b: F.linear(a, b)))  # type: ignore[misc]
    return max(rates)


@torch.inference_mode()
def read_bytes_per_s() -> float:
    """Bytes of memory read per second when all cores read a block that no cache holds."""
    block = torch.ones(_READ_BYTES // 4)
    half = len(block) // 2
    readers: tuple[Callable[[], object], ...] = (block.sum, block.max, lambda: torch.dot(block[:half], block[half:]))
    return max(_READ_BYTES / best_s(reader) for reader in readers)
