"""Failed logins by address."""

import pytest

from asr_service.quotas.logins import FailedLogins
from asr_service.quotas.memory import MemoryStore
from asr_service.quotas.outage import OutageProofStore
from tests.unit.quotas.clock import Clock, FakeShared, Pauses

pytestmark = pytest.mark.anyio


async def test_after_too_many_failures_an_address_has_to_wait() -> None:
    clock, limited = Clock(), list[str]()
    logins = FailedLogins(2, MemoryStore(clock=clock), on_limited=limited.append, clock=clock)
    await logins.failed_login("192.0.2.1")
    clock.pass_by(20)
    assert await logins.may_try("192.0.2.1") is None
    await logins.failed_login("192.0.2.1")
    assert await logins.may_try("192.0.2.1") == 40
    assert await logins.may_try("192.0.2.2") is None
    assert limited == ["failed_logins"]
    clock.pass_by(40)
    assert await logins.may_try("192.0.2.1") is None


async def test_a_network_of_ipv6_is_one_address() -> None:
    clock = Clock()
    logins = FailedLogins(1, MemoryStore(clock=clock), clock=clock)
    await logins.failed_login("2001:db8::1")
    assert await logins.may_try("2001:db8::2") == 60
    assert await logins.may_try("2001:db8:0:1::1") is None


async def test_processes_count_together() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    one, other = (FailedLogins(2, store, clock=clock) for _ in range(2))
    await one.failed_login("192.0.2.1")
    await other.failed_login("192.0.2.1")
    assert await other.may_try("192.0.2.1") == 60
    await one.failed_login("192.0.2.1")
    assert await one.may_try("192.0.2.1") == 60


async def test_no_limit() -> None:
    clock = Clock()
    logins = FailedLogins(0, MemoryStore(clock=clock), clock=clock)
    for _ in range(100):
        await logins.failed_login("192.0.2.1")
    assert await logins.may_try("192.0.2.1") is None


async def test_counts_by_itself_while_the_store_refuses() -> None:
    clock = Clock()
    shared = FakeShared(clock)
    shared.gone = True
    store = OutageProofStore(shared, MemoryStore(clock=clock), on_failure="deny", pause=Pauses())
    logins = FailedLogins(1, store, clock=clock)
    await logins.failed_login("192.0.2.1")
    assert await logins.may_try("192.0.2.1") == 60
    await store.aclose()
