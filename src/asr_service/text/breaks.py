"""Where a line of text may end, how well it ends there, and how much room text takes.

Owns the pieces that are never broken: words, and in scripts without spaces characters with the punctuation that must
not begin or end a line. Knows nothing of time. A table of rules and not a dictionary: Chinese, Japanese and Thai words
of several characters may be broken, Katakana excepted.
"""

import unicodedata
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise

from asr_service.text.formats import separator

NARROW_UNITS, WIDE_UNITS = 8, 21
"""Room that a character takes. A line of 42 narrow or of 16 wide characters, or of a mixture of them, is equally full:
these are the lengths that Netflix's Timed Text Style Guides ask for in Latin and in Chinese and Korean text."""
LINE_UNITS = 42 * NARROW_UNITS

# Beside what the Unicode categories say: small kana, the vowels of Thai and Lao that belong to the letter before or
# after them, joiners, and the signs that stack the next consonant below (Khmer, Myanmar).
_NEVER_FIRST = frozenset("ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶｧｨｩｪｫｯｬｭｮะาำๅະາຳຽ")
_NEVER_LAST = frozenset("เแโใไເແໂໃໄ\u200c\u200d\u2060\u1039\u17d2")
_NEVER_FIRST_CATEGORIES = frozenset(("Mn", "Mc", "Me", "Pe", "Pf", "Po", "Pd", "Lm", "Sk", "Cf"))
_NEVER_LAST_CATEGORIES = frozenset(("Ps", "Pi"))

_SENTENCE_ENDS = frozenset(".!?…。！？．｡؟۔।॥")
_CLAUSE_ENDS = frozenset(",;:、，；：､،؛–—")
_CLOSING_CATEGORIES = frozenset(("Pe", "Pf"))
_HIRAGANA, _KATAKANA = ("\u3041", "\u309f"), ("\u30a0", "\u30ff")
_TITLES = frozenset(("mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs."))


class Stop(IntEnum):
    """How well text may end after a piece, from anywhere between words to a sentence's end."""

    WORD = 0
    PHRASE = 1
    CLAUSE = 2
    SENTENCE = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is never broken. `spaced`: a space goes before it, unless it begins a line. `units`: its room."""

    text: str
    spaced: bool
    units: int
    stop: Stop


def pieces(text: str) -> list[Piece]:
    """`text` in pieces. All white space counts as one space; none of it is within a piece."""
    parts: list[tuple[str, bool]] = []
    for word in text.split():
        start = 0
        for cut in range(1, len(word) + 1):
            if cut == len(word) or _may_break(word[cut - 1], word[cut]):
                parts.append((word[start:cut], start == 0 and bool(parts)))
                start = cut
    return [
        Piece(part, spaced, units(part), _stop(part, *after))
        for (part, spaced), after in pairwise([*parts, ("", False)])
    ]


def units(text: str) -> int:
    """The room that `text` takes on a line, of LINE_UNITS."""
    return sum(map(character_units, text))


@lru_cache(maxsize=4096)
def character_units(character: str) -> int:
    """The room that one character takes: none where it is drawn over the one before it."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return WIDE_UNITS if unicodedata.east_asian_width(character) in ("W", "F") else NARROW_UNITS


def _may_break(before: str, after: str) -> bool:
    """Whether a line may end between two characters without white space between them."""
    if not _unspaced(before) and not _unspaced(after):
        return False
    if _is_in(before, _KATAKANA) and _is_in(after, _KATAKANA):
        return False
    if after in _NEVER_FIRST or unicodedata.category(after) in _NEVER_FIRST_CATEGORIES:
        return False
    return before not in _NEVER_LAST and unicodedata.category(before) not in _NEVER_LAST_CATEGORIES


@lru_cache(maxsize=4096)
def _unspaced(character: str) -> bool:
    """Whether two of it stand side by side as two words would: the rule by which texts are joined says so."""
    return separator(character, character) == ""


def _stop(part: str, following: str, space_after: bool) -> Stop:
    """How text ends after `part`."""
    bare = part
    while len(bare) > 1 and (unicodedata.category(bare[-1]) in _CLOSING_CATEGORIES or bare[-1] in "\"'"):
        bare = bare[:-1]
    last = bare[-1]
    if last in _SENTENCE_ENDS:
        # A full stop in the middle of a sentence: an abbreviation or an initial.
        initial = len(bare) == 2 and bare[0].isascii() and bare[0].isupper() and bare[0] != "I"
        shortened = last == "." and (initial or bare.lower() in _TITLES or following[:1].islower())
        return Stop.WORD if shortened else Stop.SENTENCE
    # Where words are not set apart by spaces, a space stands for a comma.
    if last in _CLAUSE_ENDS or (space_after and separator(part, following) == ""):
        return Stop.CLAUSE
    # In Japanese, what inflects and relates a word is written in Hiragana, and the next word mostly in something else.
    if _is_in(part[-1], _HIRAGANA) and following and not _is_in(following[0], _HIRAGANA):
        return Stop.PHRASE
    return Stop.WORD


def _is_in(character: str, block: tuple[str, str]) -> bool:
    return block[0] <= character <= block[1]
