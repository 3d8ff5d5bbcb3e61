"""Decode steps as CUDA graphs: one launch instead of hundreds, for each shape of a step.

Owns buckets of shapes, capture and replay. A step must leave nothing behind that a second run would not write again in
the same way, since capturing runs it more than once. Elsewhere than on CUDA steps are run as they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[..., Tensor]


class StepGraphs:
    """Calls `step(rows, *sizes)` → [rows, …], on CUDA through graphs that are captured at first use."""

    def __init__(self, step: Step, device: torch.device, slots: int, *, buckets: bool | None = None) -> None:
        """`buckets` rounds shapes up; by default only where graphs are used. Rows beyond those asked for are run too:
        whatever they hold must be valid input.
        """
        self._step = step
        self._slots = slots
        self._capture = device.type == "cuda"
        self._buckets = self._capture if buckets is None else buckets
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def rows(self, rows: slice) -> slice:
        """The rows that a step for `rows` will run: more than asked for where shapes are rounded up."""
        if not self._buckets or rows.start != 0:
            return rows
        return slice(0, min(self._slots, power_of_two(rows.stop)))

    def size(self, size: int, limit: int) -> int:
        """A size of the step, rounded up where shapes are."""
        return min(limit, power_of_two(size)) if self._buckets else size

    def __call__(self, rows: slice, *sizes: int) -> Tensor:
        """The step's result for `rows`. On CUDA it stays valid until the next call with the same shape."""
        wide = self.rows(rows)
        count = rows.stop - rows.start
        if not self._capture or rows.start != 0:
            return self._step(wide, *sizes)[:count]
        key = (wide.stop, *sizes)
        if key not in self._graphs:
            self._graphs[key] = self._captured(wide, *sizes)
        graph, result = self._graphs[key]
        graph.replay()
        return result[:count]

    def _captured(self, rows: slice, *sizes: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        # Lazy initialisation of libraries must not fall into the capture, hence the runs before it, on another stream.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step(rows, *sizes)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values()))[0].pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            result = self._step(rows, *sizes)
        return graph, result


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()
