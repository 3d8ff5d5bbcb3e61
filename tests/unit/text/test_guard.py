"""The guard stops what is not speech and leaves speech alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.text.guard import OutputGuard, strip_framing


def run(tokens: list[int], duration_s: float = 30.0, room: int = 448) -> OutputGuard:
    guard = OutputGuard(duration_s, room)
    for token in tokens:
        if guard.push(token):
            break
    return guard


@pytest.mark.parametrize("period", [1, 2, 3, 7, 16, 32])
def test_a_loop_of_any_period_is_found_and_reduced_to_one_round(period: int) -> None:
    pattern = list(range(100, 100 + period))
    guard = run([1, 2, 3, *pattern * 100])
    assert guard.stopped == "loop"
    assert guard.tokens == [1, 2, 3, *pattern]


@pytest.mark.parametrize("repeats", [2, 5, 12])
def test_people_repeat_themselves(repeats: int) -> None:
    guard = run([1, 2, *[7] * repeats, 3, 4, *[5, 6] * repeats, 9])
    assert guard.stopped is None
    assert len(guard.tokens) == 5 + 3 * repeats


@given(st.lists(st.integers(0, 50_000), max_size=400, unique=True))
def test_text_without_repetition_passes_unchanged(tokens: list[int]) -> None:
    guard = run(tokens)
    assert guard.stopped is None
    assert guard.tokens == tokens


def test_the_budget_follows_the_audio() -> None:
    tokens = list(range(400))
    assert len(run(tokens, duration_s=1.0).tokens) == 62
    assert len(run(tokens, duration_s=5.0).tokens) == 182
    assert len(run(tokens, duration_s=5.0, room=100).tokens) == 100


def test_a_guard_that_is_off_only_keeps_to_the_slot() -> None:
    guard = OutputGuard(1.0, 100, enabled=False)
    assert [guard.push(7) for _ in range(100)] == [False] * 99 + [True]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('The spoken content of the audio is "hello there".', "hello there"),
        ("The transcription of the audio is 'hello there'", "hello there"),
        ("The content of the input audio is: “你好”。", "你好"),
        ('The spoken content of the audio is "Is it?"', "Is it?"),
        ("The spoken content of the audio is hello.", "hello."),
        (" Hello there. ", "Hello there."),
        ('"Quoted" she said.', '"Quoted" she said.'),
        ("", ""),
    ],
)
def test_framing_is_removed_and_nothing_else(answer: str, text: str) -> None:
    assert strip_framing(answer) == text
