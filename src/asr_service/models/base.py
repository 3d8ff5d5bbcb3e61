"""The protocol between the engine and a model: what a runner must be able to do.

Owns the types of that conversation. Knows no tensors, so that the engine's logic can be tested with a runner in
plain Python.

A runner holds `slots` rows. Rows in use are always 0 … n-1: the engine admits new sequences at row n, and when one
leaves it moves the last row into the gap. So every batched operation works on a view of the caches and nothing is
gathered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from asr_service.domain import ModelInfo, Part, Task, Token, WindowOptions, Word


@dataclass(frozen=True, slots=True)
class Features:
    """Log-mel features of one window: `log_mel` [mel bins, padded frames] float32, of which `frames` hold audio.

    `padding` is the value of the frames after the audio.
    """

    log_mel: NDArray[np.float32]
    frames: int
    duration_s: float
    padding: float = 0.0


@dataclass(frozen=True, slots=True)
class NewSequence:
    features: Features
    options: WindowOptions
    exact: bool = False
    """Encode the whole padded window, whatever the runner's own way is."""
    speech_of: str | None = None
    """The request whose growing window this is, as far as it has been spoken: the next one may be the same with more
    behind it."""
    draft: bool = False
    """Whether it is soon replaced by such a one, and so need not be quite as good."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A sequence that has its row: the language in effect (None where the model has none) and its first tokens: one,
    or more where a guess was right.

    no_speech_prob: how likely the model thinks that nobody speaks, where it can and the options ask for that.
    """

    language: str | None
    tokens: tuple[int, ...]
    no_speech_prob: float | None = None


class Runner(Protocol):
    """A model with its caches. Not thread-safe, except for `features`."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...

    @property
    def frames_per_window(self) -> int:
        """Feature frames of a padded 30 s window: what a window costs in the encoder at most."""
        ...

    def features(self, pcm: NDArray[np.int16]) -> Features:
        """Log-mel features of a mono 16 kHz window of at most 30 s. Called from another thread than the rest."""
        ...

    def max_new_tokens(self, options: WindowOptions) -> int:
        """How many tokens fit into a slot after the prompt and the prefix."""
        ...

    def prefix(self, options: WindowOptions) -> list[int]:
        """The tokens of `WindowOptions.prefix`, which the answer goes on from; they are not among those decoded."""
        ...

    def encoder_frames(self, features: Features, *, exact: bool = False) -> int:
        """Feature frames that the encoder will compute for these features, padding included."""
        ...

    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        """Encode and prefill `batch` into rows first_row, first_row + 1, …; all or nothing."""
        ...

    def decode(self, first_row: int, count: int) -> list[int]:
        """One decode step for `count` rows: the next token of each. Feeds on the tokens that it returned before."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copy the state of row `source` over row `target`."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens (without stop ids) to text."""
        ...

    def details(self, row: int, tokens: Sequence[int]) -> tuple[Token, ...]:
        """The first tokens that `row` has said, with their bytes and log probabilities, if its options ask for those.

        Logarithms are natural, and of what the model gives to a token by itself: before hotwords and temperature.
        """
        ...


@runtime_checkable
class TimeWriter(Protocol):
    """The further part of a runner whose model can write times between its words: one with `ModelInfo.timestamps`."""

    def parts(self, tokens: Sequence[int], duration_s: float) -> tuple[Part, ...]:
        """The text of a window of `duration_s`, cut where the model has written times; those lie within the window."""
        ...


class Aligner(Protocol):
    """What finds the times of words in a window whose text is known. Not thread-safe, except for `features`."""

    @property
    def shared(self) -> bool:
        """Whether it works on the served model itself: with its features, and on what its rows hold."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What it holds beside the served model."""
        ...

    def features(self, pcm: NDArray[np.int16]) -> Features:
        """Its own features of a window, where it is not `shared`. Called from another thread than the rest."""
        ...

    def words(
        self, row: int, features: Features, text: str, language: str | None, task: Task = "transcribe"
    ) -> tuple[Word, ...]:
        """The words of `text` in order, with times from the start of the window that `row` holds and `features` are of.

        Joined, and apart from white space, the words are the text. Times go up and lie within the window.
        """
        ...
