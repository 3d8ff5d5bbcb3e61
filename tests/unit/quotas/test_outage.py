"""A shared store that goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from structlog.testing import capture_logs

from asr_service.errors import Unavailable
from asr_service.quotas.memory import MemoryStore
from asr_service.quotas.outage import PROBE_S, RENEW_S, OutageProofStore
from asr_service.quotas.stores import Limit, Usage
from tests.fakes import nothing_left_behind, settle
from tests.unit.quotas.clock import Clock, FakeShared, Pauses, a_minute, at_once

pytestmark = pytest.mark.anyio


class Case:
    """A store with everything that it stands on."""

    def __init__(self, on_failure: Literal["local", "deny"], answer_s: float) -> None:
        self.clock = Clock()
        self.shared = FakeShared(self.clock)
        self.local = MemoryStore(clock=self.clock)
        self.pauses = Pauses()
        self.failures = 0
        self.store = OutageProofStore(
            self.shared,
            self.local,
            on_failure=on_failure,
            on_failed=self._failed,
            pause=self.pauses,
            answer_s=answer_s,
        )

    def _failed(self) -> None:
        self.failures += 1


@asynccontextmanager
async def running(on_failure: Literal["local", "deny"] = "local", answer_s: float = 60.0) -> AsyncIterator[Case]:
    case = Case(on_failure, answer_s)
    async with nothing_left_behind():
        await case.store.start()
        yield case
        await case.store.aclose()


async def test_counts_in_the_shared_store_while_it_works() -> None:
    async with running() as case:
        assert (await case.store.take("a", a_minute(1), 1)).fits
        assert not (await case.shared.look("a", a_minute(1), 1)).fits
        assert case.failures == 0


async def test_counts_by_itself_in_an_outage() -> None:
    async with running() as case:
        await case.store.take("a", a_minute(2), 2)
        case.shared.gone = True
        fits = [(await case.store.take("a", a_minute(2), 1)).fits for _ in range(3)]
        assert fits == [True, True, False]
        assert not case.store.up


async def test_refuses_in_an_outage_if_told_to() -> None:
    async with running("deny") as case:
        case.shared.gone = True
        for operation in (
            case.store.take("a", a_minute(2), 1),
            case.store.look("a", a_minute(2), 1),
            case.store.acquire("a", at_once(2), "lease"),
        ):
            with pytest.raises(Unavailable) as caught:
                await operation
            assert caught.value.retry_after_s == 5
        assert not case.local.leases


async def test_an_outage_is_logged_once_and_its_end_too() -> None:
    lines: list[MutableMapping[str, Any]]
    with capture_logs() as lines:
        async with running() as case:
            case.shared.gone = True
            for _ in range(5):
                await case.store.take("a", a_minute(9), 1)
            await case.pauses.end_one(PROBE_S)
            await settle()
            case.shared.gone = False
            await case.pauses.end_one(PROBE_S)
            await settle()
            assert case.store.up
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("error", "limits have lost their store"),
        ("info", "limits have their store again"),
    ]
    assert lines[0]["error"] == "it was unplugged"


async def test_is_used_again_as_soon_as_it_works() -> None:
    async with running("deny") as case:
        case.shared.gone = True
        with pytest.raises(Unavailable):
            await case.store.take("a", a_minute(1), 1)
        case.shared.gone = False
        await case.pauses.end_one(PROBE_S)
        await settle()
        assert (await case.store.take("a", a_minute(1), 1)).fits
        assert not (await case.shared.look("a", a_minute(1), 1)).fits


async def test_only_the_first_waits_for_a_store_that_hangs() -> None:
    async with running(answer_s=0.01) as case:
        case.shared.hangs = True
        await case.store.take("a", a_minute(9), 1)
        assert not case.store.up
        await settle()
        asked = case.shared.asked
        for _ in range(5):
            await case.store.take("a", a_minute(9), 1)
        assert case.shared.asked == asked
        assert case.failures >= 1


async def test_who_has_to_queue_at_a_store_that_answers_others_goes_on_waiting() -> None:
    async with running(answer_s=0.05) as case:
        gate, take = asyncio.Event(), case.shared.take

        async def queued(key: str, limit: Limit, cost: int) -> Usage:
            await gate.wait()
            return await take(key, limit, cost)

        case.shared.take = queued  # type: ignore[method-assign]
        waiting = asyncio.create_task(case.store.take("a", a_minute(9), 1))
        for _ in range(12):
            await case.store.look("b", a_minute(9), 1)
            await asyncio.sleep(0.01)  # noqa: TID251 - how long the store lets wait is what is tested
        gate.set()
        assert (await waiting).remaining == 8
        assert case.store.up


async def test_a_store_that_is_not_there_at_the_start_is_an_outage() -> None:
    case = Case("local", 60.0)
    case.shared.gone = True
    await case.store.start()
    assert not case.store.up
    assert (await case.store.take("a", a_minute(1), 1)).fits
    await case.store.aclose()


async def test_leases_are_renewed_while_they_are_held() -> None:
    async with running() as case:
        await case.store.acquire("a", at_once(2), "1")
        await case.store.acquire("a", at_once(2), "2")
        await case.store.release("a", "2")
        await case.pauses.end_one(RENEW_S)
        await settle()
        assert case.shared.renewed == [{"a": ("1",)}]


async def test_those_at_once_are_counted_through_an_outage() -> None:
    """From before it, and from it after its end, when the shared store may know of none."""
    async with running() as case:
        await case.store.acquire("a", at_once(2), "before")
        case.shared.gone = True
        assert (await case.store.acquire("a", at_once(2), "during")).fits
        assert not (await case.store.acquire("a", at_once(2), "too many")).fits
        case.shared.drop("a", "before")
        case.shared.gone = False
        await case.pauses.end_one(PROBE_S)
        await settle()
        assert case.shared.leases["a"] == {"before", "during"}


async def test_a_lease_that_is_given_back_while_it_is_renewed_does_not_live_on() -> None:
    async with running() as case:
        await case.store.acquire("a", at_once(2), "1")
        answering, renewed = asyncio.Event(), case.shared.renew

        async def slowly(leases: Any) -> None:
            answering.set()
            await settle()
            await renewed(leases)

        case.shared.renew = slowly  # type: ignore[method-assign]
        await case.pauses.end_one(RENEW_S)
        await answering.wait()
        await case.store.release("a", "1")
        await settle()
        await settle()
        await settle()
        assert not case.shared.leases


async def test_giving_back_never_fails() -> None:
    async with running("deny") as case:
        await case.store.acquire("a", at_once(1), "1")
        case.shared.gone = True
        await case.store.release("a", "1")
        assert not case.local.leases
