"""A window that is taken back before it is prepared is heard of no more; one that was put is cancelled after it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from asr_service.engine.intake import Intake
from asr_service.engine.messages import Cancel, Submit
from tests.unit.engine.scripted import submit


class Preparing:
    """Prepares a window to its number, each when the test lets it."""

    def __init__(self) -> None:
        self.put: list[int | Cancel] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.intake: Intake[int] = Intake(self._prepare, self.put.append)

    def _prepare(self, message: Submit) -> int:
        self.begun.release()
        assert self.go_on.acquire(timeout=10)
        return message.id

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Works while the block runs, and through with what has begun when it ends."""
        thread = threading.Thread(target=self.intake.work)
        thread.start()
        try:
            yield
        finally:
            self.intake.close()
            self.go_on.release()
            thread.join(10)
        assert not thread.is_alive()


def test_windows_are_prepared_in_order() -> None:
    preparing = Preparing()
    with preparing.at_work():
        for number in (1, 2, 3):
            preparing.intake.add(submit(number))
            assert preparing.begun.acquire(timeout=10)
            preparing.go_on.release()
    assert preparing.put == [1, 2, 3]


def test_what_waits_is_taken_back_without_a_word() -> None:
    preparing = Preparing()
    preparing.intake.add(submit(1))
    preparing.intake.add(submit(2))
    preparing.intake.add(submit(3))
    preparing.intake.cancel(Cancel(2))
    with preparing.at_work():
        assert preparing.begun.acquire(timeout=10)
        preparing.go_on.release()
        assert preparing.begun.acquire(timeout=10)
    assert preparing.put == [1, 3]


def test_what_is_being_prepared_is_taken_back_too() -> None:
    preparing = Preparing()
    preparing.intake.add(submit(1))
    preparing.intake.add(submit(2))
    with preparing.at_work():
        assert preparing.begun.acquire(timeout=10)
        preparing.intake.cancel(Cancel(1))
        preparing.go_on.release()
        assert preparing.begun.acquire(timeout=10)
    assert preparing.put == [2]


def test_what_was_put_is_cancelled_after_it() -> None:
    preparing = Preparing()
    preparing.intake.add(submit(1))
    with preparing.at_work():
        assert preparing.begun.acquire(timeout=10)
        preparing.go_on.release()
        preparing.intake.add(submit(2))
        assert preparing.begun.acquire(timeout=10)
        preparing.intake.cancel(Cancel(1))
    assert preparing.put == [1, Cancel(1), 2]


def test_an_error_ends_the_work() -> None:
    def fail(message: Submit) -> int:
        raise RuntimeError("no")

    intake: Intake[int] = Intake(fail, lambda prepared: None)
    intake.add(submit(1))
    with pytest.raises(RuntimeError):
        intake.work()
