"""The details of tokens come with the text, from the row that said it, where they were asked for."""

from asr_service.domain import Token, WindowOptions
from asr_service.engine.messages import Finished, Submit
from tests.unit.engine.scripted import STOP, ScriptedRunner, features
from tests.unit.engine.test_core import Engine


def submit(sequence_id: int, *, logprobs: bool) -> Submit:
    return Submit(sequence_id, "r", b"", WindowOptions(logprobs=logprobs))


def details(engine: Engine) -> dict[int, list[tuple[int, float]]]:
    return {message.id: [(token.id, token.logprob) for token in message.details] for message in engine.of(Finished)}


def test_only_who_asks_gets_details() -> None:
    engine = Engine(ScriptedRunner({1.0: [5, 6, STOP], 2.0: [7, 8, STOP]}))
    engine.core.submit(submit(1, logprobs=True), features(1.0))
    engine.core.submit(submit(2, logprobs=False), features(2.0))
    engine.run()
    finished = {message.id: message.details for message in engine.of(Finished)}
    assert finished == {1: (Token(5, b"5", -1.0), Token(6, b"6", -1.0)), 2: ()}


def test_details_are_of_the_row_that_a_window_has_moved_to() -> None:
    scripts = {1.0: [5, STOP], 2.0: [6, 6, 6, STOP], 3.0: [7, 7, STOP], 4.0: [STOP]}
    engine = Engine(ScriptedRunner(scripts))
    for i in (1, 2, 3, 4):
        engine.core.submit(submit(i, logprobs=True), features(float(i)))
    engine.run()
    assert details(engine) == {1: [(5, -1.0)], 2: [(6, -2.0)] * 3, 3: [(7, -3.0)] * 2, 4: []}


def test_details_end_where_the_guard_has_cut() -> None:
    engine = Engine(ScriptedRunner({60.0: [1, 2, 3] + [8, 9] * 500}))
    engine.core.submit(submit(1, logprobs=True), features(60.0))
    engine.run()
    (finished,) = engine.of(Finished)
    assert finished.text == "1 2 3 8 9"
    assert [token.id for token in finished.details] == [1, 2, 3, 8, 9]


def test_a_second_try_reports_its_own_tokens() -> None:
    engine = Engine(ScriptedRunner({1.0: [9] * 500}))
    engine.runner.exact_frames = 3_000
    engine.runner.exact_scripts = {1.0: [5, 6, STOP]}
    engine.core.submit(submit(1, logprobs=True), features(1.0))
    engine.run()
    assert details(engine) == {1: [(5, -1.0), (6, -1.0)]}
