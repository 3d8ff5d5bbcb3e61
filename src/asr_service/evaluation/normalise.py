"""What counts as the same text: the standard normalisers, and whether words or characters are counted.

Owns the choice by language. The normalisers are those that Whisper was published with, so that figures compare with
other people's: the English one spells out contractions and writes numbers as digits and British words the American
way, the basic one drops case and punctuation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Normaliser = Callable[[str], str]

UNSPACED = frozenset(("zh", "yue", "ja", "th", "lo", "km", "my", "bo"))
"""Languages written without spaces between words: characters are counted."""
_CHINESE = frozenset(("zh", "yue"))


@dataclass(frozen=True, slots=True)
class Scale:
    """How texts of a language are compared."""

    metric: Literal["WER", "CER"]
    normalise: Normaliser


@lru_cache
def scale(language: str) -> Scale:
    """The scale for a language, given by its code."""
    if language in UNSPACED:
        return Scale("CER", _characters(_simplified() if language in _CHINESE else str))
    return Scale("WER", _english() if language == "en" else _basic())


def _english() -> Normaliser:
    from whisper_normalizer.english import EnglishTextNormalizer

    normalise: Normaliser = EnglishTextNormalizer()
    # Of an ellipsis it leaves dots behind, which would count as a word.
    return lambda text: " ".join(word for word in normalise(text).split() if word.strip("."))


def _basic() -> Normaliser:
    from whisper_normalizer.basic import BasicTextNormalizer

    normalise: Normaliser = BasicTextNormalizer()
    return lambda text: normalise(text).strip()


def _characters(fold: Normaliser) -> Normaliser:
    basic = _basic()
    return lambda text: "".join(fold(basic(text)).split())


def _simplified() -> Normaliser:
    """Traditional characters as simplified ones: which of them a model writes is no matter of hearing."""
    from opencc import OpenCC

    convert: Normaliser = OpenCC("t2s").convert
    return convert
