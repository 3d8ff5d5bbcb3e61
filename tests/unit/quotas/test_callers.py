"""What a caller may use, and what it is told."""

import contextlib
import math

import pytest

from asr_service.callers import Caller, CallerLimits
from asr_service.errors import AudioTooLong, RateLimited
from asr_service.quotas.callers import Quotas, group, network
from asr_service.quotas.memory import MemoryStore
from tests.unit.quotas.clock import Clock

pytestmark = pytest.mark.anyio

NO_LIMITS = CallerLimits(0, 0, 0, 0)


class Case:
    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.limited: list[str] = []
        defaults = CallerLimits(**{"requests_per_minute": 0, "audio_s_per_minute": 0, "audio_s_per_day": 0} | limits)
        self.quotas = Quotas(defaults, self.store, on_limited=self.limited.append)

    async def request(self, seconds: float = 0.0, caller: Caller | None = None) -> None:
        visit = self.quotas.visit(caller or someone())
        async with visit.enter():
            await visit.charge(seconds)


def someone(name: str = "key:a", limits: CallerLimits | None = None) -> Caller:
    return Caller(name, frozenset(("transcribe",)), limits or CallerLimits())


async def test_without_limits_everything_is_allowed() -> None:
    case = Case()
    for _ in range(100):
        await case.request(1e6)
    assert case.limited == []


async def test_requests_of_a_minute() -> None:
    case = Case(requests_per_minute=2)
    await case.request()
    case.clock.pass_by(15)
    await case.request()
    with pytest.raises(RateLimited, match="sent 2 requests within a minute") as caught:
        await case.request()
    assert caught.value.retry_after_s == 45
    assert case.limited == ["requests"]
    case.clock.pass_by(45)
    await case.request()


async def test_a_recording_that_does_not_fit_is_told_when_it_would() -> None:
    case = Case(audio_s_per_minute=60)
    await case.request(40)
    case.clock.pass_by(10)
    with pytest.raises(RateLimited, match=r"lasts 30 s, and of the 60 s .* a minute, 20 s are left") as caught:
        await case.request(29.2)
    assert caught.value.retry_after_s == 50
    await case.request(20)
    with pytest.raises(RateLimited, match="sent 60 s of audio within a minute"):
        await case.request(0)
    assert case.limited == ["audio_minute", "audio_minute"]


async def test_a_recording_that_can_never_fit_is_told_so() -> None:
    case = Case(audio_s_per_minute=60, audio_s_per_day=100)
    with pytest.raises(AudioTooLong, match="lasts 61 s, and you may send 60 s of audio a minute"):
        await case.request(60.5)
    await case.request(60)
    assert case.limited == []


async def test_a_recording_that_is_over_the_day_uses_nothing_of_the_minute() -> None:
    case = Case(audio_s_per_minute=60, audio_s_per_day=100)
    await case.request(60)
    case.clock.pass_by(60)
    with pytest.raises(RateLimited, match=r"a day, 40 s are left") as caught:
        await case.request(50)
    assert math.isclose(caught.value.retry_after_s or 0, 86_340)
    await case.request(40)


async def test_audio_counts_in_whole_seconds() -> None:
    case = Case(audio_s_per_minute=3)
    await case.request(0.2)
    await case.request(1.0000001)
    await case.request(0.9)
    with pytest.raises(RateLimited):
        await case.request(0.1)


async def test_no_audio_counts_nothing() -> None:
    case = Case(audio_s_per_minute=1)
    for _ in range(5):
        await case.request(0)


async def test_requests_at_once() -> None:
    case = Case(concurrent=2)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(case.quotas.visit(someone()).enter())
        await stack.enter_async_context(case.quotas.visit(someone()).enter())
        with pytest.raises(RateLimited, match="2 requests in work") as caught:
            await case.request()
        assert caught.value.retry_after_s == 1
        await case.request(caller=someone("key:b"))
    await case.request()
    assert not case.store.leases
    assert case.limited == ["concurrent"]


async def test_whoever_is_refused_has_used_up_nothing() -> None:
    case = Case(concurrent=1, requests_per_minute=2, audio_s_per_minute=5)
    async with case.quotas.visit(someone()).enter():
        with pytest.raises(RateLimited):
            await case.request()
    await case.request(5)
    with pytest.raises(RateLimited):
        await case.request()
    assert not case.store.leases
    case.clock.pass_by(59.9)
    with pytest.raises(RateLimited):
        await case.request()
    case.clock.pass_by(0.2)
    await case.request()
    await case.request()


async def test_a_request_that_fails_gives_its_place_back_and_nothing_else() -> None:
    case = Case(concurrent=1, requests_per_minute=2)
    visit = case.quotas.visit(someone())
    with pytest.raises(ZeroDivisionError):
        async with visit.enter():
            raise ZeroDivisionError
    await case.request()
    with pytest.raises(RateLimited):
        await case.request()


async def test_limits_of_a_caller_come_before_those_of_all() -> None:
    case = Case(requests_per_minute=1)
    own = someone("key:own", CallerLimits(requests_per_minute=2))
    free = someone("key:free", CallerLimits(requests_per_minute=0))
    await case.request(caller=own)
    await case.request(caller=own)
    with pytest.raises(RateLimited):
        await case.request(caller=own)
    for _ in range(5):
        await case.request(caller=free)


async def test_says_where_the_caller_stands() -> None:
    case = Case(concurrent=4, requests_per_minute=9, audio_s_per_minute=50, audio_s_per_day=500)
    visit = case.quotas.visit(someone())
    async with visit.enter():
        await visit.charge(20)
    standings = {limit.name: usage.remaining for limit, usage in visit.standings.items()}
    assert standings == {"concurrent": 3, "audio_minute": 30, "audio_day": 480, "requests": 8}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_addresses_that_one_host_may_have_are_one(address: str, expected: str) -> None:
    assert network(address) == expected
    assert group(f"address:{address}") == f"address:{expected}"


def test_names_of_any_length_become_keys_of_a_bounded_one() -> None:
    assert group("token:alice") == "token:alice"
    long = group("token:" + "a" * 5000)
    assert len(long) < 100
    assert long != group("token:" + "a" * 5001)
