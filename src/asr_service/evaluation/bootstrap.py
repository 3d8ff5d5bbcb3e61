"""Confidence intervals by the bootstrap over files: what the rate would be on other files of the same kind.

Owns the drawing. Files are drawn, not words, since the errors within a file depend on each other (Bisani and Ney, 2004,
"Bootstrap estimates for confidence intervals in ASR performance evaluation").
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REPLICATES = 2000
_SEED = 1
_SHARE = (2.5, 97.5)
_DRAWN_AT_ONCE = 2_000_000

Interval = tuple[float, float]


def rate_interval(errors: Sequence[int], units: Sequence[int]) -> Interval | None:
    """The 95 % interval of errors per unit, given both per file. None for fewer than two files, or without units."""
    sums = _resampled(np.array([errors, units], dtype=np.float64))
    return _interval(sums[0], sums[1])


def difference_interval(first: Sequence[int], second: Sequence[int], units: Sequence[int]) -> Interval | None:
    """The 95 % interval of the second rate minus the first, on the same files: each draw takes both runs of a file."""
    sums = _resampled(np.array([first, second, units], dtype=np.float64))
    return _interval(sums[1] - sums[0], sums[2])


def _resampled(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of `columns` [figures, files] over files drawn with replacement: [figures, replicates]."""
    figures, files = columns.shape
    if files < 2:
        return np.empty((figures, 0))
    draw = np.random.default_rng(_SEED)
    at_once = max(1, _DRAWN_AT_ONCE // files)
    parts = []
    for start in range(0, REPLICATES, at_once):
        drawn = draw.integers(files, size=(min(at_once, REPLICATES - start), files))
        parts.append(columns[:, drawn].sum(axis=2))
    return np.concatenate(parts, axis=1)


def _interval(errors: NDArray[np.float64], units: NDArray[np.float64]) -> Interval | None:
    counted = units > 0
    if not counted.any():
        return None
    low, high = np.percentile(errors[counted] / units[counted], _SHARE)
    return float(low), float(high)
