"""Every sequence ends exactly once, with its own text, whatever happens to the others."""

from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.domain import Priority
from asr_service.engine.core import EngineCore
from asr_service.engine.messages import Cancel, Failed, Finished, FromEngine, Started, Stats
from tests.unit.engine.scripted import STOP, ScriptedRunner, features, submit

M = TypeVar("M")


@dataclass
class Engine:
    runner: ScriptedRunner
    max_step_frames: int = 1_000
    guard: bool = True
    now_s: float = 0.0
    sent: list[FromEngine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = EngineCore(
            self.runner,
            self.sent.append,
            lambda: self.now_s,
            max_step_frames=self.max_step_frames,
            guard=self.guard,
            is_fatal=lambda error: isinstance(error, SystemError),
            memory=lambda: (700, 900),
        )

    def run(self, limit: int = 1_000) -> None:
        for _ in range(limit):
            if self.core.idle:
                return
            self.core.step()
        raise AssertionError("the engine did not come to rest")

    def of(self, kind: type[M]) -> list[M]:
        return [message for message in self.sent if isinstance(message, kind)]

    def texts(self) -> dict[int, str]:
        return {message.id: message.text for message in self.of(Finished)}


def script(*tokens: int) -> list[int]:
    return [*tokens, STOP]


def test_a_window_is_started_and_finished_with_its_text() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5, 6, 7)}))
    engine.core.submit(submit(1, language="de"), features(1.0))
    engine.run()
    assert engine.of(Started) == [Started(1, "de")]
    (finished,) = engine.of(Finished)
    assert (finished.text, finished.language, finished.tokens, finished.guard) == ("5 6 7", "de", 3, None)
    assert finished.timings.decode_steps == 3


def test_a_window_that_says_nothing_ends_without_a_decode_step() -> None:
    engine = Engine(ScriptedRunner({1.0: script()}))
    engine.core.submit(submit(1), features(1.0))
    engine.run()
    assert engine.texts() == {1: ""}
    assert engine.runner.batches == []


def test_sequences_join_while_others_are_running() -> None:
    engine = Engine(ScriptedRunner({1.0: script(*range(10, 20)), 2.0: script(30, 31)}))
    engine.core.submit(submit(1), features(1.0))
    engine.core.step()
    engine.core.step()
    engine.core.submit(submit(2), features(2.0))
    engine.run()
    assert engine.texts() == {1: " ".join(map(str, range(10, 20))), 2: "30 31"}
    assert [message.id for message in engine.of(Finished)] == [2, 1]
    assert max(engine.runner.batches) == 2


def test_no_more_sequences_run_than_there_are_slots() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5, 6, 7, 8)}, slots=3))
    for i in range(10):
        engine.core.submit(submit(i), features(1.0))
    engine.run()
    assert max(engine.runner.batches) == 3
    assert set(engine.texts()) == set(range(10))


def test_a_step_encodes_no_more_than_its_budget_of_frames() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5, 6)}), max_step_frames=250)
    for i in range(4):
        engine.core.submit(submit(i), features(1.0, frames=100))
    engine.run()
    assert [len(batch) for batch in engine.runner.encoded] == [2, 2]


def test_a_window_larger_than_the_budget_is_encoded_alone() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5)}), max_step_frames=50)
    engine.core.submit(submit(1), features(1.0, frames=100))
    engine.core.submit(submit(2), features(1.0, frames=100))
    engine.run()
    assert [len(batch) for batch in engine.runner.encoded] == [1, 1]


def test_admission_goes_round_the_requests() -> None:
    engine = Engine(ScriptedRunner({float(i): script(5) for i in range(6)}), max_step_frames=100)
    for i in range(4):
        engine.core.submit(submit(i, "long file"), features(float(i)))
    engine.core.submit(submit(4, "short clip"), features(4.0))
    engine.core.submit(submit(5, "another"), features(5.0))
    engine.run()
    assert [keys[0] for keys in engine.runner.encoded] == [0.0, 4.0, 5.0, 1.0, 2.0, 3.0]


def test_a_waiting_window_can_be_cancelled() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5)}))
    engine.core.submit(submit(1), features(1.0))
    engine.core.cancel(Cancel(1))
    assert engine.core.idle
    engine.run()
    assert not engine.of(Finished)
    assert not engine.of(Failed)


def test_a_running_window_that_is_cancelled_frees_its_slot_at_once() -> None:
    engine = Engine(ScriptedRunner({1.0: script(*range(1, 100)), 2.0: script(7, 8)}, slots=1), guard=False)
    engine.core.submit(submit(1), features(1.0))
    engine.core.step()
    engine.core.submit(submit(2), features(2.0))
    engine.core.cancel(Cancel(1))
    engine.run()
    assert engine.texts() == {2: "7 8"}


