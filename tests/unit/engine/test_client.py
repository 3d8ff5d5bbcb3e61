"""The client supervises real processes; what they do is scripted."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from asr_service.domain import WindowOptions
from asr_service.engine.client import EngineClient
from asr_service.engine.health import Circuit
from asr_service.engine.messages import EngineConfig, Stats
from asr_service.errors import EngineCrashed, EngineError, EngineNotReady, ModelUnavailable
from asr_service.ipc import spawn

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}

pytestmark = pytest.mark.anyio


class Watch:
    """Counts restarts and keeps stats, with events to wait for."""

    def __init__(self) -> None:
        self.restarts = 0
        self.stats: asyncio.Queue[Stats] = asyncio.Queue()
        self.states: asyncio.Queue[str | None] = asyncio.Queue()

    def on_restart(self) -> None:
        self.restarts += 1


@asynccontextmanager
async def engine(
    scratch: Path, watch: Watch | None = None, model: str = "scripted", **options: Any
) -> AsyncIterator[EngineClient]:
    watch = watch or Watch()
    client = EngineClient(
        EngineConfig(model, cache_dir=str(scratch)),
        ENVIRONMENT,
        on_stats=watch.stats.put_nowait,
        on_restart=watch.on_restart,
        on_state=watch.states.put_nowait,
        module="tests.unit.engine.scripted_process",
        backoff_s=(0.0,),
        **options,
    )
    await client.start()
    try:
        yield client
    finally:
        await client.aclose()


def say(what: str) -> WindowOptions:
    return WindowOptions(prompt=what)


async def test_a_window_is_answered(tmp_path: Path) -> None:
    started: list[str | None] = []
    async with engine(tmp_path) as client:
        await client.wait_ready()
        assert client.model is not None
        assert client.model.name == "scripted"
        result = await client.transcribe("r", b"1234", say("say hello"), on_started=started.append)
        assert (result.text, result.language, result.timings.decode_steps) == ("hello 4", "en", 4)
        assert started == ["en"]


async def test_what_comes_before_the_model_is_loaded_waits_for_it(tmp_path: Path) -> None:
    async with engine(tmp_path) as client:
        assert (await client.transcribe("r", b"", say("say early"))).text == "early 0"


async def test_a_large_window_passes_whole(tmp_path: Path) -> None:
    async with engine(tmp_path) as client:
        results = await asyncio.gather(*(client.transcribe("r", bytes(960_000), say("say x")) for _ in range(8)))
        assert {result.text for result in results} == {"x 960000"}


async def test_an_error_reaches_its_own_window_only(tmp_path: Path) -> None:
    async with engine(tmp_path) as client:
        bad, good = await asyncio.gather(
            client.transcribe("r", b"", say("fail")),
            client.transcribe("r", b"", say("say fine")),
            return_exceptions=True,
        )
        assert isinstance(bad, EngineError)
        assert not isinstance(good, BaseException)
        assert good.text == "fine 0"


async def test_cancelling_the_call_cancels_the_window(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch) as client:
        started = asyncio.Event()
        call = asyncio.create_task(client.transcribe("r", b"", say("hang"), on_started=lambda language: started.set()))
        await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await watch.stats.get()).waiting == 1


async def test_a_killed_engine_is_restarted_and_gets_its_windows_again(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch) as client:
        await client.wait_ready()
        calls = [client.transcribe("r", b"", say(f"say {i}")) for i in range(20)]
        calls.append(client.transcribe("r", b"", say("die once")))
        calls += [client.transcribe("r", b"", say(f"say {i}")) for i in range(20, 40)]
        texts = [result.text for result in await asyncio.gather(*calls)]
        assert texts == [f"{i} 0" for i in range(20)] + ["survived 0"] + [f"{i} 0" for i in range(20, 40)]
        assert watch.restarts == 1


async def test_readiness_follows_the_process(tmp_path: Path) -> None:
    restarted = asyncio.Event()
    async with engine(tmp_path) as client:
        reasons = [client.not_ready_reason]
        await client.wait_ready()
        reasons.append(client.not_ready_reason)

        def on_restart() -> None:
            reasons.append(client.not_ready_reason)
            restarted.set()

        client._on_restart = on_restart
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        await restarted.wait()
        assert reasons == ["the model is loading", None, "the engine died and is being restarted"]
        await client.wait_ready()
        assert (await client.transcribe("r", b"", say("say back"))).text == "back 0"


async def test_a_window_that_kills_every_engine_fails_and_the_service_lives(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch) as client:
        with pytest.raises(EngineCrashed, match="died 5 times"):
            await client.transcribe("r", b"", say("die"))
        assert (await client.transcribe("r", b"", say("say alive"))).text == "alive 0"
        assert watch.restarts == 5


async def test_a_model_that_cannot_be_had_is_final(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch, model="missing") as client:
        waiting = asyncio.create_task(client.transcribe("r", b"", say("say never")))
        with pytest.raises(ModelUnavailable, match="There is no such model"):
            await client.wait_ready()
        with pytest.raises(ModelUnavailable):
            await waiting
        with pytest.raises(ModelUnavailable):
            await client.transcribe("r", b"", say("say never"))
        assert client.not_ready_reason == "There is no such model."
        assert watch.restarts == 0


async def test_an_engine_that_dies_whenever_it_loads_is_given_up(tmp_path: Path) -> None:
    async with engine(tmp_path, model="crash") as client:
        with pytest.raises(ModelUnavailable, match="died 5 times while it was loading the model"):
            await client.wait_ready()


async def test_an_engine_that_was_ready_once_is_loaded_again_until_it_can_be(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch, model="moody", circuit=Circuit(deaths=100)) as client:
        await client.wait_ready()
        (tmp_path / "broken").touch()
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        reason = "the engine died, and its model cannot be loaded again: The disk is full."
        while await watch.states.get() != reason:
            continue
        early = asyncio.create_task(client.transcribe("r", b"", say("say waited")))
        while watch.restarts < 6:
            await watch.states.get()
        (tmp_path / "broken").unlink()
        await client.wait_ready()
        # The failures to load were none of its doing.
        assert (await early).text == "waited 0"
        assert client.is_supervised


async def test_an_engine_that_keeps_dying_is_not_called_ready_until_one_has_been_up_for_a_while(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch, circuit=Circuit(deaths=2, stable_s=0.2)) as client:
        for _ in range(2):
            await client.wait_ready()
            assert client.pid is not None
            os.kill(client.pid, signal.SIGKILL)
            while await watch.states.get() != "the engine died and is being restarted":
                continue
        up_again = await watch.states.get()
        assert up_again == (
            "the engine died 2 times within 300 s; it is up again, and is called ready when it has been so for 0 s"
        )
        assert client.not_ready_reason == up_again
        # It works for those who come all the same.
        assert (await client.transcribe("r", b"", say("say served"))).text == "served 0"
        await client.wait_ready()
        assert client.not_ready_reason is None


async def test_nobody_waits_for_an_engine_that_keeps_failing_to_load(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch, model="moody", circuit=Circuit(deaths=3)) as client:
        await client.wait_ready()
        (tmp_path / "broken").touch()
        assert client.pid is not None
        waiting = asyncio.create_task(client.transcribe("r", b"", say("hang")))
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineNotReady, match="The disk is full") as refused:
            await waiting
        assert refused.value.retry_after_s is not None
        assert watch.restarts == 3
        with pytest.raises(EngineNotReady, match="The disk is full"):
            await client.transcribe("r", b"", say("say no"))


async def test_an_engine_that_is_stuck_is_killed_and_its_windows_are_sent_again(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch, stall_s=0.2) as client:
        await client.wait_ready()
        stuck = asyncio.create_task(client.transcribe("r", b"", say("hang")))
        while watch.restarts == 0:
            await watch.states.get()
        assert not stuck.done()
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        assert (await client.transcribe("r", b"", say("say back"))).text == "back 0"


async def test_an_engine_with_nothing_to_do_may_be_silent(tmp_path: Path) -> None:
    watch = Watch()
    over = asyncio.Event()
    async with engine(tmp_path, watch, stall_s=1.0) as client:
        assert (await client.transcribe("r", b"", say("say hello"))).text == "hello 0"
        asyncio.get_running_loop().call_later(1.2, over.set)
        await over.wait()
        assert watch.restarts == 0
        assert client.not_ready_reason is None


async def test_an_engine_that_talks_nonsense_is_replaced(tmp_path: Path) -> None:
    watch = Watch()
    async with engine(tmp_path, watch) as client:
        assert (await client.transcribe("r", b"", say("babble once"))).text == "survived 0"
        assert watch.restarts == 1


async def test_closing_ends_the_process_and_what_it_was_doing(tmp_path: Path) -> None:
    async with engine(tmp_path) as client:
        await client.wait_ready()
        process = psutil.Process(client.pid)
        started = asyncio.Event()
        call = asyncio.create_task(client.transcribe("r", b"", say("hang"), on_started=lambda language: started.set()))
        await started.wait()
        await client.aclose()
        with pytest.raises(EngineNotReady):
            await call
        assert not process.is_running()


async def test_an_engine_ends_when_its_service_is_gone() -> None:
    """A child must not outlive its parent, however that one died: end-of-file on the channel tells it."""
    child = await spawn("tests.unit.engine.scripted_process", ENVIRONMENT)
    child.channel.close()
    assert await child.process.wait() == 0
