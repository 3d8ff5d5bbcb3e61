"""Small statistics: percentiles, ratios with their spread, word error rates.

Owns how figures are summarised. Pure functions, so that they can be tested.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import jiwer

from asr_service.evaluation.normalise import scale


def short(figure: float) -> str:
    """Three digits, or all digits before the point."""
    return f"{figure:.3g}" if abs(figure) < 100 else f"{figure:.0f}"


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, the lowest and the highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)} … {short(self.high)})"


def spread(figures: Iterable[float]) -> Spread:
    """Of at least one figure."""
    values = sorted(figures)
    return Spread(median(values), values[0], values[-1])


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, round by round: what both suffered in a round cancels out."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(figures: Iterable[float], share: float) -> float:
    """The smallest figure that at least `share` (0 … 1) of all figures do not exceed (nearest rank)."""
    values = sorted(figures)
    rank = max(1, -(-len(values) * round(share * 1000) // 1000))
    return values[rank - 1]


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Errors per word of the references over all texts together, after Whisper's English normaliser (0.1 is 10 %).

    Pairs whose reference is empty once normalised do not count.
    """
    normalise = scale("en").normalise
    pairs = [(normalise(a), normalise(b)) for a, b in zip(references, hypotheses, strict=True)]
    spoken = [pair for pair in pairs if pair[0]]
    return float(jiwer.wer([a for a, _ in spoken], [b for _, b in spoken]))
