"""Bonuses go to the tokens that begin a hotword or go on in one, and to no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.models.hotwords import GO_ON_BONUS, START_BONUS, Hotwords

TOKENS = st.integers(0, 4)


def expected(sequences: list[list[int]], said: list[int]) -> dict[int, float]:
    """Straight from the definition: a token goes on in a hotword when what was said ends with what precedes it."""
    bonuses: dict[int, float] = {}
    for sequence in sequences:
        bonuses[sequence[0]] = max(bonuses.get(sequence[0], 0.0), START_BONUS / len(sequence))
    for sequence in sequences:
        for begun in range(1, min(len(sequence) - 1, len(said)) + 1):
            if said[-begun:] == sequence[:begun]:
                bonuses[sequence[begun]] = GO_ON_BONUS
    return bonuses


@given(
    sequences=st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=5),
    said=st.lists(TOKENS, max_size=12),
)
def test_bonuses_are_the_continuations_of_all_that_what_was_said_ends_with(
    sequences: list[list[int]], said: list[int]
) -> None:
    progress = Hotwords(sequences).follow()
    for length, token in enumerate(said):
        assert progress.bonuses() == expected(sequences, said[:length])
        progress.push(token)
    assert progress.bonuses() == expected(sequences, said)


def test_going_on_is_worth_more_than_beginning() -> None:
    assert 0 < START_BONUS < GO_ON_BONUS


def test_rows_of_one_request_go_their_own_ways() -> None:
    hotwords = Hotwords([[1, 2], [3, 4]])
    first, second = hotwords.follow(), hotwords.follow()
    first.push(1)
    second.push(3)
    assert first.bonuses() == {1: START_BONUS / 2, 3: START_BONUS / 2, 2: GO_ON_BONUS}
    assert second.bonuses() == {1: START_BONUS / 2, 3: START_BONUS / 2, 4: GO_ON_BONUS}


def test_a_hotword_is_spelt_with_and_without_a_space_before_it() -> None:
    progress = Hotwords.of([" Zo ", "  "], lambda text: [ord(character) for character in text]).follow()
    starts = {ord("Z"): START_BONUS / 2, ord(" "): START_BONUS / 3}
    assert progress.bonuses() == starts
    for character in " Z":
        progress.push(ord(character))
    assert progress.bonuses() == starts | {ord("o"): GO_ON_BONUS}
    progress.push(ord("-"))
    assert progress.bonuses() == starts


@pytest.mark.parametrize("hotwords", [[], [""]])
def test_without_hotwords_there_are_no_bonuses(hotwords: list[str]) -> None:
    assert Hotwords.of(hotwords, lambda text: []).follow().bonuses() == {}
