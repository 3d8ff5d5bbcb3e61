"""Figures are summarised as their names promise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import Spread, percentile, ratios, short, spread, word_error_rate


def test_a_spread_is_median_lowest_highest() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)


def test_ratios_compare_within_a_round() -> None:
    """A round in which the machine was half as fast for both says the same as the others."""
    assert ratios([6.0, 3.0, 8.0], [2.0, 1.0, 2.0]) == Spread(3.0, 3.0, 4.0)


def test_ratios_need_as_many_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (0.95, 10), (0.9, 9), (0.01, 1), (1.0, 10)])
def test_a_percentile_is_one_of_the_figures(share: float, expected: int) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected


@given(st.lists(st.integers(0, 100), min_size=1, max_size=50), st.sampled_from([50, 500, 950, 990]))
def test_at_least_the_share_does_not_exceed_the_percentile(figures: list[int], per_mille: int) -> None:
    chosen = percentile(figures, per_mille / 1000)
    assert 1000 * sum(figure <= chosen for figure in figures) >= per_mille * len(figures)
    assert 1000 * sum(figure < chosen for figure in figures) < per_mille * len(figures)


def test_word_errors_ignore_spelling_and_count_over_all_texts() -> None:
    references = ["That's NOT a valid extension.", "Press two!", "[beep]"]
    hypotheses = ["that is not a valid extension", "press three", "anything"]
    assert word_error_rate(references, hypotheses) == pytest.approx(1 / 8)


@pytest.mark.parametrize(("figure", "text"), [(0.012345, "0.0123"), (12.345, "12.3"), (1234.5, "1234")])
def test_figures_are_as_long_as_they_are_precise(figure: float, text: str) -> None:
    assert short(figure) == text
