"""Transcripts as text: how the texts of consecutive segments join.

Owns the spacing between segments. Knows nothing of models, audio or HTTP.
"""

from collections.abc import Iterable

# Scripts that are written without spaces between words (Unicode blocks, first and last code point), together with
# the punctuation and the full-width forms that go with them. Korean is not among them: it puts spaces between words.
_UNSPACED = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # CJK and Kangxi radicals
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo extended, CJK strokes, Katakana extensions
    (0x3400, 0x4DBF),  # CJK extension A
    (0x4E00, 0x9FFF),  # CJK unified ideographs
    (0xF900, 0xFAFF),  # CJK compatibility ideographs
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x20000, 0x3FFFF),  # CJK extensions B and later
)
_WIDE_PUNCTUATION = (
    (0x3000, 0x303F),  # CJK symbols and punctuation
    (0xFE30, 0xFE4F),  # CJK compatibility forms
    (0xFF00, 0xFF0F),  # full-width ! to /
    (0xFF1A, 0xFF20),  # full-width : to @
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF65),
)


def separator(left: str, right: str) -> str:
    """What goes between two texts that follow each other: a space, or nothing.

    Nothing when either is empty, when both meet in scripts without spaces, or when either meets the other with
    full-width punctuation, which has its space built in.
    """
    left, right = left.rstrip(), right.lstrip()
    if not left or not right:
        return ""
    before, after = left[-1], right[0]
    if _is_in(before, _WIDE_PUNCTUATION) or _is_in(after, _WIDE_PUNCTUATION):
        return ""
    if _is_in(before, _UNSPACED) and _is_in(after, _UNSPACED):
        return ""
    return " "


def join(texts: Iterable[str]) -> str:
    """The texts of consecutive segments as one text."""
    last = ""
    pieces: list[str] = []
    for text in texts:
        text = text.strip()
        if text:
            pieces += (separator(last, text), text)
            last = text
    return "".join(pieces)


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    return _is_in(character, _UNSPACED)


def _is_in(character: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)
