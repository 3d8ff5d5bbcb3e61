"""Pauses in a window, and word times that keep out of them.

Attention knows which word is spoken where, but not where in a pause one word has ended and the next has not begun; the
signal's loudness does. Owns that correction, in numpy. Knows no model.
"""

import numpy as np
from numpy.typing import NDArray

from asr_service.domain import SAMPLE_RATE_HZ
from asr_service.models.base import Features

_HOP_S = 160 / SAMPLE_RATE_HZ
_SMOOTHING_FRAMES = 5
_LEAST_PAUSE_S = 0.2
"""What is shorter may be the closure of a consonant."""
_NEAR_S = 0.4
"""How far attention may misplace the gap between two words that a pause stands for."""
_LATE = 2.0
"""How much less likely it is that the gap comes too late than too early."""
_AUDIBLE_DB = 35.0
"""Speech is heard down to this far below its loudest."""
_ABOVE_NOISE_DB = 8.0
_CLEAR_DB = 20.0
"""What comes this close to the loudest is never silence, whatever the noise."""

_PAUSE_RATE = 1e-3

Pause = tuple[float, float]


def find_pauses(features: Features) -> list[Pause]:
    """Start and end in seconds of each pause in the audio of a window; none where noise hides them."""
    frames = min(features.frames, features.log_mel.shape[1])
    if frames == 0:
        return []
    # The features are (log10 of the power + 4) / 4.
    power = np.power(10.0, 4.0 * features.log_mel[:, :frames].astype(np.float64)).mean(axis=0)
    level = _smooth(10.0 * np.log10(power))
    noise, loudest = np.percentile(level, (10, 98))
    threshold = min(max(loudest - _AUDIBLE_DB, noise + _ABOVE_NOISE_DB), loudest - _CLEAR_DB)
    silent = np.concatenate([[False], level < threshold, [False]])
    edges = np.flatnonzero(silent[1:] != silent[:-1]) * _HOP_S
    return [(float(a), float(z)) for a, z in zip(edges[::2], edges[1::2], strict=True) if z - a >= _LEAST_PAUSE_S]


def audible_clock(pauses: list[Pause], duration_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times of a window in seconds, and what a clock says at them that all but stands still in pauses; both ascend.

    What is spread over a stretch of audio by this clock spends no time in its pauses.
    """
    times = np.array([0.0, *(edge for pause in pauses for edge in pause), duration_s])
    rates = np.where(np.arange(len(times) - 1) % 2 == 0, 1.0, _PAUSE_RATE)
    return times, np.concatenate([[0.0], np.cumsum(np.diff(times) * rates)])


def keep_out_of_pauses(
    starts: NDArray[np.float64], ends: NDArray[np.float64], pauses: list[Pause], duration_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times of words, in order and without overlap, with the gap between two of them moved into a pause near to it.

    What comes before the first word and after the last counts as a gap, too. A pause with no gap near is one within a
    word. Order is kept: starts and ends go up, and stay within [0, duration_s].
    """
    left = np.concatenate([[0.0], ends])
    right = np.concatenate([starts, [duration_s]])
    moved = np.zeros(len(left), dtype=bool)
    for begin, end in pauses:
        # How far each gap [left, right] is from the pause; 0 where they overlap. Attention moves on to a word as soon
        # as the one before has ended, so a word that spans a pause more likely begins after it.
        distance = np.maximum(np.maximum(_LATE * (left - end), begin - right), 0.0)
        overlap = np.minimum(right, end) - np.maximum(left, begin)
        best = int(np.lexsort((-overlap, distance))[0])
        if distance[best] > _NEAR_S or moved[best]:
            continue
        moved[best] = True
        # Between the start of the word before and the end of the one after: words within the pause stay where they are.
        lower = right[best - 1] if best > 0 else 0.0
        upper = left[best + 1] if best + 1 < len(left) else duration_s
        left[best] = min(max(begin, lower), upper)
        right[best] = max(left[best], min(end, upper))
    return right[:-1], left[1:]


def _smooth(level: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.pad(level, _SMOOTHING_FRAMES // 2, mode="edge")
    smooth: NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHING_FRAMES).mean(axis=-1)
    return smooth
