"""What callers may write for a language."""

import pytest

from asr_service.errors import InvalidOption
from asr_service.text.languages import resolve

KNOWN = ("en", "de", "zh", "jw", "no", "ht", "haw", "my")


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ("en", "en"),
        (" EN ", "en"),
        ("en-US", "en"),
        ("en_us", "en"),
        ("zh-CN", "zh"),
        ("zh-Hant-TW", "zh"),
        ("cmn", "zh"),
        ("cmn-Hans-CN", "zh"),
        ("mandarin", "zh"),
        ("German", "de"),
        ("jv", "jw"),
        ("javanese", "jw"),
        ("nb-NO", "no"),
        ("haitian creole", "ht"),
        ("Haitian-Creole", "ht"),
        ("haw", "haw"),
        ("myanmar", "my"),
        ("auto", None),
        ("", None),
        ("  ", None),
    ],
)
def test_resolves(wanted: str, code: str | None) -> None:
    assert resolve(wanted, KNOWN) == code


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("germann", "did you mean 'german'?"),
        ("klingon", "it knows de, en, haw, ht, jw, my, no, zh."),
        ("yue", "'yue'"),
        ("french", "it knows"),
        ("-", "it knows"),
    ],
)
def test_refuses_what_the_model_does_not_know(wanted: str, sentence: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        resolve(wanted, KNOWN)
    assert sentence in caught.value.message


def test_long_nonsense_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidOption) as caught:
        resolve("x" * 5000, KNOWN)
    assert len(caught.value.message) < 200
