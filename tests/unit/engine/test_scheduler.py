"""The batching policy, without a runner."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.domain import Priority, WindowOptions
from asr_service.engine.scheduler import Scheduler
from asr_service.engine.sequence import Sequence
from asr_service.models.base import Features
from asr_service.text.guard import OutputGuard


def sequence(
    sequence_id: int, request_id: str = "r", frames: int = 100, priority: Priority = Priority.NORMAL
) -> Sequence:
    features = Features(np.zeros((1, 1), dtype=np.float32), frames, 1.0)
    return Sequence(sequence_id, request_id, features, WindowOptions(), OutputGuard(1.0, 10), 0.0, frames, priority)


def ids(sequences: Iterable[Sequence]) -> list[int]:
    return [member.id for member in sequences]


def test_an_engine_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        Scheduler(0, 100)


def test_the_last_row_moves_into_the_gap() -> None:
    scheduler = Scheduler(4, 1_000)
    members = [sequence(i) for i in range(4)]
    for member in members:
        scheduler.add(member)
    assert [scheduler.start(member) for member in scheduler.admit()] == [0, 1, 2, 3]
    finish = scheduler.finish(members[1])
    assert (finish.row, finish.moved_from) == (1, 3)
    assert [s.id for s in scheduler.running] == [0, 3, 2]
    finish = scheduler.finish(members[2])
    assert (finish.row, finish.moved_from) == (2, None)


def test_requests_take_turns_and_keep_their_own_order() -> None:
    scheduler = Scheduler(8, 10_000)
    for i in range(3):
        scheduler.add(sequence(i, "a"))
    scheduler.add(sequence(10, "b"))
    scheduler.add(sequence(11, "b"))
    assert [s.id for s in scheduler.admit()] == [0, 10, 1, 11, 2]


def test_waiting_counts_what_is_neither_running_nor_ended() -> None:
    scheduler = Scheduler(1, 1_000)
    first, second = sequence(1), sequence(2)
    scheduler.add(first)
    scheduler.add(second)
    assert scheduler.waiting_count == 2
    for member in scheduler.admit():
        scheduler.start(member)
    assert scheduler.waiting_count == 1
    scheduler.drop(second)
    assert (scheduler.waiting_count, scheduler.idle) == (0, False)
    scheduler.finish(first)
    assert scheduler.idle


def test_final_windows_go_first_and_drafts_take_turns_with_recordings() -> None:
    scheduler = Scheduler(16, 10_000)
    for i in range(3):
        scheduler.add(sequence(i, "file"))
    for i in range(10, 13):
        scheduler.add(sequence(i, f"session {i}", priority=Priority.DRAFT))
    for i in (20, 21):
        scheduler.add(sequence(i, f"session {i}", priority=Priority.FINAL))
    assert ids(scheduler.admit()) == [20, 21, 0, 10, 1, 11, 2, 12]


def test_recordings_and_drafts_keep_their_turns_from_step_to_step() -> None:
    scheduler = Scheduler(16, 100)
    for i in range(3):
        scheduler.add(sequence(i, "file"))
        scheduler.add(sequence(10 + i, f"session {i}", priority=Priority.DRAFT))
    assert [ids(scheduler.admit()) for _ in range(6)] == [[0], [10], [1], [11], [2], [12]]


def test_a_newer_draft_takes_the_place_of_the_one_that_still_waits() -> None:
    scheduler = Scheduler(16, 10_000)
    scheduler.add(sequence(1, "a", priority=Priority.DRAFT))
    scheduler.add(sequence(2, "b", priority=Priority.DRAFT))
    assert ids(scheduler.add(sequence(3, "a", priority=Priority.DRAFT))) == [1]
    assert scheduler.find(1) is None
    assert scheduler.waiting_count == 2
    assert ids(scheduler.admit()) == [3, 2]


@pytest.mark.parametrize("priority", [Priority.FINAL, Priority.NORMAL])
def test_a_window_that_is_no_draft_drops_the_draft_of_its_request(priority: Priority) -> None:
    scheduler = Scheduler(16, 10_000)
    scheduler.add(sequence(1, "a", priority=Priority.DRAFT))
    scheduler.add(sequence(2, "b", priority=Priority.DRAFT))
    assert ids(scheduler.add(sequence(3, "a", priority=priority))) == [1]
    assert ids(scheduler.admit()) == [3, 2]


def test_a_draft_that_runs_is_not_replaced() -> None:
    scheduler = Scheduler(16, 10_000)
    scheduler.add(sequence(1, "a", priority=Priority.DRAFT))
    for member in scheduler.admit():
        scheduler.start(member)
    assert scheduler.add(sequence(2, "a", priority=Priority.DRAFT)) == ()
    assert ids(scheduler.running) == [1]


def test_drafts_leave_slots_for_those_who_wait_for_a_final_text() -> None:
    scheduler = Scheduler(16, 10_000)
    for i in range(20):
        scheduler.add(sequence(i, f"session {i}", priority=Priority.DRAFT))
    for member in scheduler.admit():
        scheduler.start(member)
    assert len(scheduler.running) == 14
    scheduler.add(sequence(30, "session 30", priority=Priority.FINAL))
    scheduler.add(sequence(31, "file"))
    assert ids(scheduler.admit()) == [30, 31]


def test_drafts_begin_together() -> None:
    scheduler = Scheduler(16, 10_000)
    for i in range(2):
        scheduler.add(sequence(i, f"session {i}", priority=Priority.DRAFT))
    first = scheduler.admit()
    for member in first:
        scheduler.start(member)
    for i in range(2, 5):
        scheduler.add(sequence(i, f"session {i}", priority=Priority.DRAFT))
    scheduler.add(sequence(10, "session 10", priority=Priority.FINAL))
    scheduler.add(sequence(11, "file"))
    others = scheduler.admit()
    assert ids(others) == [10, 11]
    for member in others:
        scheduler.start(member)
    for member in first:
        assert scheduler.admit() == []
        scheduler.finish(member)
    assert ids(scheduler.admit()) == [2, 3, 4]


def test_a_draft_that_runs_for_long_keeps_others_waiting_for_some_steps_only() -> None:
    scheduler = Scheduler(16, 10_000)
    long, other = (sequence(i, f"session {i}", priority=Priority.DRAFT) for i in (1, 2))
    scheduler.add(long)
    scheduler.start(*scheduler.admit())
    scheduler.add(other)
    while not (admitted := scheduler.admit()):
        long.steps += 1
    assert admitted == [other]
    assert 6 < long.steps < 20


def test_one_slot_serves_drafts_too() -> None:
    scheduler = Scheduler(1, 10_000)
    scheduler.add(sequence(1, priority=Priority.DRAFT))
    assert ids(scheduler.admit()) == [1]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abc"), st.sampled_from(Priority), st.integers(1, 300)),
            st.sampled_from(["admit", "finish"]),
        ),
        max_size=60,
    ),
    st.integers(1, 6),
)
def test_every_sequence_ends_once_and_nothing_that_matters_is_dropped(
    events: list[tuple[str, Priority, int] | str], slots: int
) -> None:
    scheduler = Scheduler(slots, 400)
    added: dict[int, Sequence] = {}
    stale: list[int] = []
    ended: list[int] = []
    for number, event in enumerate([*events, *["admit", "finish"] * (slots * 60)]):
        if event == "admit":
            batch = scheduler.admit()
            assert len(batch) <= 1 or sum(member.frames for member in batch) <= 400
            for member in batch:
                scheduler.start(member)
            assert len(scheduler.running) <= slots
        elif event == "finish" and scheduler.running:
            ended.append(scheduler.finish(scheduler.running[0]).sequence.id)
        elif isinstance(event, tuple):
            request_id, priority, frames = event
            added[number] = sequence(number, request_id, frames, priority)
            stale += ids(scheduler.add(added[number]))
        drafts = [member.request_id for member in scheduler.waiting() if member.priority is Priority.DRAFT]
        assert len(drafts) == len(set(drafts))
    assert scheduler.idle
    assert sorted(stale + ended) == sorted(added)
    assert all(added[i].priority is Priority.DRAFT for i in stale)
