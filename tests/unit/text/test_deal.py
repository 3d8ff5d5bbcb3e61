"""The words of a text that was cut find the piece that they begin in."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asr_service.domain import Word
from asr_service.text.words import deal, split_words


def words_of(text: str) -> list[Word]:
    return [Word(float(i), i + 1.0, text[span.start : span.end]) for i, span in enumerate(split_words(text))]


def test_words_go_to_the_text_that_holds_them() -> None:
    words = words_of("One two. Three 你好")
    assert deal(words, ["One two.", "", "Three 你", "好"]) == [tuple(words[:2]), (), tuple(words[2:4]), (words[4],)]


def test_a_word_across_a_cut_belongs_to_where_it_begins() -> None:
    words = words_of("half and half")
    assert deal(words, ["half an", "d half"]) == [tuple(words[:2]), (words[2],)]


def test_nothing_is_dealt_to_nobody() -> None:
    assert deal(words_of("One"), []) == []


@given(st.text(st.sampled_from("ab ,.你好"), max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_every_word_is_dealt_once_in_order(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(text)]
    words = words_of(text)
    dealt = deal(words, [text[a:b] for a, b in pairwise(edges)])
    assert [word for group in dealt for word in group] == words
    assert len(dealt) == len(edges) - 1
