"""Admission: both bounds, when to come back, and the way out."""

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.admission import MAX_RETRY_S, MIN_RETRY_S, Admission, Ticket
from asr_service.errors import Overloaded, ShuttingDown


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, *, requests: int = 3, audio_s: float = 100) -> Admission:
    return Admission(max_requests=requests, max_audio_s=audio_s, clock=clock or Clock())


def work(door: Admission, clock: Clock, audio_s: float, seconds: float) -> None:
    """One request from door to door."""
    with door.enter() as ticket:
        ticket.decoded(audio_s)
        clock.now += seconds
        ticket.transcribed(audio_s)


def fail(door: Admission, clock: Clock, audio_s: float, seconds: float, error: BaseException) -> None:
    """One request that ends with an error."""
    with door.enter() as ticket:
        ticket.decoded(audio_s)
        clock.now += seconds
        raise error


def test_requests_are_bounded_and_leave_room_behind() -> None:
    refusals: list[str] = []
    door = Admission(max_requests=2, max_audio_s=100, on_refused=refusals.append)

    with door.enter():
        with door.enter():
            assert door.requests == 2
            with pytest.raises(Overloaded, match="2 requests are in work or waiting") as caught, door.enter():
                raise AssertionError("it is full")
            assert (caught.value.status, caught.value.code) == (503, "overloaded")
            assert caught.value.retry_after_s is not None
            assert f"in {caught.value.retry_after_s:.0f} s" in caught.value.message
        with door.enter():
            assert door.requests == 2

    assert door.requests == 0
    assert refusals == ["requests"]


def test_audio_is_bounded_when_its_length_is_known() -> None:
    refusals: list[str] = []
    door = Admission(max_requests=9, max_audio_s=100, on_refused=refusals.append)

    with door.enter() as first, door.enter() as second:
        first.decoded(60)
        with pytest.raises(Overloaded, match="60 s of audio are waiting"):
            second.decoded(41)
        assert door.audio_s == 60
        first.transcribed(20)
        second.decoded(60)
        assert door.audio_s == 100
        with pytest.raises(Overloaded, match="100 s of audio are waiting"), door.enter():
            raise AssertionError("it is full")
        first.transcribed(1)
        with door.enter():
            assert door.requests == 3

    assert door.audio_s == 0
    assert refusals == ["audio", "audio"]


def test_what_is_done_before_the_length_is_known_does_not_count() -> None:
    door = admission()
    with door.enter() as ticket:
        ticket.transcribed(30)
        assert door.audio_s == 0
        ticket.decoded(50)
        assert door.audio_s == 20


def test_a_recording_that_is_longer_than_the_bound_gets_in_alone() -> None:
    door = admission(audio_s=100)

    with door.enter() as long, door.enter() as short:
        long.decoded(5000)
        assert door.audio_s == 5000
        with pytest.raises(Overloaded):
            short.decoded(1)
        with pytest.raises(Overloaded), door.enter():
            raise AssertionError("the long one fills it")
        long.transcribed(4950)
        short.decoded(1)
    with door.enter() as short, door.enter() as long:
        short.decoded(1)
        with pytest.raises(Overloaded):
            long.decoded(5000)


def test_several_recordings_of_one_request_add_up() -> None:
    door = admission()
    with door.enter() as ticket, door.enter() as other:
        ticket.decoded(40)
        ticket.decoded(50)
        assert door.audio_s == 90
        with pytest.raises(Overloaded):
            other.decoded(11)


@pytest.mark.parametrize("error", [RuntimeError(), asyncio.CancelledError(), Overloaded("No.")])
def test_everything_is_free_again_however_a_request_ends(error: BaseException) -> None:
    door = admission()

    with pytest.raises(type(error)):
        fail(door, Clock(), 90, 0, error)

    assert (door.requests, door.audio_s) == (0, 0)


def test_the_time_to_come_back_follows_the_backlog_and_the_recent_speed() -> None:
    clock = Clock()
    door = admission(clock, audio_s=10_000)
    for _ in range(100):
        work(door, clock, audio_s=100, seconds=2)

    with door.enter() as ticket:
        ticket.decoded(1000)
        assert door.retry_after_s == pytest.approx(1000 / 50, rel=0.1)
        clock.now += 10
        ticket.transcribed(500)
        assert door.retry_after_s == pytest.approx(500 / 50, rel=0.1)

    for _ in range(100):
        work(door, clock, audio_s=10, seconds=2)
    with door.enter() as ticket:
        ticket.decoded(1000)
        assert door.retry_after_s == pytest.approx(1000 / 5, rel=0.1)


