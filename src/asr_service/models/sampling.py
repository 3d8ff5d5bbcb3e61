"""What a row says next, and where it stands: the part of a step between the logits and the next step's input.

Owns the choice of tokens (greedy, drawn at a temperature, drawn towards hotwords, with times between them), their log
probabilities, and the state of rows that both model families share. Knows no architecture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from asr_service.domain import WindowOptions
from asr_service.models.hotwords import Hotwords, Progress
from asr_service.models.timestamps import TimesSoFar, Timestamps

Encode = Callable[[str], list[int]]

_SEED = 0
_COLDEST = 1e-4
"""Temperatures below this would overflow, and choose the likeliest token long before."""
_REQUESTS_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What a row wants beside its likeliest tokens. `logprobs` grows with each token, where it is asked for."""

    temperature: float
    hotwords: Progress | None
    logprobs: list[float] | None
    times: TimesSoFar | None


class Sampler:
    """Chooses the next token of each row by the options that the row began with.

    Rows without wishes cost nothing beside the others: a step in which nobody has any is one maximum over the logits.
    """

    def __init__(self, slots: int, device: torch.device, encode: Encode, timestamps: Timestamps | None) -> None:
        """As in `Rows`."""
        self._timestamps = timestamps
        self._wishes: list[_Wishes | None] = [None] * slots
        self._generator = torch.Generator(device).manual_seed(_SEED)
        self._hotwords = lru_cache(_REQUESTS_REMEMBERED)(lambda words: Hotwords.of(words, encode))

    def begin(self, row: int, options: WindowOptions) -> None:
        """Let `row` start anew with these options."""
        times = TimesSoFar() if options.timestamps and self._timestamps is not None else None
        if not (options.temperature > 0 or options.hotwords or options.logprobs or times):
            self._wishes[row] = None
            return
        self._wishes[row] = _Wishes(
            options.temperature,
            self._hotwords(options.hotwords).follow() if options.hotwords else None,
            [] if options.logprobs else None,
            times,
        )

    def is_plain(self, row: int) -> bool:
        """Whether `row` has no wishes."""
        return self._wishes[row] is None

    def move(self, source: int, target: int) -> None:
        self._wishes[target], self._wishes[source] = self._wishes[source], None

    def logprobs(self, row: int) -> Sequence[float]:
        """The log probability of each token of `row` since it began; empty where its options did not ask for them."""
        wishes = self._wishes[row]
        return () if wishes is None or wishes.logprobs is None else wishes.logprobs

    def choose(self, rows: slice, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The next token of each row from logits [rows, vocabulary], to which the bonuses of hotwords are added, and
        from which is taken what the rules of times forbid.

        Also the log probabilities of the tokens of those rows that want them, in order. Nothing here waits for the
        device; `record` must be told the outcome.
        """
        wishes = self._of(rows)
        if not wishes:
            return logits.max(dim=-1).indices, None
        self._restrict(logits, wishes)
        reported = [i for i, wish in wishes.items() if wish.logprobs is not None]
        # What a token is worth is what the model gives it, before hotwords and temperature.
        plain = logits[reported].float() if reported else None
        _add_bonuses(logits, wishes)
        chosen = logits.max(dim=-1).indices
        drawn = {i: wish.temperature for i, wish in wishes.items() if wish.temperature > 0}
        if drawn:
            chosen[list(drawn)] = self._draw(logits[list(drawn)], list(drawn.values()))
        return chosen, None if plain is None else _log_probabilities(plain, chosen[reported])

    def record(self, rows: slice, tokens: Sequence[int], logprobs: Tensor | None) -> None:
        """Follow the tokens of `rows`, with what `choose` has said of them."""
        values = iter(() if logprobs is None else logprobs.tolist())
        for i, wish in self._of(rows).items():
            if wish.logprobs is not None:
                wish.logprobs.append(next(values))
            if wish.hotwords is not None:
                wish.hotwords.push(tokens[i])
            if wish.times is not None and self._timestamps is not None:
                wish.times.push(tokens[i], self._timestamps.first_id)

    def _of(self, rows: slice) -> dict[int, _Wishes]:
        """The wishes in `rows`, by their place among them."""
        return {i: wishes for i, wishes in enumerate(self._wishes[rows]) if wishes is not None}

    def _restrict(self, logits: Tensor, wishes: Mapping[int, _Wishes]) -> None:
        progress = {i: wish.times for i, wish in wishes.items() if wish.times is not None}
        if self._timestamps is not None and progress:
            rows = list(progress)
            own = logits[rows]
            self._timestamps.restrict(own, list(progress.values()))
            logits[rows] = own

    def _draw(self, logits: Tensor, temperatures: list[float]) -> Tensor:
        """One token of each row from softmax(logits / temperature).

        Of exponential variables with rates p, the i-th is the least with probability p[i]: nothing needs sorting or
        summing up, and nothing the host.
        """
        scale = torch.tensor([max(t, _COLDEST) for t in temperatures], device=logits.device)
        probabilities = torch.softmax(logits.float() / scale[:, None], dim=-1)
        waiting = torch.empty_like(probabilities).exponential_(generator=self._generator)
        return probabilities.div_(waiting).argmax(dim=-1)


def _add_bonuses(logits: Tensor, wishes: Mapping[int, _Wishes]) -> None:
    rows: list[int] = []
    tokens: list[int] = []
    values: list[float] = []
    for i, wish in wishes.items():
        if wish.hotwords is not None:
            bonuses = wish.hotwords.bonuses()
            rows += [i] * len(bonuses)
            tokens += bonuses.keys()
            values += bonuses.values()
    if rows:
        index = torch.tensor([rows, tokens], device=logits.device)
        added = torch.tensor(values, dtype=logits.dtype, device=logits.device)
        logits.index_put_((index[0], index[1]), added, accumulate=True)


def _log_probabilities(logits: Tensor, chosen: Tensor) -> Tensor:
    """Natural logarithms of what softmax(logits [rows, vocabulary]) gives to the chosen token of each row."""
    return logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1)


class Rows:
    """What every runner keeps for each row: its last token, how many positions of its cache are filled, its options.

    Tokens and positions live on the device, where the next step needs them; lengths also on the host, which chooses
    shapes by them.
    """

    def __init__(self, slots: int, device: torch.device, encode: Encode, timestamps: Timestamps | None = None) -> None:
        """`encode` gives the tokens of a text, without special ones; `timestamps`: of a model that can write times."""
        self.tokens = torch.zeros(slots, dtype=torch.long, device=device)
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
        self.lengths = [0] * slots
        self._sampler = Sampler(slots, device, encode, timestamps)

    def begin(self, first_row: int, options: Sequence[WindowOptions]) -> None:
        """From the next token on, let rows first_row, first_row + 1, … choose by these options."""
        for row, row_options in enumerate(options, first_row):
            self._sampler.begin(row, row_options)

    def is_plain(self, row: int) -> bool:
        """Whether `row` says its likeliest token, and nothing is kept of it."""
        return self._sampler.is_plain(row)

    def reset(self, rows: slice) -> Tensor:
        """Start `rows` anew; returns their positions, all zero."""
        self.positions[rows] = 0
        self.lengths[rows] = [0] * (rows.stop - rows.start)
        return self.positions[rows]

    def advance(self, rows: slice, logits: Tensor, consumed: list[int]) -> list[int]:
        """Choose the next token of each row from logits [rows, vocabulary], after `consumed` new positions.

        Hotwords and the rules of times change the logits in place.
        """
        chosen, logprobs = self._sampler.choose(rows, logits)
        self.tokens[rows] = chosen
        self.positions[rows] += torch.tensor(consumed, device=self.positions.device)
        self.lengths[rows] = [length + n for length, n in zip(self.lengths[rows], consumed, strict=True)]
        tokens: list[int] = chosen.tolist()
        self._sampler.record(rows, tokens, logprobs)
        return tokens

    def logprobs(self, row: int) -> Sequence[float]:
        """The log probability of each token of `row` since it began; empty where its options did not ask for them."""
        return self._sampler.logprobs(row)

    def read_length(self, rows: slice, bucket: int, limit: int, *, at_least: int = 0) -> int:
        """How many cached positions the next step of `rows`, or of one with `at_least` so many before it, must read.

        A multiple of `bucket`, so that shapes repeat.
        """
        longest = max(at_least, *self.lengths[rows]) + 1
        return min(limit, -(-longest // bucket) * bucket)

    def rest(self, rows: slice) -> None:
        """Make rows that hold no sequence valid input, for steps that are run wider than they need to be."""
        self.positions[rows] = 0

    def move(self, source: int, target: int) -> None:
        self.tokens[target] = self.tokens[source]
        self.positions[target] = self.positions[source]
        self.lengths[target] = self.lengths[source]
        self._sampler.move(source, target)
