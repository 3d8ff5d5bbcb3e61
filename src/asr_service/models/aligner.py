"""Times of words, found by reading a finished text to Whisper's decoder and watching where in the audio it looks.

Owns the way from attention to words: what the alignment heads see is standardised, smoothed and warped to a monotonic
path (as in Whisper's reference implementation), which gives each token's beginning; words take theirs from the tokens
that spell them, and pauses pull the ends of words apart (`models.pauses`). Any model's text will do. Knows no tensors:
`models.whisper` runs the decoder.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asr_service.domain import ModelInfo, Task, WindowOptions, Word
from asr_service.models.base import Features
from asr_service.models.dtw import warp
from asr_service.models.pauses import audible_clock, find_pauses, keep_out_of_pauses
from asr_service.text.words import split_words

_FRAME_S = 0.02
"""An encoder frame."""

_MEDIAN_WIDTH = 7
_MEDIAN_EXCHANGES = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)
"""Which pairs to put in order so that the middle one of seven ends in the middle (Devillard 1998)."""


class Listener(Protocol):
    """The part of `models.whisper.WhisperRunner` that is used."""

    @property
    def info(self) -> ModelInfo: ...

    def features(self, pcm: NDArray[np.int16]) -> Features: ...

    def max_new_tokens(self, options: WindowOptions) -> int: ...

    def spell(self, text: str) -> tuple[list[int], list[int]]: ...

    def attention(
        self, source: int | Features, tokens: Sequence[int], options: WindowOptions
    ) -> tuple[NDArray[np.float32], int]: ...


class AttentionAligner:
    """Implements `models.base.Aligner`. Rows of `listener` are read where it is the served model, and never written."""

    def __init__(self, listener: Listener, *, shared: bool) -> None:
        """`shared`: the listener is the served model itself, whose rows hold the windows that are asked about."""
        self._listener = listener
        self.shared = shared
        self.memory_bytes = 0 if shared else listener.info.memory_bytes

    def features(self, pcm: NDArray[np.int16]) -> Features:
        return self._listener.features(pcm)

    def words(
        self, row: int, features: Features, text: str, language: str | None, task: Task = "transcribe"
    ) -> tuple[Word, ...]:
        spans = split_words(text)
        if not spans:
            return ()
        options = WindowOptions(language, task=task)
        positions, onsets_s = self._onsets(row if self.shared else features, features, text, options)
        pauses = find_pauses(features)
        times_s, clock = audible_clock(pauses, features.duration_s)
        onsets = np.interp(onsets_s, times_s, clock)
        after_space = _next_visible(text)
        # A word ends where what follows it begins: the next word, or its own comma.
        edges = [position for span in spans for position in (span.first, after_space[span.last])]
        edges_s = np.interp(np.interp(edges, positions, onsets), clock, times_s)
        starts, ends = keep_out_of_pauses(edges_s[::2], edges_s[1::2], pauses, features.duration_s)
        return tuple(
            Word(start, end, text[span.start : span.end])
            for start, end, span in zip(
                _milliseconds(starts, features.duration_s), _milliseconds(ends, features.duration_s), spans, strict=True
            )
        )

    def _onsets(
        self, source: int | Features, features: Features, text: str, options: WindowOptions
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Character positions of `text`, ascending, the last one its end, and when each is reached, in seconds.

        Of a text with more tokens than the decoder takes, those that fit are aligned with their share of the window,
        and the others spread over the rest of it.
        """
        tokens, positions = self._listener.spell(text)
        fitted = tokens[: self._listener.max_new_tokens(options) - 1]
        weights, first = self._listener.attention(source, fitted, options)
        frames = min(-(-features.frames // 2), weights.shape[2]) * len(fitted) // len(tokens)
        # One row before each token, and one after the last; the rows of the prompt and of the end token are not wanted.
        matrix = _evidence(weights[:, :, : max(1, frames)])[first:-1]
        rows, columns = warp(-matrix)
        onsets_s = columns[np.flatnonzero(np.diff(rows, prepend=-1))] * _FRAME_S
        if len(fitted) < len(tokens):
            positions = [*positions[: len(fitted) + 1], len(text)]
            onsets_s = np.append(onsets_s, features.duration_s)
        else:
            positions = [*positions, len(text)]
        after_space = _next_visible(text)
        # A character of several tokens begins with the first of them.
        unique, firsts = np.unique([after_space[position] for position in positions], return_index=True)
        return unique, np.minimum(onsets_s[firsts], features.duration_s)


def _evidence(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What speaks for each position being spoken in each frame, from attention weights [heads, positions, frames].

    Standardised over positions, so that a frame that everything looks at says nothing; then a median over neighbouring
    frames, and the mean of all heads: [positions, frames].
    """
    margin = _MEDIAN_WIDTH // 2
    total = np.zeros(weights.shape[1:], dtype=np.float32)
    # Head by head, since what is at hand then fits into a core's cache.
    for head in weights:
        scores = (head - head.mean(axis=0)) / (head.std(axis=0) + np.float32(1e-9))
        if scores.shape[1] > margin:
            padded = np.pad(scores, ((0, 0), (margin, margin)), mode="reflect")
            scores = median_of_seven([padded[:, i : i + scores.shape[1]] for i in range(_MEDIAN_WIDTH)])
        total += scores
    total /= np.float32(len(weights))
    return total


def median_of_seven(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The median, element by element: of whole arrays, which is far faster than sorting every few elements."""
    values = list(arrays)
    for i, j in _MEDIAN_EXCHANGES:
        values[i], values[j] = np.minimum(values[i], values[j]), np.maximum(values[i], values[j])
    return values[3]


def _next_visible(text: str) -> list[int]:
    """For each position in `text`, and its end, the first one from there on that is no white space."""
    following = [len(text)] * (len(text) + 1)
    for i in range(len(text) - 1, -1, -1):
        following[i] = following[i + 1] if text[i].isspace() else i
    return following


def _milliseconds(times_s: NDArray[np.float64], limit_s: float) -> list[float]:
    """Rounded to milliseconds, in seconds, and not past `limit_s`."""
    rounded: list[float] = np.minimum(np.round(times_s, 3), limit_s).tolist()
    return rounded
