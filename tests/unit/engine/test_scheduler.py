"""The batching policy, without a runner."""

import numpy as np
import pytest

from asr_service.domain import WindowOptions
from asr_service.engine.scheduler import Scheduler
from asr_service.engine.sequence import Sequence
from asr_service.models.base import Features
from asr_service.text.guard import OutputGuard


def sequence(sequence_id: int, request_id: str = "r", frames: int = 100) -> Sequence:
    features = Features(np.zeros((1, 1), dtype=np.float32), frames, 1.0)
    return Sequence(sequence_id, request_id, features, WindowOptions(), OutputGuard(1.0, 10), 0.0, frames)


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