def test_cancelling_what_has_ended_does_nothing() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5)}))
    engine.core.submit(submit(1), features(1.0))
    engine.run()
    engine.core.cancel(Cancel(1))
    engine.core.cancel(Cancel(99))
    assert engine.core.idle


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_deadline_ends_a_window_whether_it_waits_or_runs(steps_before: int) -> None:
    engine = Engine(ScriptedRunner({1.0: script(*range(1, 50)), 2.0: script(4, 5)}), guard=False)
    engine.core.submit(submit(1, deadline_ms=500), features(1.0))
    engine.core.submit(submit(2), features(2.0))
    for _ in range(steps_before):
        engine.core.step()
    engine.now_s = 0.5
    engine.run()
    assert [(message.id, message.code) for message in engine.of(Failed)] == [(1, "deadline_exceeded")]
    assert engine.texts() == {2: "4 5"}


def test_a_window_that_cannot_be_encoded_fails_alone() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5), 2.0: script(6), 3.0: script(7)}))
    engine.runner.admit_errors[2.0] = ValueError("odd shape")
    for i in (1, 2, 3):
        engine.core.submit(submit(i), features(float(i)))
    engine.run()
    assert engine.texts() == {1: "5", 3: "7"}
    (failed,) = engine.of(Failed)
    assert (failed.id, failed.code) == (2, "engine_error")
    assert "odd shape" in failed.message


def test_a_window_that_cannot_be_decoded_fails_alone() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5, 6), 2.0: script(6, 7), 3.0: script(7, 8)}))
    engine.runner.decode_errors[1.0] = MemoryError()
    for i in (1, 2, 3):
        engine.core.submit(submit(i), features(float(i)))
    engine.run()
    assert engine.texts() == {2: "6 7", 3: "7 8"}
    assert [message.id for message in engine.of(Failed)] == [1]


@pytest.mark.parametrize("where", ["admit_errors", "decode_errors"])
def test_a_fatal_error_ends_the_step_so_that_the_process_can_end(where: str) -> None:
    engine = Engine(ScriptedRunner({1.0: script(5, 6)}))
    getattr(engine.runner, where)[1.0] = SystemError("device lost")
    engine.core.submit(submit(1), features(1.0))
    with pytest.raises(SystemError, match="device lost"):
        engine.run()


def test_a_model_that_loops_is_stopped_and_cut_to_one_round() -> None:
    engine = Engine(ScriptedRunner({60.0: [1, 2, 3] + [8, 9] * 500}))
    engine.core.submit(submit(1), features(60.0))
    engine.run()
    (finished,) = engine.of(Finished)
    assert (finished.text, finished.guard) == ("1 2 3 8 9", "loop")
    assert len(engine.runner.batches) < 40


def test_a_model_that_never_stops_is_stopped_by_the_length_of_its_audio() -> None:
    engine = Engine(ScriptedRunner({2.0: list(range(1, 5_000))}))
    engine.core.submit(submit(1), features(2.0))
    engine.run()
    (finished,) = engine.of(Finished)
    assert finished.guard == "budget"
    assert finished.tokens == 32 + 2 * 30


def test_an_output_that_ran_away_is_tried_once_more_with_the_exact_encoder() -> None:
    engine = Engine(ScriptedRunner({1.0: [9] * 500, 2.0: [8] * 500}))
    engine.runner.exact_frames = 3_000
    engine.runner.exact_scripts = {1.0: script(5, 6), 2.0: [7] * 500}
    engine.core.submit(submit(1), features(1.0))
    engine.core.submit(submit(2), features(2.0))
    engine.run()
    assert engine.texts() == {1: "5 6", 2: "7"}
    assert {message.id: message.guard for message in engine.of(Finished)} == {1: None, 2: "loop"}
    assert [message.id for message in engine.of(Started)] == [1, 2]


def test_without_the_guard_the_end_of_a_slot_is_no_reason_to_try_again() -> None:
    engine = Engine(ScriptedRunner({1.0: [9] * 500}, room=20), guard=False)
    engine.runner.exact_frames = 3_000
    engine.core.submit(submit(1), features(1.0))
    engine.run()
    assert engine.of(Finished)[0].tokens == 20
    assert len(engine.runner.encoded) == 1


