"""Each row chooses by its own options, and those without any as if they were alone."""

import pytest
import torch

from asr_service.domain import WindowOptions
from asr_service.models.hotwords import GO_ON_BONUS, START_BONUS
from asr_service.models.sampling import Rows

CPU = torch.device("cpu")
VOCABULARY = 50
GREEDY = WindowOptions()


def encode(text: str) -> list[int]:
    """Tokens are letters of the alphabet; a space is token 26."""
    return [26 if character == " " else ord(character) - ord("a") for character in text]


def rows_with(*options: WindowOptions) -> Rows:
    rows = Rows(8, CPU, encode)
    rows.begin(0, options)
    rows.reset(slice(0, 8))
    return rows


def logits_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def advance(rows: Rows, logits: torch.Tensor, first_row: int = 0) -> list[int]:
    return rows.advance(slice(first_row, first_row + len(logits)), logits, [1] * len(logits))


def test_without_wishes_the_likeliest_token_is_chosen_and_the_logits_stay() -> None:
    rows, logits = rows_with(GREEDY, GREEDY, GREEDY), logits_of(3)
    before = logits.clone()
    tokens = advance(rows, logits)
    assert tokens == before.argmax(dim=-1).tolist()
    assert torch.equal(logits, before)
    assert rows.tokens[:3].tolist() == tokens
    assert rows.positions.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert rows.lengths[:4] == [1, 1, 1, 0]
    assert list(rows.logprobs(0)) == []


def test_a_greedy_row_is_not_touched_by_its_neighbours_wishes() -> None:
    rows = rows_with(WindowOptions(temperature=1.0), GREEDY, WindowOptions(hotwords=("abc",)), GREEDY)
    for step in range(50):
        logits = logits_of(4, step)
        before = logits.clone()
        tokens = advance(rows, logits)
        assert torch.equal(logits[[1, 3]], before[[1, 3]])
        assert [tokens[1], tokens[3]] == before[[1, 3]].argmax(dim=-1).tolist()


def test_tokens_are_drawn_with_the_probabilities_of_the_temperature() -> None:
    temperature, draws = 0.7, 4_000
    rows = rows_with(*[WindowOptions(temperature=temperature)] * 8)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")])
    drawn = torch.tensor([advance(rows, logits.repeat(8, 1)) for _ in range(draws // 8)]).flatten()
    shares = torch.bincount(drawn, minlength=5) / draws
    torch.testing.assert_close(shares, torch.softmax(logits / temperature, dim=-1), atol=0.02, rtol=0)
    assert shares[4] == 0


def test_rows_draw_at_their_own_temperatures() -> None:
    rows = rows_with(WindowOptions(temperature=1e-9), WindowOptions(temperature=1.0))
    logits = torch.tensor([[3.0, 2.0, 1.0]]).repeat(2, 1)
    tokens = [advance(rows, logits.clone()) for _ in range(100)]
    assert {cold for cold, _ in tokens} == {0}
    assert {warm for _, warm in tokens} == {0, 1, 2}


def test_draws_are_the_same_in_every_run() -> None:
    def run() -> list[list[int]]:
        rows = rows_with(WindowOptions(temperature=1.0), WindowOptions(temperature=0.5))
        return [advance(rows, logits_of(2, step)) for step in range(20)]

    first = run()
    assert run() == first
    assert first != [logits_of(2, step).argmax(dim=-1).tolist() for step in range(20)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_log_probabilities_are_those_of_the_model_whatever_moved_the_choice(temperature: float) -> None:
    options = WindowOptions(temperature=temperature, hotwords=("bcd",), logprobs=True)
    rows = rows_with(GREEDY, options, GREEDY, WindowOptions(logprobs=True))
    expected: dict[int, list[float]] = {1: [], 3: []}
    for step in range(10):
        logits = logits_of(4, step)
        worth = torch.log_softmax(logits, dim=-1)
        tokens = advance(rows, logits)
        for row, values in expected.items():
            values.append(float(worth[row, tokens[row]]))
    assert list(rows.logprobs(1)) == pytest.approx(expected[1], abs=1e-5)
    assert list(rows.logprobs(3)) == pytest.approx(expected[3], abs=1e-5)
    assert list(rows.logprobs(0)) == []


def test_a_hotword_is_begun_and_gone_on_with_where_it_is_close_enough() -> None:
    rows = rows_with(WindowOptions(hotwords=("bcd",)), GREEDY)
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 40] = START_BONUS / 3 - 0.1
    assert advance(rows, logits.clone()) == [1, 40]
    logits[:, 40] = GO_ON_BONUS - 0.1
    assert advance(rows, logits.clone()) == [2, 40]
    assert advance(rows, logits.clone()) == [3, 40]
    assert advance(rows, logits.clone()) == [40, 40]


def test_no_bonus_brings_back_what_is_never_allowed() -> None:
    rows = rows_with(WindowOptions(hotwords=("b",), temperature=1.0))
    logits = torch.full((1, VOCABULARY), float("-inf"))
    logits[0, 40] = -100.0
    assert advance(rows, logits) == [40]


def test_wishes_move_with_their_row_and_end_with_it() -> None:
    rows = rows_with(GREEDY, WindowOptions(hotwords=("bcd",), logprobs=True))
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 40] = START_BONUS / 3 - 0.1
    assert advance(rows, logits.clone()) == [40, 1]
    rows.move(1, 0)
    assert advance(rows, logits[:1].clone()) == [2]
    assert len(rows.logprobs(0)) == 2
    assert list(rows.logprobs(1)) == []
    rows.begin(0, [GREEDY])
    assert advance(rows, logits[:1].clone()) == [40]
    assert list(rows.logprobs(0)) == []


def test_rows_that_join_later_have_their_own_wishes() -> None:
    rows = rows_with(GREEDY)
    rows.begin(1, [WindowOptions(hotwords=("b",)), GREEDY])
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 40] = START_BONUS - 0.1
    assert advance(rows, logits.clone(), first_row=1) == [1, 40]
