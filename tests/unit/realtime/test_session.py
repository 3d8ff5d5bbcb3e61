"""A live session, event by event, with a listener and an engine that the test plays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from asr_service.audio.listener_messages import StreamSettings
from asr_service.domain import Priority, WindowOptions
from asr_service.errors import EngineError, Overloaded, Superseded, Unavailable
from asr_service.realtime.events import (
    Committed,
    Completed,
    Event,
    Failed,
    Partial,
    SegmentDone,
    Settled,
    SpeechStarted,
    SpeechStopped,
)
from asr_service.realtime.session import Session
from asr_service.realtime.surroundings import Watcher
from tests.fakes import Call, FakeEngine, FakeListener, nothing_left_behind, settle, silence, speech

pytestmark = pytest.mark.anyio

BY_SILENCE = StreamSettings(rate_hz=16_000)
BY_HAND = StreamSettings(rate_hz=16_000, silence_s=None)
PLAIN = WindowOptions()
PIECE_S = 0.1


@dataclass
class Live:
    """A session with what surrounds it. `now_s` is the time on its clock, which goes on with the audio."""

    options: WindowOptions = PLAIN
    settings: StreamSettings = BY_SILENCE
    engine: FakeEngine = field(default_factory=FakeEngine)
    listener: FakeListener = field(default_factory=FakeListener)
    events: list[Event] = field(default_factory=list)
    drafts: list[str] = field(default_factory=list)
    finals_s: list[float] = field(default_factory=list)
    now_s: float = 0.0
    longest_wait_s: float = 60.0

    def __post_init__(self) -> None:
        self.stream = self.listener.stream(self.settings)
        self.session = Session(
            "s",
            self.engine,
            self.stream,
            self.options,
            self.events.append,
            watcher=Watcher(draft=self.drafts.append, final=self.finals_s.append),
            longest_wait_s=self.longest_wait_s,
            clock=lambda: self.now_s,
        )

    async def hear(self, audio: bytes) -> None:
        """Audio at its own pace."""
        piece = len(speech(PIECE_S))
        for start in range(0, len(audio), piece):
            await self.session.hear(audio[start : start + piece])
            self.now_s += PIECE_S
            await settle()

    async def answer(self, text: str, language: str = "en") -> Call:
        """Let the oldest window that is with the engine have this text."""
        call = self.engine.running[0]
        call.start(language)
        call.finish(text, language)
        await settle()
        return call

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    @property
    def kinds_but_partials(self) -> list[str]:
        return [kind for kind in self.kinds if kind != "Partial"]

    def text_of(self, item: str) -> str:
        return "".join(event.delta for event in self.events if isinstance(event, Settled) and event.item == item)


@asynccontextmanager
async def live(
    options: WindowOptions = PLAIN, settings: StreamSettings = BY_SILENCE, longest_wait_s: float = 60.0
) -> AsyncIterator[Live]:
    async with nothing_left_behind():
        running = Live(options, settings, longest_wait_s=longest_wait_s)
        try:
            yield running
        finally:
            await running.session.aclose()
            assert running.stream.closed
            assert running.engine.running == []


async def test_text_grows_settles_and_is_final_when_the_silence_has_lasted() -> None:
    async with live() as one:
        await one.hear(silence(1) + speech(0.8))
        assert one.events == [SpeechStarted("item_s_1", 15_872 - 4800)]
        draft = await one.answer("After early")
        assert (draft.priority, draft.options.prefix, draft.options.language) == (Priority.DRAFT, "", None)
        await one.hear(speech(0.6))
        draft = await one.answer("After early night")
        assert draft.options.prefix == ""
        await one.hear(speech(0.6))
        draft = await one.answer("After early nightfall the")
        assert (draft.options.prefix, draft.options.language) == ("After early", "en")
        await one.hear(silence(0.4))
        final = await one.answer("After early nightfall, the lamps.")
        assert final.priority is Priority.FINAL
        assert "Completed" not in one.kinds
        await one.hear(silence(0.2))
    assert one.kinds_but_partials == [
        *("SpeechStarted", "Settled", "Settled", "SpeechStopped", "Committed", "Settled", "SegmentDone", "Completed")
    ]
    assert [event.unsettled for event in one.events if isinstance(event, Partial)] == [
        *("After early", " night", " nightfall the", ", the lamps.")
    ]
    (completed,) = one.told(Completed)
    assert isinstance(completed, Completed)
    assert completed.text == one.text_of("item_s_1") == "After early nightfall, the lamps."
    assert completed.language == "en"
    assert (completed.segments[0].start_s, completed.segments[0].end_s) == (0.992, 3.008)
    assert completed.audio_s == pytest.approx(2.616, abs=0.01)
    assert one.told(Committed) == [Committed("item_s_1", None)]
    assert len(one.engine.calls) == 4
    assert one.drafts == ["used"] * 3
    assert one.finals_s == [0.0]


async def test_what_is_shown_as_settled_never_changes() -> None:
    async with live() as one:
        await one.hear(speech(1))
        await one.answer("He said yes")
        await one.hear(speech(0.6))
        await one.answer("He said yes and")
        await one.hear(speech(0.6))
        await one.answer("They said no and went")
        await one.hear(silence(0.4))
        await one.answer("They said no and went home.")
        await one.hear(silence(0.2))
    (completed,) = one.told(Completed)
    assert isinstance(completed, Completed)
    assert completed.text == one.text_of("item_s_1") == "He said yes and went home."
    partials = [event for event in one.told(Partial) if isinstance(event, Partial)]
    assert all(completed.text.startswith(partial.settled) for partial in partials)


async def test_speech_that_goes_on_after_a_pause_stays_one_utterance() -> None:
    async with live() as one:
        await one.hear(speech(1) + silence(0.4))
        await one.answer("One.")
        await one.answer("One.") if one.engine.running else None
        await one.hear(speech(1))
        assert one.told(SpeechStopped) == []
        await one.answer("One. Two")
        await one.hear(silence(0.6))
        while one.engine.running:
            await one.answer("One. Two.")
    assert len(one.told(SpeechStarted)) == len(one.told(Completed)) == 1
    assert one.text_of("item_s_1") == "One. Two."


async def test_a_draft_that_has_not_begun_is_replaced_by_a_newer_one() -> None:
    async with live() as one:
        await one.hear(speech(1))
        (waiting,) = one.engine.running
        await one.hear(speech(0.6))
        assert len(one.engine.running) == 2
        waiting.outcome.set_exception(Superseded())
        await settle()
        assert one.drafts == ["superseded"]
        newer = await one.answer("Words")
        assert len(newer.samples) > len(waiting.samples)
        assert one.drafts == ["superseded", "used"]


async def test_no_draft_follows_one_that_the_engine_works_on() -> None:
    async with live() as one:
        await one.hear(speech(1))
        one.engine.running[0].start("en")
        await one.hear(speech(3))
        assert len(one.engine.calls) == 1


async def test_the_longer_drafts_take_the_rarer_they_are() -> None:
    async with live() as quick, live() as slow:
        for one, delay_s in ((quick, 0.0), (slow, 1.5)):
            for _ in range(16):
                await one.hear(speech(0.5))
                if one.engine.running:
                    one.engine.running[0].start("en")
                    one.now_s += delay_s
                    one.engine.running[0].finish("Word")
                    await settle()
    assert len(slow.engine.calls) < 0.8 * len(quick.engine.calls)


async def test_words_are_asked_for_in_final_windows_only() -> None:
    async with live(WindowOptions(words=True)) as one:
        await one.hear(speech(1))
        assert not (await one.answer("Word")).options.words
        await one.hear(silence(0.4))
        assert (await one.answer("Word.")).options.words


async def test_drafts_that_are_under_way_are_let_go_when_the_window_ends() -> None:
    async with live() as one:
        await one.hear(speech(1))
        (draft,) = one.engine.running
        await one.hear(silence(0.4))
        assert draft.cancelled
        assert [call.priority for call in one.engine.running] == [Priority.FINAL]
        await one.hear(silence(0.2))
        assert len(one.engine.calls) == 2
        one.now_s += 0.25
        await one.answer("Word.")
    assert one.finals_s == [pytest.approx(0.35)]
    assert one.drafts == ["dropped"]


async def test_a_long_utterance_is_cut_into_segments_that_stay_in_order() -> None:
    async with live() as one:
        await one.hear(speech(19) + silence(0.2) + speech(9) + silence(0.6))
        finals = [call for call in one.engine.running if call.priority is Priority.FINAL]
        assert len(finals) == 2
        finals[1].finish("And the end.")
        await settle()
        assert one.told(Completed) == []
        finals[0].finish("The beginning")
        await settle()
    assert len(one.told(SpeechStarted)) == len(one.told(Committed)) == len(one.told(Completed)) == 1
    segments = [event.segment.text for event in one.events if isinstance(event, SegmentDone)]
    assert segments == ["The beginning", "And the end."]
    assert one.text_of("item_s_1") == "The beginning And the end."


async def test_one_utterance_follows_the_other() -> None:
    async with live() as one:
        await one.hear(speech(1) + silence(0.8) + speech(1) + silence(0.8))
        while one.engine.running:
            await one.answer("Word.")
    assert one.told(Committed) == [Committed("item_s_1", None), Committed("item_s_2", "item_s_1")]
    assert [event.item for event in one.events if isinstance(event, Completed)] == ["item_s_1", "item_s_2"]


async def test_a_window_that_fails_costs_its_utterance_only() -> None:
    async with live() as one:
        await one.hear(speech(1))
        one.engine.running[0].fail(EngineError("a draft"))
        await settle()
        assert one.told(Failed) == []
        await one.hear(silence(0.6))
        one.engine.running[0].fail(EngineError("broken"))
        await settle()
        await one.hear(speech(1) + silence(0.6))
        while one.engine.running:
            await one.answer("Better.")
    (failed,) = one.told(Failed)
    assert isinstance(failed, Failed)
    assert (failed.item, failed.error.message) == ("item_s_1", "broken")
    assert [event.item for event in one.events if isinstance(event, Completed)] == ["item_s_2"]


async def test_a_mistake_of_ours_costs_the_utterance_and_is_logged() -> None:
    async with live() as one:
        await one.hear(speech(1) + silence(0.6))
        with capture_logs() as lines:
            one.engine.running[0].outcome.set_exception(ZeroDivisionError())
            await settle()
    assert one.kinds[-1] == "Failed"
    assert [line["event"] for line in lines] == ["unexpected error"]


async def test_an_early_final_window_that_fails_is_tried_again_at_the_end() -> None:
    async with live() as one:
        await one.hear(speech(1) + silence(0.4))
        for call in one.engine.running:
            call.fail(EngineError("too early"))
        await settle()
        await one.hear(silence(0.2))
        while one.engine.running:
            await one.answer("Word.")
    assert one.told(Failed) == []
    assert one.text_of("item_s_1") == "Word."


async def test_a_failure_in_a_long_utterance_is_told_when_it_ends() -> None:
    async with live() as one:
        await one.hear(speech(19) + silence(0.2) + speech(3))
        (first,) = [call for call in one.engine.running if call.priority is Priority.FINAL]
        first.fail(EngineError("broken"))
        await settle()
        assert one.told(Failed) == []
        await one.hear(silence(0.6))
    assert one.kinds[-3:] == ["SpeechStopped", "Committed", "Failed"]


async def test_by_hand_nothing_is_told_before_the_commit_though_most_is_done() -> None:
    async with live(settings=BY_HAND) as one:
        await one.hear(speech(2) + silence(2.5))
        while one.engine.running:
            await one.answer("Part one.")
        await one.hear(speech(2))
        assert one.events == []
        assert await one.session.commit()
        await settle()
        while one.engine.running:
            await one.answer("Part two.")
    assert one.kinds[:2] == ["Committed", "Settled"]
    assert one.kinds[-1] == "Completed"
    assert SpeechStarted not in {type(event) for event in one.events}
    assert one.text_of("item_s_1") == "Part one. Part two."


@pytest.mark.parametrize("stream_settings", [BY_SILENCE, BY_HAND])
async def test_there_is_nothing_to_commit_where_nobody_spoke(stream_settings: StreamSettings) -> None:
    async with live(settings=stream_settings) as one:
        await one.hear(silence(2))
        assert not await one.session.commit()
        assert one.events == []


async def test_a_commit_ends_an_utterance_before_its_silence() -> None:
    async with live() as one:
        await one.hear(speech(1))
        assert await one.session.commit()
        await settle()
        while one.engine.running:
            await one.answer("Word.")
        await one.hear(silence(1))
    assert one.kinds_but_partials[-5:] == ["SpeechStopped", "Committed", "Settled", "SegmentDone", "Completed"]


async def test_what_is_cleared_was_never_said() -> None:
    async with live() as one:
        await one.hear(speech(1))
        (draft,) = one.engine.running
        await one.session.clear()
        await settle()
        assert draft.cancelled
        told = len(one.events)
        await one.hear(silence(1))
        assert not await one.session.commit()
        assert len(one.events) == told


async def test_other_settings_end_the_utterance_that_is_open() -> None:
    async with live() as one:
        await one.hear(speech(1))
        await one.session.change(one.stream.settings)
        assert one.told(Committed) == []
        await one.session.change(BY_HAND)
        await settle()
        assert one.told(Committed) == [Committed("item_s_1", None)]
        assert one.stream.settings == BY_HAND


async def test_finishing_waits_for_every_text() -> None:
    async with live() as one:
        await one.hear(speech(1) + silence(0.8) + speech(1))
        finishing = asyncio.create_task(one.session.finish())
        await settle()
        assert not finishing.done()
        while one.engine.running:
            await one.answer("Word.")
        await finishing
    assert len(one.told(Completed)) == 2


async def test_who_is_faster_than_the_engine_has_to_wait() -> None:
    async with live() as one:
        hearing = asyncio.create_task(one.session.hear((speech(1) + silence(0.8)) * 6))
        await settle()
        assert not hearing.done()
        one.engine.running[0].finish("Word.")
        await settle()
        assert not hearing.done()
        one.engine.running[0].finish("Word.")
        await hearing


async def test_a_session_that_the_engine_cannot_keep_up_with_is_told() -> None:
    async with live(longest_wait_s=0.01) as one:
        with pytest.raises(Overloaded):
            await one.session.hear((speech(1) + silence(0.8)) * 6)


async def test_audio_is_not_lost_when_whoever_brings_it_is_cancelled() -> None:
    async with live() as one:
        await one.hear(silence(0.5))
        one.stream.answers = asyncio.Semaphore(0)
        hearing = asyncio.create_task(one.session.hear(speech(1)))
        await settle()
        hearing.cancel()
        await settle()
        for _ in range(10):
            one.stream.answers.release()
        assert await one.session.commit()
        await settle()
        while one.engine.running:
            await one.answer("Word.")
    assert one.text_of("item_s_1") == "Word."
    assert one.session.audio_s == 1.5


async def test_nothing_is_told_after_the_end() -> None:
    async with live() as one:
        await one.hear(speech(1) + silence(0.8) + speech(1))
        calls = one.engine.running
        told = len(one.events)
        await one.session.aclose()
        assert all(call.cancelled for call in calls)
        assert len(one.events) == told


async def test_a_listener_that_is_gone_is_an_error() -> None:
    async with live() as one:
        one.listener.error = Unavailable("gone")
        with pytest.raises(Unavailable):
            await one.session.hear(speech(1))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("speech"), st.sampled_from([0.2, 0.5, 1.0, 3.0, 22.0])),
        st.tuples(st.just("silence"), st.sampled_from([0.1, 0.4, 0.6, 2.5])),
        st.tuples(st.sampled_from(["answer", "fail", "supersede"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["commit", "clear", "by hand", "by silence"]), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_every_utterance_ends_once_with_all_that_has_settled(steps: list[tuple[str, float]]) -> None:
    asyncio.run(_every_utterance_ends_once(steps))


async def _every_utterance_ends_once(steps: list[tuple[str, float]]) -> None:
    async with live() as one:
        for what, amount in steps:
            await _do(one, what, amount)
            await settle()
        finishing = asyncio.create_task(one.session.finish())
        await settle()
        await _answer_all(one)
        await finishing
    committed = [event.item for event in one.events if isinstance(event, Committed)]
    ended = [event.item for event in one.events if isinstance(event, Completed | Failed)]
    assert sorted(committed) == sorted(ended)
    assert len(set(ended)) == len(ended)
    for event in one.events:
        if isinstance(event, Completed):
            assert event.text == one.text_of(event.item)
            times = [time for segment in event.segments for time in (segment.start_s, segment.end_s)]
            assert times == sorted(times)


async def _do(one: Live, what: str, amount: float) -> None:
    running = one.engine.running
    call = running[int(amount) % len(running)] if running else None
    match what:
        case "speech" | "silence":
            hearing = asyncio.create_task(one.hear((speech if what == "speech" else silence)(amount)))
            while not hearing.done():
                # Too many windows may be waiting for their text.
                if one.session._pending() > 4:
                    await _answer_all(one)
                await settle()
            await hearing
        case "answer" if call is not None:
            _answer(call)
        case "fail" if call is not None:
            call.fail(EngineError("broken"))
        case "supersede" if call is not None and call.priority is Priority.DRAFT:
            call.outcome.set_exception(Superseded())
        case "commit":
            await one.session.commit()
        case "clear":
            await one.session.clear()
        case "by hand" | "by silence":
            await one.session.change(BY_HAND if what == "by hand" else BY_SILENCE)


def _answer(call: Call) -> None:
    """As an engine would: the text goes on from its prefix."""
    call.start("en")
    call.finish(f"{call.options.prefix} word{len(call.samples)}".strip())


async def _answer_all(one: Live) -> None:
    while one.engine.running:
        _answer(one.engine.running[0])
        await settle()
