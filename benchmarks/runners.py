"""Runners in this process, for benchmarks below HTTP.

Owns how they are loaded, and a wrapper that gives every answer the same length.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from asr_service.models.base import Admitted, NewSequence, Runner
from asr_service.models.registry import LoadOptions, load_runner
from asr_service.settings import Settings
from benchmarks.clips import Clip, read_wav

_END = -1


def options(given: Sequence[str]) -> dict[str, str]:
    """name=value pairs of LoadOptions, from the command line."""
    return dict(pair.split("=", 1) for pair in given)


def load(model: str | Path, slots: int, further: Mapping[str, Any], *, dtype: str = "auto") -> Runner:
    """A runner on the CPU with one thread per core. `further` are more of the LoadOptions."""
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    cache_dir = Settings.load().cache_dir
    return load_runner(str(model), LoadOptions(device="cpu", dtype=dtype, slots=slots, cache_dir=cache_dir, **further))


def samples(clip: Clip) -> NDArray[np.int16]:
    """The samples of a 16 kHz clip."""
    rate, pcm = read_wav(clip.path)
    assert rate == 16_000, f"{clip.path} has {rate} samples a second"
    return np.frombuffer(pcm, dtype="<i2")


class FixedLength:
    """A runner whose every answer ends after `tokens` tokens, whatever the model says. Else like the one it wraps."""

    stop_ids = frozenset({_END})

    def __init__(self, runner: Runner, tokens: int) -> None:
        self._runner = runner
        self._tokens = tokens
        self._made = [0] * runner.info.slots

    @classmethod
    def wrap(cls, runner: Runner, tokens: int) -> Runner:
        return cast(Runner, cls(runner, tokens))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        self._made[first_row : first_row + len(batch)] = [1] * len(batch)
        return self._runner.admit(first_row, batch)

    def decode(self, first_row: int, count: int) -> list[int]:
        tokens = self._runner.decode(first_row, count)
        for row in range(first_row, first_row + count):
            self._made[row] += 1
        return [_END if self._made[first_row + i] >= self._tokens else token for i, token in enumerate(tokens)]

    def move(self, source: int, target: int) -> None:
        self._runner.move(source, target)
        self._made[target] = self._made[source]
