"""The path of one recording, with an engine whose windows the test ends one by one."""

import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import IO, Any

import pytest

from asr_service.domain import AudioSummary, Part, Segment, Token, Transcript, WindowOptions, WindowTimings, Word
from asr_service.errors import EngineCrashed, EngineError, EngineNotReady, UnreadableAudio
from asr_service.service import Transcriber
from tests.fakes import FakeDecoder, FakeEngine, nothing_left_behind, result, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

ANY = WindowOptions()


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


@pytest.fixture
def audio(no_leaks: None) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(b"a recording")
        file.seek(0)
        yield file


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, Transcript]) -> AsyncIterator[asyncio.Task[Transcript]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_joins_the_windows_of_a_recording(audio: IO[bytes]) -> None:
    engine = FakeEngine([result("One.", ms=5), result("", ms=7), result("Three.", ms=6)])
    decoder = FakeDecoder(3, warnings=("The file breaks off.",))

    transcript = await Transcriber(engine, decoder, windows_in_flight=1).transcribe(audio, ANY, "r1")

    assert transcript.text == "One. Three."
    assert transcript.segments == (Segment(0.1, 0.9, "One."), Segment(2.1, 2.9, "Three."))
    assert transcript.language == "en"
    assert transcript.duration_s == 3.0
    assert transcript.model == "whisper-test"
    assert transcript.warnings == ("The file breaks off.",)
    timings = transcript.timings
    assert (timings.queue_ms, timings.encode_ms, timings.decode_steps_ms) == (7, 7, 7)
    assert (timings.decode_ms, timings.vad_ms) == (5.0, 2.0)
    assert timings.total_ms > 0
    assert [call.window for call in engine.calls] == [0, 1, 2]
    assert {call.request_id for call in engine.calls} == {"r1"}
    assert decoder.uploads == [b"a recording"]


async def test_without_speech_the_text_is_empty(audio: IO[bytes]) -> None:
    transcript = await Transcriber(FakeEngine([]), FakeDecoder(0), windows_in_flight=2).transcribe(audio, ANY, "r")

    assert (transcript.text, transcript.segments, transcript.language) == ("", (), None)


async def test_segments_come_in_order_though_windows_end_out_of_order(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, FakeDecoder(3), windows_in_flight=3)

    async with running(transcriber.transcribe(audio, WindowOptions("en"), "r")) as task:
        first, second, third = [await engine.next_call() for _ in range(3)]
        third.finish("three")
        first.finish("one")
        second.finish("two")

        assert (await task).text == "one two three"


async def test_a_segment_is_yielded_while_later_windows_still_run(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    stream = Transcriber(engine, FakeDecoder(2), windows_in_flight=2).stream(audio, WindowOptions("en"), "r")

    async with contextlib.aclosing(stream):
        head = asyncio.ensure_future(anext(stream))
        first, second = await engine.next_call(), await engine.next_call()
        first.finish("one")
        assert await head == Segment(0.1, 0.9, "one")
        assert engine.running == [second]

        second.finish("two")
        rest = [item async for item in stream]
    assert rest[0] == Segment(1.1, 1.9, "two")
    assert isinstance(rest[1], Transcript)
    assert len(rest) == 2


async def test_other_windows_wait_for_the_language_of_the_first_but_not_for_its_end(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, FakeDecoder(3), windows_in_flight=3)

    async with running(transcriber.transcribe(audio, WindowOptions(prompt="terms"), "r")) as task:
        first = await engine.next_call()
        await settle()
        assert engine.calls == [first]
        assert first.options == WindowOptions(None, "terms")

        first.start("de")
        second, third = await engine.next_call(), await engine.next_call()
        assert second.options == third.options == WindowOptions("de", "terms")

        first.start("zh")  # Sent again after a restart of the engine: too late to change the language.
        for call in (third, second, first):
            call.finish("x", "de")
        assert (await task).language == "de"


async def test_a_model_that_tells_no_language_holds_up_nothing(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    async with running(Transcriber(engine, FakeDecoder(2), windows_in_flight=2).transcribe(audio, ANY, "r")) as task:
        first = await engine.next_call()
        first.start(None)
        second = await engine.next_call()
        assert second.options.language is None
        first.finish("a", None)
        second.finish("b", None)

        assert (await task).language is None


async def test_a_given_language_lets_all_windows_start_at_once(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, FakeDecoder(3), windows_in_flight=3)

    async with running(transcriber.transcribe(audio, WindowOptions("zh"), "r")) as task:
        for call in [await engine.next_call() for _ in range(3)]:
            assert call.options.language == "zh"
            call.finish("好")

        transcript = await task
        assert (transcript.text, transcript.language) == ("好好好", "zh")


async def test_one_request_has_a_limited_share_of_the_engine(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, FakeDecoder(10), windows_in_flight=3)

    async with running(transcriber.transcribe(audio, WindowOptions("en"), "r")) as task:
        for ended in range(10):
            call = await engine.next_call()
            await settle()
            assert len(engine.running) == min(3, 10 - ended)
            call.finish(f"w{call.window}")

        assert (await task).text == " ".join(f"w{index}" for index in range(10))


async def test_a_live_request_takes_its_whole_share_once_its_first_window_is_done(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, FakeDecoder(10), windows_in_flight=5)
    items = transcriber.stream(audio, WindowOptions("en"), "r", live=True)

    async def whole() -> Transcript:
        async for item in items:
            if isinstance(item, Transcript):
                return item
        raise AssertionError("no transcript")

    async with running(whole()):
        first, second = await engine.next_call(), await engine.next_call()
        await settle()
        assert engine.running == [first, second]
        second.finish("second")
        third = await engine.next_call()
        await settle()
        assert engine.running == [first, third]

        first.finish("first")
        await settle()

        assert len(engine.running) == 5


async def test_a_failing_window_fails_the_request_and_cancels_the_others(audio: IO[bytes]) -> None:
    engine, decoder = FakeEngine(), FakeDecoder(3, hang=True)
    transcriber = Transcriber(engine, decoder, windows_in_flight=3)

    async with running(transcriber.transcribe(audio, WindowOptions("en"), "r")) as task:
        first, second, third = [await engine.next_call() for _ in range(3)]
        await decoder.hanging.wait()
        second.fail(EngineError("The model failed."))

        with pytest.raises(EngineError, match="The model failed"):
            await task
        assert first.cancelled
        assert third.cancelled
        assert decoder.open == 0


async def test_windows_that_wait_for_the_language_do_not_outlive_a_failing_first_one(audio: IO[bytes]) -> None:
    engine = FakeEngine([EngineCrashed("The engine died.", retry_after_s=3)])

    with pytest.raises(EngineCrashed) as caught:
        await Transcriber(engine, FakeDecoder(5), windows_in_flight=2).transcribe(audio, ANY, "r")

    assert caught.value.retry_after_s == 3
    assert len(engine.calls) == 1


async def test_a_broken_file_cancels_the_windows_cut_from_it(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    decoder = FakeDecoder(2, error=UnreadableAudio("Damaged."))

    with pytest.raises(UnreadableAudio):
        await Transcriber(engine, decoder, windows_in_flight=2).transcribe(audio, WindowOptions("en"), "r")

    assert engine.running == []
    assert decoder.open == 0


async def test_cancelling_a_request_cancels_its_windows_and_its_decoding(audio: IO[bytes]) -> None:
    engine, decoder = FakeEngine(), FakeDecoder(2, hang=True)
    transcriber = Transcriber(engine, decoder, windows_in_flight=2)

    async with running(transcriber.transcribe(audio, WindowOptions("en"), "r")) as task:
        calls = [await engine.next_call(), await engine.next_call()]
        await decoder.hanging.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(call.cancelled for call in calls)
        assert decoder.open == 0


async def test_cancelling_ends_a_decoder_that_is_ahead_of_the_engine(audio: IO[bytes]) -> None:
    engine, decoder = FakeEngine(), FakeDecoder(5, hang=True)
    transcriber = Transcriber(engine, decoder, windows_in_flight=1)

    async with running(transcriber.transcribe(audio, ANY, "r")) as task:
        await engine.next_call()
        await settle()
        assert decoder.open == 1
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert decoder.open == 0


async def test_closing_a_stream_cancels_what_is_left(audio: IO[bytes]) -> None:
    engine, decoder = FakeEngine(), FakeDecoder(3)
    stream = Transcriber(engine, decoder, windows_in_flight=2).stream(audio, WindowOptions("en"), "r")
    head = asyncio.ensure_future(anext(stream))
    first, second = await engine.next_call(), await engine.next_call()
    first.finish("one")
    await head

    await stream.aclose()

    assert second.cancelled
    assert engine.running == []
    assert decoder.open == 0


async def test_an_error_waits_for_the_consumer_instead_of_interrupting_it(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    stream = Transcriber(engine, FakeDecoder(2), windows_in_flight=2).stream(audio, WindowOptions("en"), "r")
    async with contextlib.aclosing(stream):
        head = asyncio.ensure_future(anext(stream))
        first, second = await engine.next_call(), await engine.next_call()
        first.finish("one")
        await head
        second.fail(EngineError("no"))
        await settle()  # The consumer does something else meanwhile, undisturbed.
        assert engine.running == []

        with pytest.raises(EngineError):
            await anext(stream)


async def test_stopped_runaway_outputs_are_counted_and_told(audio: IO[bytes]) -> None:
    engine = FakeEngine([result("fine"), result("la la", guard="loop"), result("so", guard="budget")])
    kinds: list[str] = []
    transcriber = Transcriber(engine, FakeDecoder(3), windows_in_flight=1, on_guard=kinds.append)

    transcript = await transcriber.transcribe(audio, ANY, "r")

    assert kinds == ["loop", "budget"]
    assert transcript.warnings == (
        "The text between 1.1 s and 1.9 s was cut off: the model began to repeat itself.",
        "The text between 2.1 s and 2.9 s was cut off: the text grew longer than speech of that length can be.",
    )


async def test_windows_without_the_words_that_were_asked_for_are_counted_and_told(audio: IO[bytes]) -> None:
    words = (Word(0.1, 0.4, "one"),)
    answers = [dataclasses.replace(result("one", ms=3), words=words), result("two"), result("")]
    counted: list[str] = []

    def transcriber() -> Transcriber:
        return Transcriber(
            FakeEngine(answers), FakeDecoder(3), windows_in_flight=1, on_unaligned=lambda: counted.append("one")
        )

    transcript = await transcriber().transcribe(audio, WindowOptions(words=True), "r")
    assert counted == ["one"]
    assert transcript.warnings == ("The words between 1.1 s and 1.9 s could not be aligned.",)

    audio.seek(0)
    assert (await transcriber().transcribe(audio, ANY, "r")).warnings == ()
    assert counted == ["one"]


async def test_who_waits_longest_for_a_first_token_is_known(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, FakeDecoder(2), windows_in_flight=1)
    assert transcriber.oldest_wait_s == 0
    async with running(transcriber.transcribe(audio, WindowOptions("en"), "r")) as task:
        first = await engine.next_call()
        before_s = transcriber.oldest_wait_s
        assert 0 < before_s < transcriber.oldest_wait_s

        first.start("en")
        assert transcriber.oldest_wait_s == 0
        first.finish("one")
        (await engine.next_call()).finish("two")
        timings = (await task).timings

    assert timings.first_token_ms is not None
    assert before_s * 1000 < timings.first_token_ms < timings.total_ms


async def test_who_gives_up_waits_no_longer(audio: IO[bytes]) -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, FakeDecoder(1), windows_in_flight=1)
    async with running(transcriber.transcribe(audio, WindowOptions("en"), "r")):
        await engine.next_call()
        assert transcriber.oldest_wait_s > 0
    assert transcriber.oldest_wait_s == 0


async def test_without_speech_there_is_no_first_token(audio: IO[bytes]) -> None:
    transcript = await Transcriber(FakeEngine([]), FakeDecoder(0), windows_in_flight=2).transcribe(audio, ANY, "r")
    assert transcript.timings.first_token_ms is None


async def test_the_slowest_alignment_counts(audio: IO[bytes]) -> None:
    answers = [
        dataclasses.replace(result("a"), timings=WindowTimings(1, 1, 1, 1, align_ms=ms)) for ms in (4.0, 9.0, 2.0)
    ]
    transcriber = Transcriber(FakeEngine(answers), FakeDecoder(3), windows_in_flight=1)
    assert (await transcriber.transcribe(audio, ANY, "r")).timings.align_ms == 9.0


async def test_a_window_that_the_model_has_cut_gives_a_segment_for_each_part(audio: IO[bytes]) -> None:
    tokens = tuple(Token(i, data, -0.5) for i, data in enumerate((b"", b" One", b" two.", b"", b"", b" Three", b"")))
    cut = dataclasses.replace(
        result("One two. Three"),
        words=(Word(0.1, 0.2, "One"), Word(0.2, 0.4, "two."), Word(0.6, 0.7, "Three")),
        details=tokens,
        parts=(Part(0.0, 0.4, "One two.", 4), Part(0.4, 0.4, "", 0), Part(0.5, 0.8, "Three", 3)),
        no_speech_prob=0.25,
    )
    transcriber = Transcriber(FakeEngine([result("Before."), cut]), FakeDecoder(2), windows_in_flight=1)

    transcript = await transcriber.transcribe(audio, WindowOptions(timestamps=True), "r")

    assert transcript.text == "Before. One two. Three"
    assert transcript.segments == (
        Segment(0.1, 0.9, "Before."),
        Segment(1.0, 1.4, "One two.", (Word(1.1, 1.2, "One"), Word(1.2, 1.4, "two.")), tokens[:4], 0.25),
        Segment(1.5, 1.8, "Three", (Word(1.6, 1.7, "Three"),), tokens[4:], 0.25),
    )


async def test_tells_when_all_is_decoded(audio: IO[bytes]) -> None:
    durations: list[float] = []
    transcriber = Transcriber(FakeEngine([result("a"), result("b")]), FakeDecoder(2), windows_in_flight=2)

    async def decoded(summary: AudioSummary) -> None:
        durations.append(summary.duration_s)

    await transcriber.transcribe(audio, ANY, "r", on_decoded=decoded)

    assert durations == [2.0]


async def test_without_a_model_nothing_is_begun(audio: IO[bytes]) -> None:
    decoder = FakeDecoder(1)
    engine = FakeEngine([], model=None, not_ready="the model is loading")

    with pytest.raises(EngineNotReady, match="the model is loading"):
        await Transcriber(engine, decoder, windows_in_flight=1).transcribe(audio, ANY, "r")

    assert decoder.uploads == []
