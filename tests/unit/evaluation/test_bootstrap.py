"""Confidence intervals: they hold the truth as often as they say, and pairing narrows them."""

import numpy as np
import pytest

from asr_service.evaluation import bootstrap
from asr_service.evaluation.bootstrap import difference_interval, rate_interval


def test_is_the_same_every_time() -> None:
    errors, units = [1, 0, 2, 5, 0, 1], [10, 8, 9, 12, 4, 7]

    assert rate_interval(errors, units) == rate_interval(errors, units)


def test_holds_the_rate_and_stays_within_what_files_show() -> None:
    interval = rate_interval([0, 1] * 50, [10] * 100)

    assert interval is not None
    low, high = interval
    # The normal approximation: 0.05 ± 1.96 · 0.05 / √100.
    assert low == pytest.approx(0.05 - 0.0098, abs=0.0015)
    assert high == pytest.approx(0.05 + 0.0098, abs=0.0015)


def test_holds_the_true_rate_in_about_95_of_100_samples() -> None:
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(100):
        units = draw.integers(5, 20, size=80)
        interval = rate_interval(draw.binomial(units, 0.2).tolist(), units.tolist())
        assert interval is not None
        held += interval[0] <= 0.2 <= interval[1]
    assert held >= 88


def test_long_files_weigh_more() -> None:
    assert rate_interval([0, 0], [10, 1000]) == (0.0, 0.0)
    interval = rate_interval([10, 0] * 100, [10, 1000] * 100)
    assert interval is not None
    assert interval[1] < 0.02


def test_equal_runs_do_not_differ_and_pairing_narrows() -> None:
    errors = np.random.default_rng(2).integers(0, 9, size=200).tolist()
    units = [10] * 200

    assert difference_interval(errors, errors, units) == (0.0, 0.0)
    shifted = difference_interval(errors, [count + 1 for count in errors], units)
    assert shifted == pytest.approx((0.1, 0.1))


def test_the_sign_is_that_of_the_second_minus_the_first() -> None:
    interval = difference_interval([5, 6, 7, 5], [1, 0, 2, 1], [10] * 4)

    assert interval is not None
    assert interval[1] < 0


@pytest.mark.parametrize(("errors", "units"), [([], []), ([1], [10]), ([1, 2], [0, 0])])
def test_too_little_gives_no_interval(errors: list[int], units: list[int]) -> None:
    assert rate_interval(errors, units) is None
    assert difference_interval(errors, errors, units) is None


def test_many_files_are_drawn_in_parts() -> None:
    files = bootstrap._DRAWN_AT_ONCE // 900
    interval = rate_interval([1] * files, [4] * files)

    assert interval == (0.25, 0.25)
