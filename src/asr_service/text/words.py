"""The words of a text: characters where a script has no spaces between words, else what stands between spaces.

Owns the cutting of a text into the units that get times. Knows nothing of models, tokens or audio.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from asr_service.domain import Word
from asr_service.text.formats import is_unspaced

_SPOKEN_PUNCTUATION = frozenset("%&@#")


class _Kind(Enum):
    SPACE = auto()
    OPENING = auto()  # leans on what follows
    CLOSING = auto()  # leans on what precedes: most punctuation, combining marks
    SOLO = auto()  # a word by itself
    LETTER = auto()


@dataclass(frozen=True, slots=True)
class WordSpan:
    """One word of a text: text[start:end], with its punctuation. text[first:last] is the part that is spoken."""

    start: int
    end: int
    first: int
    last: int


def split_words(text: str) -> list[WordSpan]:
    """The words of `text` in order. They do not overlap, and hold all of it except white space between them.

    Punctuation belongs to the word that it leans on; where it stands alone, to the one before. A text of nothing but
    punctuation is one word, and a blank one has none.
    """
    spans: list[WordSpan] = []
    waiting: int | None = None
    for start, end in _pieces(text):
        spoken = [i for i in range(start, end) if _is_spoken(text[i])]
        if spoken:
            begin = start if waiting is None else waiting
            spans.append(WordSpan(begin, end, spoken[0], spoken[-1] + 1))
            waiting = None
        elif spans:
            before = spans[-1]
            spans[-1] = WordSpan(before.start, end, before.first, before.last)
        elif waiting is None:
            waiting = start
    if waiting is not None:
        end = len(text.rstrip())
        spans.append(WordSpan(waiting, end, waiting, end))
    return spans


def deal(words: Sequence[Word], texts: Sequence[str]) -> list[tuple[Word, ...]]:
    """The words of a text that was cut into `texts`, for each of these: a word belongs to where it begins."""
    dealt: list[tuple[Word, ...]] = []
    at = taken = end = 0
    for text in texts:
        end += len("".join(text.split()))
        first = at
        while at < len(words) and taken < end:
            taken += len("".join(words[at].text.split()))
            at += 1
        dealt.append(tuple(words[first:at]))
    if dealt:
        dealt[-1] += tuple(words[at:])
    return dealt


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Spans [start, end) of `text` without white space, which begin where a word may begin."""
    start = 0
    held: _Kind | None = None  # what the piece that began at `start` has been so far; None outside pieces
    for i, character in enumerate(text):
        kind = _kind(character)
        if held is not None and _parts(held, kind):
            yield start, i
            held = None
        if kind is _Kind.SPACE:
            continue
        if held is None:
            start, held = i, kind
        elif kind in (_Kind.SOLO, _Kind.LETTER):
            held = kind
    if held is not None:
        yield start, len(text)


def _parts(held: _Kind, kind: _Kind) -> bool:
    """Whether a piece ends before a character of `kind`."""
    if kind is _Kind.SPACE:
        return True
    if held is _Kind.SOLO:
        return kind is not _Kind.CLOSING
    return held is _Kind.LETTER and kind is _Kind.SOLO


def _kind(character: str) -> _Kind:
    if character.isspace():
        return _Kind.SPACE
    category = unicodedata.category(character)
    if category in ("Ps", "Pi"):
        return _Kind.OPENING
    if category[0] in "PMC":
        return _Kind.CLOSING
    return _Kind.SOLO if is_unspaced(character) else _Kind.LETTER


def _is_spoken(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNSM" or character in _SPOKEN_PUNCTUATION