def test_a_model_is_stopped_where_its_slot_ends() -> None:
    engine = Engine(ScriptedRunner({2.0: list(range(1, 5_000))}, room=20))
    engine.core.submit(submit(1), features(2.0))
    engine.run()
    assert engine.of(Finished)[0].tokens == 20


def test_stats_count_what_was_done_and_end_at_zero() -> None:
    engine = Engine(ScriptedRunner({1.0: script(5, 6), 2.0: script(7)}))
    engine.core.submit(submit(1), features(1.0, frames=40))
    engine.core.submit(submit(2), features(2.0, frames=60))
    engine.run()
    stats = engine.of(Stats)
    assert sum(len(s.batch_sizes) for s in stats) == len(engine.runner.batches)
    assert sum(s.tokens for s in stats) == 5
    assert sum(s.frames_padded for s in stats) == 100
    assert (stats[-1].waiting, stats[-1].running) == (0, 0)


def test_an_engine_with_nothing_to_do_says_how_things_stand() -> None:
    engine = Engine(ScriptedRunner({}))
    engine.core.step()
    assert engine.sent == [Stats(0, 0, [], 0, 0, 0, memory_bytes=700, memory_total_bytes=900)]


@given(
    data=st.data(),
    slots=st.integers(1, 5),
    budget=st.integers(1, 500),
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20),
)
def test_whatever_arrives_whenever_each_window_ends_once_with_its_own_text(
    data: st.DataObject, slots: int, budget: int, lengths: list[int]
) -> None:
    scripts = {float(i): script(*(1000 * (i + 1) + n for n in range(length))) for i, length in enumerate(lengths)}
    engine = Engine(ScriptedRunner(scripts, slots=slots), max_step_frames=budget, guard=False)
    kinds = st.sampled_from(["result", "cancel", "deadline", "admit error", "decode error"])
    fates = [data.draw(kinds, label=f"fate {i}") for i in range(len(lengths))]
    requests = [data.draw(st.sampled_from("abc"), label=f"request {i}") for i in range(len(lengths))]
    for i, fate in enumerate(fates):
        if fate == "admit error":
            engine.runner.admit_errors[float(i)] = ValueError("encode")
        elif fate == "decode error":
            engine.runner.decode_errors[float(i)] = ValueError("decode")
        deadline_ms = 3_000.0 if fate == "deadline" else None
        engine.core.submit(submit(i, requests[i], deadline_ms=deadline_ms), features(float(i), frames=50))
        for _ in range(data.draw(st.integers(0, 3), label="steps")):
            engine.core.step()
            engine.now_s += 1.0
        if fate == "cancel":
            engine.core.cancel(Cancel(i))
    while not engine.core.idle:
        engine.core.step()
        engine.now_s += 1.0
    ended = [message.id for message in engine.of(Finished)] + [message.id for message in engine.of(Failed)]
    assert len(ended) == len(set(ended))
    for i, text in engine.texts().items():
        assert text == " ".join(map(str, scripts[float(i)][:-1]))
    must_end = {i for i, fate in enumerate(fates) if fate != "cancel"}
    assert must_end <= set(ended)
    assert {i for i, fate in enumerate(fates) if fate == "result"} <= set(engine.texts())
    assert all(fates[message.id] != "result" for message in engine.of(Failed))


def test_a_text_goes_on_from_its_prefix() -> None:
    engine = Engine(ScriptedRunner({1.0: script(7, 8), 2.0: script()}))
    engine.core.submit(submit(1, prefix="5 6"), features(1.0))
    engine.core.submit(submit(2, prefix="5 6"), features(2.0))
    engine.run()
    assert engine.texts() == {1: "5 6 7 8", 2: "5 6"}


def test_a_draft_that_waits_is_told_that_a_newer_one_has_come() -> None:
    engine = Engine(ScriptedRunner({1.0: script(*range(1, 9)), 2.0: script(5)}, slots=1))
    engine.core.submit(submit(1, "file"), features(1.0))
    engine.core.step()
    for i in (2, 3):
        engine.core.submit(submit(i, "session", priority=Priority.DRAFT), features(2.0))
    assert [(message.id, message.code) for message in engine.of(Failed)] == [(2, "superseded")]
    engine.run()
    assert engine.texts().keys() == {1, 3}


def test_a_draft_that_runs_away_is_not_tried_again() -> None:
    engine = Engine(ScriptedRunner({1.0: script(*[5] * 200)}))
    engine.runner.exact_frames = 300
    engine.core.submit(submit(1, priority=Priority.DRAFT), features(1.0))
    engine.run()
    assert engine.runner.encoded == [[1.0]]
    assert engine.of(Finished)[0].guard is not None
