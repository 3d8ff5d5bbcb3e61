"""Errors of one text against its reference, and their sum.

Owns what is counted. jiwer finds the alignment with the fewest errors.
"""

from dataclasses import dataclass
from typing import Self

from asr_service.evaluation.normalise import scale

_RUNAWAY_LEAST = 10


@dataclass(frozen=True, slots=True)
class Counts:
    """Words (or characters, for a CER) of references and the errors in their transcripts."""

    units: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: Self) -> "Counts":
        return Counts(
            self.units + other.units,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per unit (0.1 is 10 %); None where the references have no words."""
        return self.errors / self.units if self.units else None

    @property
    def ran_away(self) -> bool:
        """Whether a text adds more than its whole reference, and not just a few words."""
        return self.insertions >= _RUNAWAY_LEAST and self.insertions > self.units


@dataclass(frozen=True, slots=True)
class Score:
    """One transcript against its reference, both as they were compared."""

    reference: str
    text: str
    counts: Counts


def score(reference: str, text: str, language: str) -> Score:
    """Compare `text` with `reference` the way that is usual for the language (its code)."""
    import jiwer

    how = scale(language)
    expected, heard = how.normalise(reference), how.normalise(text)
    if how.metric == "CER":
        characters = jiwer.process_characters(expected, heard)
        found = (characters.substitutions, characters.deletions, characters.insertions)
        return Score(expected, heard, Counts(len(expected), *found))
    words = jiwer.process_words(expected, heard)
    return Score(expected, heard, Counts(len(expected.split()), words.substitutions, words.deletions, words.insertions))
