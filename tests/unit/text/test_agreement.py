"""Words settle when two transcriptions agree on them, and never change again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.text.agreement import Agreement


@pytest.mark.parametrize(
    ("hypotheses", "settled", "unsettled"),
    [
        (["After"], "", "After"),
        (["After early", "After early"], "After early", ""),
        (["After early", "After early night"], "After early", " night"),
        (["After early night", "After early nightfall the"], "After early", " nightfall the"),
        (["Hello.", "Hello, world."], "Hello", ", world."),
        (["Hello, world.", "Hello, world. It"], "Hello, world", ". It"),
        (["Hello, world. It", "Hello, world. It is"], "Hello, world. It", " is"),
        (["He said", 'He said "no"'], "He said", ' "no"'),
        (['He said "no', 'He said "no" again'], 'He said "no', '" again'),
        (["今天天气", "今天天气很好"], "今天天气", "很好"),
        (["今天田", "今天天气"], "今天", "天气"),
        (["You", "The cat"], "", "The cat"),
        (["A b c", "A x c", "A x c d"], "A x c", " d"),
        (["", ""], "", ""),
        (["Well", ""], "", ""),
    ],
)
def test_words_settle_once_two_transcriptions_agree(hypotheses: list[str], settled: str, unsettled: str) -> None:
    text = Agreement()
    added = [text.take(hypothesis) for hypothesis in hypotheses]
    assert (text.settled, text.unsettled) == (settled, unsettled)
    assert "".join(added) == settled


def test_the_final_text_goes_on_from_what_has_settled() -> None:
    text = Agreement()
    text.take("After early")
    text.take("After early night")
    assert text.finish("After early nightfall, the lamps.") == " nightfall, the lamps."
    assert (text.settled, text.unsettled) == ("After early nightfall, the lamps.", "")


@pytest.mark.parametrize(
    ("settled", "final", "whole"),
    [
        ("After early", "Before early night.", "After early night."),
        ("After early night", "Before.", "After early night"),
        ("今天", "金田天气", "今天天气"),
    ],
)
def test_a_final_text_that_begins_otherwise_does_not_change_what_has_settled(
    settled: str, final: str, whole: str
) -> None:
    text = Agreement()
    text.take(settled)
    text.take(settled)
    assert settled + text.finish(final) == whole == text.settled


def test_a_transcription_from_before_words_settled_is_not_looked_at() -> None:
    text = Agreement()
    for hypothesis in ("After early", "After early night", "Before"):
        text.take(hypothesis)
    assert (text.settled, text.unsettled) == ("After early", " night")


WORDS = st.lists(st.sampled_from(["one", "two,", "three.", '"four"', "五", "六。", "seven"]), max_size=6)


@given(st.lists(WORDS.map(" ".join), max_size=8), WORDS.map(" ".join))
def test_settled_text_only_grows(hypotheses: list[str], final: str) -> None:
    text = Agreement()
    shown = ""
    for hypothesis in hypotheses:
        added = text.take(hypothesis)
        assert text.settled == shown + added
        shown = text.settled
        assert hypothesis.startswith(text.settled) or not added
    assert text.settled + text.unsettled in ("", *hypotheses)
    assert shown + text.finish(final) == text.settled
    if final.startswith(shown):
        assert text.settled == final
