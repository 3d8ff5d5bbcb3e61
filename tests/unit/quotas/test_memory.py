"""Moving windows and leases in one process."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.quotas.memory import MemoryStore
from tests.unit.quotas.clock import Clock, a_day, a_minute, at_once

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Step:
    pause_s: float
    cost: int


STEPS = st.lists(
    st.builds(Step, st.floats(0, 45, allow_nan=False, allow_subnormal=False), st.integers(1, 10)), max_size=60
)


@given(STEPS, st.integers(10, 25))
async def test_no_window_holds_more_than_the_limit(steps: list[Step], amount: int) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    taken: list[tuple[float, int]] = []
    for step in steps:
        clock.pass_by(step.pause_s)
        if (await store.take("a", a_minute(amount), step.cost)).fits:
            taken.append((clock.now_s, step.cost))
    for end_s, _ in taken:
        assert sum(cost for moment, cost in taken if end_s - 60 < moment <= end_s) <= amount


@given(STEPS, st.integers(10, 25))
async def test_what_is_refused_fits_after_the_wait_and_not_before(steps: list[Step], amount: int) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    limit = a_minute(amount)
    for step in steps:
        clock.pass_by(step.pause_s)
        usage = await store.take("a", limit, step.cost)
        if not usage.fits:
            assert 0 < usage.wait_s <= 60
            clock.pass_by(usage.wait_s * 0.99)
            assert not (await store.look("a", limit, step.cost)).fits
            clock.pass_by(usage.wait_s * 0.01 + 1e-6)
            assert (await store.look("a", limit, step.cost)).fits


async def test_tells_what_is_left_and_when_more_will_be() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    assert (await store.take("a", a_minute(5), 2)).remaining == 3
    clock.pass_by(20)
    assert (await store.take("a", a_minute(5), 2)).remaining == 1

    usage = await store.take("a", a_minute(5), 4)

    assert (usage.fits, usage.remaining, usage.reset_s, usage.wait_s) == (False, 1, 40.0, 60.0)


async def test_looking_uses_nothing() -> None:
    store = MemoryStore(clock=Clock())
    for _ in range(3):
        assert (await store.look("a", a_minute(1), 1)).fits
    assert (await store.take("a", a_minute(1), 1)).fits


async def test_callers_and_limits_are_counted_apart() -> None:
    store = MemoryStore(clock=Clock())
    assert (await store.take("a", a_minute(1), 1)).fits
    assert (await store.take("b", a_minute(1), 1)).fits
    assert (await store.take("a", a_day(1), 1)).fits
    assert not (await store.take("a", a_minute(1), 1)).fits


async def test_callers_that_have_gone_are_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(1000):
        await store.take(f"address:{number}", a_minute(5), 1)
        clock.pass_by(1)
    assert len(store) <= 61


async def test_a_caller_who_stays_is_not_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.take("stays", a_minute(3), 1)
    for number in range(5):
        await store.take(f"goes:{number}", a_minute(3), 1)
        clock.pass_by(11)
    assert (await store.take("stays", a_minute(3), 1)).remaining == 1


async def test_only_so_many_at_once() -> None:
    store = MemoryStore(clock=Clock())
    assert (await store.acquire("a", at_once(2), "1")).remaining == 1
    assert (await store.acquire("a", at_once(2), "2")).remaining == 0
    assert not (await store.acquire("a", at_once(2), "3")).fits
    assert (await store.acquire("b", at_once(2), "4")).fits
    await store.release("a", "1")
    assert (await store.acquire("a", at_once(2), "3")).fits


async def test_a_lease_that_is_not_held_can_be_given_back() -> None:
    store = MemoryStore(clock=Clock())
    await store.release("a", "1")
    assert not store.leases
