"""Where lines of text may end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.text.breaks import LINE_UNITS, Stop, pieces, units


def texts(text: str) -> list[str]:
    return [piece.text for piece in pieces(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  big\nworld.", ["Hello,", "big", "world."]),
        ("  ", []),
        ("你好。再见", ["你", "好。", "再", "见"]),
        ("他说：“你好！”", ["他", "说：", "“你", "好！”"]),
        ("（笑）你", ["（笑）", "你"]),
        ("我用Python写代码", ["我", "用", "Python", "写", "代", "码"]),
        ("到2026年，OK?", ["到", "2026", "年，", "OK?"]),
        ("しゃべった", ["しゃ", "べっ", "た"]),
        ("コーヒーだ", ["コーヒー", "だ"]),
        ("안녕하세요 여러분", ["안녕하세요", "여러분"]),
        ("ไปไหนน้ำ", ["ไป", "ไห", "น", "น้ำ"]),
        ("https://example.org/a-b", ["https://example.org/a-b"]),
        ("等——等", ["等——", "等"]),
    ],
)
def test_pieces(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_spaces_are_remembered() -> None:
    assert [(piece.text, piece.spaced) for piece in pieces("你好 big world")] == [
        ("你", False),
        ("好", False),
        ("big", True),
        ("world", True),
    ]


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("Yes. No", [Stop.SENTENCE, Stop.WORD]),
        ('"Yes!" (No?) well, so: "a," b', [Stop.SENTENCE, Stop.SENTENCE, *[Stop.CLAUSE] * 3, Stop.WORD]),
        ("Mr. J. Smith of approx. ten", [Stop.WORD] * 6),
        ("So do I. Yes", [*[Stop.WORD] * 2, Stop.SENTENCE, Stop.WORD]),
        ("好. 我，", [Stop.SENTENCE, Stop.CLAUSE]),
        ("好 我", [Stop.CLAUSE, Stop.WORD]),
        ("真的？！对…", [Stop.WORD, Stop.SENTENCE, Stop.SENTENCE]),
        ("क्या। हाँ", [Stop.SENTENCE, Stop.WORD]),
        ("私は東京に", [Stop.WORD, Stop.PHRASE, Stop.WORD, Stop.WORD, Stop.WORD]),
        (". .", [Stop.SENTENCE, Stop.SENTENCE]),
    ],
)
def test_how_text_ends(text: str, stops: list[Stop]) -> None:
    assert [piece.stop for piece in pieces(text)] == stops


def test_a_line_holds_42_narrow_or_16_wide_characters() -> None:
    assert units("a" * 42) == units("你" * 16) == units("a" * 21 + "你" * 8) == LINE_UNITS
    assert units("e\u0301") == units("e")
    assert units("한글") == units("漢字")


@given(st.text())
def test_pieces_hold_the_whole_text_and_no_white_space(text: str) -> None:
    found = pieces(text)
    assert "".join(piece.text for piece in found) == "".join(text.split())
    assert all(piece.text for piece in found)
    assert " ".join(text.split()) == "".join(" " * piece.spaced + piece.text for piece in found)
