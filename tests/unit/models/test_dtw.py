"""The warped path is valid, and as cheap as one found cell by cell."""

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from asr_service.models.dtw import warp


def least_cost(cost: NDArray[np.float64]) -> float:
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for r in range(rows):
        for c in range(columns):
            total[r + 1, c + 1] = cost[r, c] + min(total[r, c], total[r, c + 1], total[r + 1, c])
    return float(total[-1, -1])


costs = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-9, 9).map(float))


@given(costs)
def test_the_path_goes_from_corner_to_corner_and_is_the_cheapest(cost: NDArray[np.float64]) -> None:
    rows, columns = warp(cost)
    assert (rows[0], columns[0]) == (0, 0)
    assert (rows[-1], columns[-1]) == (cost.shape[0] - 1, cost.shape[1] - 1)
    steps = set(zip(np.diff(rows).tolist(), np.diff(columns).tolist(), strict=True))
    assert steps <= {(1, 1), (1, 0), (0, 1)}
    assert cost[rows, columns].sum() == least_cost(cost)


def test_a_clear_path_is_followed() -> None:
    cost = np.ones((4, 9), dtype=np.float32)
    expected = [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4), (2, 5), (3, 6), (3, 7), (3, 8)]
    for row, column in expected:
        cost[row, column] = -1.0
    rows, columns = warp(cost)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


def test_the_largest_window_is_quick() -> None:
    cost = np.random.default_rng(0).standard_normal((448, 1500)).astype(np.float32)
    durations = []
    for _ in range(5):
        started = time.process_time()
        warp(cost)
        durations.append(time.process_time() - started)
    assert min(durations) < 0.05
