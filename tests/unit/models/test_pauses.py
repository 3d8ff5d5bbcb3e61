"""Pauses are found where it is quiet, and words stay out of them and in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from asr_service.models.base import Features
from asr_service.models.features import LogMel
from asr_service.models.pauses import find_pauses, keep_out_of_pauses

LOG_MEL = LogMel(WhisperFeatureExtractor(feature_size=80))


def sound(*stretches: tuple[float, float], noise: float = 0.0) -> Features:
    """Noise at the amplitudes and for the durations of (duration in seconds, amplitude), over a noise floor."""
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal(int(16_000 * duration)) * amplitude for duration, amplitude in stretches]
    signal = np.concatenate(pieces) + rng.standard_normal(sum(map(len, pieces))) * noise
    return LOG_MEL(signal.astype(np.int16))


@pytest.mark.parametrize("noise", [0.0, 3.0, 100.0])
def test_pauses_are_found_in_quiet_and_in_noise(noise: float) -> None:
    pauses = find_pauses(sound((0.5, 0), (1.0, 3_000), (0.7, 0), (0.3, 3_000), (0.1, 0), (0.4, 3_000), noise=noise))
    expected = [(0.0, 0.5), (1.5, 2.2)]
    assert len(pauses) == len(expected)
    assert np.abs(np.array(pauses) - np.array(expected)).max() <= 0.05


def test_no_pause_where_noise_hides_it_or_where_there_is_no_audio() -> None:
    assert find_pauses(sound((1.0, 3_000), (0.7, 0), (1.0, 3_000), noise=1_000)) == []
    assert find_pauses(sound((3.0, 3_000))) == []
    assert find_pauses(LOG_MEL(np.zeros(0, dtype=np.int16))) == []


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ([], [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]),
        ([(0.0, 0.4)], [(0.4, 1.0), (1.0, 2.0), (2.0, 3.0)]),
        ([(0.8, 1.3)], [(0.0, 0.8), (1.3, 2.0), (2.0, 3.0)]),
        ([(0.5, 0.9)], [(0.0, 0.5), (0.9, 2.0), (2.0, 3.0)]),
        ([(2.1, 2.4), (2.7, 3.0)], [(0.0, 1.0), (1.0, 2.1), (2.4, 2.7)]),
        ([(1.45, 1.55)], [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]),
    ],
)
def test_gaps_move_into_pauses_near_them(
    pauses: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    starts, ends = keep_out_of_pauses(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]), pauses, 3.0)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


ticks = st.integers(0, 100).map(lambda tick: tick / 10)


@given(st.lists(ticks, min_size=2, max_size=20), st.lists(ticks, max_size=12))
def test_words_stay_in_order(edges: list[float], pause_edges: list[float]) -> None:
    edges = sorted(edges[: len(edges) // 2 * 2])
    pause_edges = sorted(pause_edges[: len(pause_edges) // 2 * 2])
    pauses = list(zip(pause_edges[::2], pause_edges[1::2], strict=True))
    starts, ends = keep_out_of_pauses(np.array(edges[::2]), np.array(edges[1::2]), pauses, 10.0)
    both = np.stack([starts, ends], axis=1).reshape(-1)
    assert both[0] >= 0.0
    assert both[-1] <= 10.0
    assert (np.diff(both) >= 0).all()
