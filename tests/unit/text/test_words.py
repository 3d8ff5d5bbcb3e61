"""Texts are cut into words or characters, and nothing but white space is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.text.words import split_words


def words(text: str) -> list[str]:
    return [text[span.start : span.end] for span in split_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n", []),
        ("Hello, world!", ["Hello,", "world!"]),
        ("  don't   stop ", ["don't", "stop"]),
        ('He said "yes (maybe)".', ["He", "said", '"yes', '(maybe)".']),
        ("one - two", ["one -", "two"]),
        ("... and so on", ["... and", "so", "on"]),
        ("¿Qué? ¡Sí!", ["¿Qué?", "¡Sí!"]),
        ("?!", ["?!"]),
        ("R&D costs 5 % & more", ["R&D", "costs", "5", "%", "&", "more"]),
        ("2 + 2 = 4", ["2", "+", "2", "=", "4"]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("他说“你好”。", ["他", "说", "“你", "好”。"]),
        ("（好）", ["（好）"]),
        ("我有iPhone手机", ["我", "有", "iPhone", "手", "机"]),
        ("用Python 3写的(代码)", ["用", "Python", "3", "写", "的", "(代", "码)"]),
        ("ありがとう", ["あ", "り", "が", "と", "う"]),
        ("안녕하세요 여러분", ["안녕하세요", "여러분"]),
        ("นี้", ["นี้"]),
        ("привет,мир", ["привет,мир"]),
    ],
)
def test_words_with_their_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_the_spoken_part_leaves_punctuation_out() -> None:
    text = '"Hello," (世界)。 ...'
    assert [text[span.first : span.last] for span in split_words(text)] == ["Hello", "世", "界"]


@given(st.text(st.one_of(st.characters(), st.sampled_from("ab é.,!?\"'()（），。“”你好世界ไทย안 \t%&")), max_size=60))
def test_words_are_in_order_and_only_white_space_is_between_them(text: str) -> None:
    spans = split_words(text)
    assert bool(spans) == bool(text.strip())
    ends = [0, *(span.end for span in spans)]
    starts = [*(span.start for span in spans), len(text)]
    for end, start in zip(ends, starts, strict=True):
        assert end <= start
        assert not text[end:start].strip()
    for span in spans:
        assert span.start <= span.first < span.last <= span.end
