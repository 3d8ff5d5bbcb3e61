"""Dynamic time warping: the cheapest monotonic path through a matrix of costs.

Owns the algorithm, in numpy. Knows neither tokens nor audio.
"""

import numpy as np
from numpy.typing import NDArray


def warp(cost: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The cheapest path through finite `cost` [rows, columns] from its first to its last cell: rows and columns of the
    path's cells, in order. Each step goes one row on, one column on, or both (Sakoe and Chiba 1978).

    A cell depends on the two anti-diagonals before its own, so whole anti-diagonals are computed at once. 448 x 1500
    take some 10 ms.
    """
    rows, columns = cost.shape
    diagonals = _diagonals(cost)
    # totals[d + 1, r + 1] is the cost of the best path to cell (r, d - r); the margins are never on a path.
    totals = np.full((rows + columns, rows + 1), np.inf)
    totals[1, 1] = diagonals[0, 0]
    for d in range(1, rows + columns - 1):
        before, last, best = totals[d - 1], totals[d], totals[d + 1, 1:]
        np.minimum(before[:-1], last[:-1], out=best)
        np.minimum(best, last[1:], out=best)
        best += diagonals[d]
    return _trace(totals, rows, columns)


def _diagonals(cost: NDArray[np.floating]) -> NDArray[np.float64]:
    """The anti-diagonals of `cost` [rows, columns] as [rows + columns - 1, rows]; infinite outside."""
    rows, columns = cost.shape
    padded = np.full((rows, columns + rows), np.inf)
    padded[:, :columns] = cost
    # Read with rows that are one shorter, each row starts one column later than the one above it.
    width = rows + columns - 1
    skewed = padded.reshape(-1)[: rows * width].reshape(rows, width)
    return np.ascontiguousarray(skewed.T)


def _trace(totals: NDArray[np.float64], rows: int, columns: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Walk back from the last cell, over both at once where that is as cheap."""
    row, column = rows - 1, columns - 1
    path = [(row, column)]
    while row or column:
        d = row + column
        both, down, right = totals[d - 1, row], totals[d, row], totals[d, row + 1]
        if both <= down and both <= right:
            row, column = row - 1, column - 1
        elif down <= right:
            row -= 1
        else:
            column -= 1
        path.append((row, column))
    path.reverse()
    return np.array([r for r, _ in path], dtype=np.intp), np.array([c for _, c in path], dtype=np.intp)
