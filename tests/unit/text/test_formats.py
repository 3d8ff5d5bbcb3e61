"""How segment texts join."""

import pytest

from asr_service.text.formats import join, separator


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("Hello.", "World", " "),
        ("你好。", "世界", ""),
        ("你好", "世界", ""),
        ("你好，", "hello", ""),
        ("你好", "hello", " "),
        ("hello", "你好", " "),
        ("ＡＢＣ", "ok", " "),
        ("こんにちは", "カタカナ", ""),
        ("ｶﾀｶﾅ", "漢字", ""),
        ("สวัสดี", "ครับ", ""),
        ("안녕하세요", "여러분", " "),
        ("مرحبا", "بكم", " "),
        ("नमस्ते", "दुनिया", " "),
        ("𠀀", "𠀁", ""),
        ("Hello ", " world", " "),
        ("", "world", ""),
        ("hello", " ", ""),
    ],
)
def test_separator(left: str, right: str, expected: str) -> None:
    assert separator(left, right) == expected


def test_join_skips_empty_texts_and_trims() -> None:
    assert join([" One. ", "", "  ", "Two."]) == "One. Two."
    assert join(["今天天气很好。", "", "我们去公园。", "OK?"]) == "今天天气很好。我们去公园。OK?"
    assert join([]) == ""
