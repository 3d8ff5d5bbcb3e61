"""The times that Whisper writes between its words: when it may write which, and what they say of a text.

Owns the rules of the reference implementation: a text begins with a time of at most a second, times never go back, they
come in pairs except before the end, and one is written when all times together are likelier than any other token. Knows
no architecture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig

STEP_S = 0.02
_LATEST_FIRST = 50
"""In steps, where a checkpoint does not say how late the first time may be."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text: tokens[first:last], with the times that stand around it, in seconds."""

    start_s: float
    end_s: float
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Timestamps:
    """Where the times stand in a vocabulary: they are its last tokens, from `first_id` on. `none_id` asks for none, and
    `end_id`, the end of the text, comes after all that is text.
    """

    first_id: int
    none_id: int
    end_id: int
    latest_first: int

    @classmethod
    def of(cls, config: GenerationConfig, end_id: int) -> "Timestamps":
        none_id = int(config.no_timestamps_token_id)
        latest = getattr(config, "max_initial_timestamp_index", None)
        return cls(none_id + 1, none_id, end_id, _LATEST_FIRST if latest is None else int(latest))

    def restrict(self, logits: Tensor, progress: "Sequence[TimesSoFar]") -> None:
        """Take what is not allowed next out of logits [rows, vocabulary], by what each row has said. In place."""
        bounds = torch.tensor([self._bounds(row) for row in progress], device=logits.device)
        text_from, time_from, time_to = bounds.T[:, :, None]
        ids = torch.arange(logits.shape[1], device=logits.device)
        is_time = ids >= self.first_id
        wrong_time = is_time & ((ids < time_from) | (ids > time_to))
        logits.masked_fill_((ids < text_from) | wrong_time | (ids == self.none_id), float("-inf"))
        text, times = logits[:, : self.first_id], logits[:, self.first_id :].float()
        likelier = times.logsumexp(dim=-1) > text.max(dim=-1).values
        text.masked_fill_(likelier[:, None], float("-inf"))

    def _bounds(self, row: "TimesSoFar") -> tuple[int, int, int]:
        """The least token of text that may come next, and the first and last time."""
        endless = 1 << 40
        if row.latest is None:
            return self.first_id, self.first_id, self.first_id + self.latest_first
        if row.closed:
            return 0, endless, endless
        if row.stands:
            return self.end_id, row.latest, endless
        # A piece of text takes some time.
        return 0, row.latest + 1, endless

    def split(self, tokens: Sequence[int], duration_s: float) -> list[Span]:
        """The pieces of a text between its times, which lie within the window, in order. A piece without an end lasts
        until the window's.
        """
        spans: list[Span] = []
        start_s, first, has_text = 0.0, 0, False
        for i, token in enumerate(tokens):
            if token < self.first_id:
                has_text = True
                continue
            time_s = min(max(start_s, (token - self.first_id) * STEP_S), duration_s)
            if has_text:
                spans.append(Span(start_s, time_s, first, i + 1))
                first, has_text = i + 1, False
            start_s = time_s
        if has_text:
            spans.append(Span(start_s, duration_s, first, len(tokens)))
        return spans


@dataclass(slots=True)
class TimesSoFar:
    """What times a row has written: the latest, whether it stands at the end, and whether another before it or nothing
    does (so that text must follow).
    """

    latest: int | None = None
    stands: bool = False
    closed: bool = False

    def push(self, token: int, first_id: int) -> None:
        """Take the token that the row has said next."""
        is_time = token >= first_id
        self.closed = is_time and (self.stands or self.latest is None)
        self.stands = is_time
        if is_time:
            self.latest = token