def test_time_without_work_and_slow_uploads_say_nothing_about_the_speed() -> None:
    clock = Clock()
    door = admission(clock, audio_s=10_000)
    for _ in range(100):
        work(door, clock, audio_s=100, seconds=2)

    clock.now += 3600
    with door.enter() as ticket:
        clock.now += 3600
        ticket.decoded(1000)
        assert door.retry_after_s == pytest.approx(1000 / 50, rel=0.1)


def test_silence_counts_as_done_but_given_up_work_does_not() -> None:
    clock = Clock()
    door = admission(clock, audio_s=10_000)
    for _ in range(100):
        with door.enter() as ticket:
            ticket.decoded(100)
            clock.now += 2
            ticket.transcribed(5)
    with door.enter() as ticket:
        ticket.decoded(1000)
        assert door.retry_after_s == pytest.approx(1000 / 50, rel=0.1)
        assert door.retry_after_s < MAX_RETRY_S

    for _ in range(100):
        with pytest.raises(RuntimeError):
            fail(door, clock, 100, 2, RuntimeError())
    with door.enter() as ticket:
        ticket.decoded(1000)
        assert door.retry_after_s == MAX_RETRY_S


def test_requests_that_are_not_decoded_yet_count_as_recent_ones_did() -> None:
    clock = Clock()
    door = admission(clock, requests=99, audio_s=10_000)
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(door.enter())
        assert door.retry_after_s == 30, "a guess, before anything was measured"
    for _ in range(100):
        work(door, clock, audio_s=60, seconds=6)

    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(door.enter())
        assert door.retry_after_s == pytest.approx(5 * 60 / 10, rel=0.1)


def test_the_time_to_come_back_has_bounds() -> None:
    clock = Clock()
    door = admission(clock, audio_s=10_000)
    assert door.retry_after_s == MIN_RETRY_S
    with door.enter() as ticket:
        ticket.decoded(1)
        assert door.retry_after_s == MIN_RETRY_S
        clock.now += 1e6  # The engine hangs.
        assert door.retry_after_s == MAX_RETRY_S


@pytest.mark.anyio
async def test_a_closed_door_lets_nobody_in_but_those_inside_finish() -> None:
    refusals: list[str] = []
    door = Admission(max_requests=9, max_audio_s=100, on_refused=refusals.append)
    emptied = asyncio.ensure_future(door.emptied())

    await emptied
    with door.enter() as ticket:
        door.close()
        emptied = asyncio.ensure_future(door.emptied())
        with pytest.raises(ShuttingDown) as caught, door.enter():
            raise AssertionError("it is closed")
        assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "shutting_down", 5)
        ticket.decoded(10)
        await asyncio.sleep(0)  # noqa: TID251 - gives way to the other task, takes no time
        assert not emptied.done()

    await emptied
    assert door.closed
    assert refusals == ["shutting_down"]


SECONDS = st.integers(0, 200)
STEPS = st.lists(
    st.one_of(
        st.just(("enter", 0, 0)),
        st.tuples(st.sampled_from(["decoded", "transcribed"]), st.integers(0, 2), SECONDS),
        st.tuples(st.sampled_from(["leave", "fail"]), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.integers(0, 100_000)),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_bounds_hold_whatever_happens_and_in_the_end_nothing_is_left(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    door = admission(clock, requests=3, audio_s=100)
    inside: list[tuple[Ticket, ExitStack]] = []

    def step(what: str, who: int, amount: int) -> None:
        if what == "enter":
            stack = ExitStack()
            inside.append((stack.enter_context(door.enter()), stack))
        elif what == "wait":
            clock.now += amount / 100
        elif who < len(inside):
            ticket, stack = inside[who]
            if what in ("leave", "fail"):
                inside.pop(who)
            if what == "leave":
                stack.close()
            elif what == "fail":
                error = RuntimeError()
                with pytest.raises(RuntimeError), stack:
                    raise error
            elif what == "decoded":
                ticket.decoded(amount)
            else:
                ticket.transcribed(amount)

    for what, who, amount in steps:
        before = (door.requests, door.audio_s)
        refused = False
        try:
            step(what, who, amount)
        except Overloaded:
            refused = True
        assert not refused or (door.requests, door.audio_s) == before, "a refusal changes nothing"
        assert door.requests == len(inside) <= 3
        assert door.audio_s <= 100 or sum(ticket.left_s > 0 for ticket, _ in inside) == 1
        assert MIN_RETRY_S <= door.retry_after_s <= MAX_RETRY_S

    for _, stack in inside:
        stack.close()
    assert (door.requests, door.audio_s) == (0, 0)
