"""POST /transcribe beyond one file and one answer: streams, several files, formats, and options on their way in."""

import asyncio
import json
from typing import Any

import pytest

from asr_service.domain import WindowResult, WindowTimings, Word
from asr_service.errors import EngineError, UnreadableAudio
from tests.api.conftest import Serve
from tests.fakes import GLM_ASR, FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

WAV = b"RIFF, some audio"
LINES = {"Accept": "application/x-ndjson"}
EVENTS = {"Accept": "text/html, text/event-stream;q=0.9"}


def files(count: int) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{number}.wav", WAV + bytes([number]))) for number in range(count)]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_segments_come_while_later_ones_are_still_being_transcribed(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine, FakeDecoder(2)) as client:
        answer = asyncio.ensure_future(client.post("/transcribe?language=en", content=WAV, headers=LINES))
        first, second = await engine.next_call(), await engine.next_call()
        second.finish("Two.")
        first.finish("One.")
        response = await answer
    assert response.headers["content-type"].split(";")[0] == "application/x-ndjson"
    assert response.headers["x-accel-buffering"] == "no"
    one, two, whole = lines(response.text)
    assert one == {"type": "segment", "file": 0, "start": 0.1, "end": 0.9, "text": "One."}
    assert (two["type"], two["text"]) == ("segment", "Two.")
    assert (whole["type"], whole["text"], whole["duration_s"]) == ("transcript", "One. Two.", 2.0)
    assert whole["request_id"] == response.headers["x-request-id"]


async def test_the_same_as_server_sent_events(serve: Serve) -> None:
    async with serve(FakeEngine([result("One.")])) as client:
        response = await client.post("/transcribe", content=WAV, headers=EVENTS)
    assert response.headers["content-type"].split(";")[0] == "text/event-stream"
    segment, transcript, nothing = response.text.split("\n\n")
    assert nothing == ""
    assert segment.splitlines()[0] == "event: segment"
    assert json.loads(segment.splitlines()[1].removeprefix("data: "))["text"] == "One."
    assert transcript.startswith("event: transcript\ndata: {")


async def test_an_error_before_the_first_segment_has_a_status(serve: Serve) -> None:
    async with serve(FakeEngine([]), FakeDecoder(0, error=UnreadableAudio("No sound."))) as client:
        response = await client.post("/transcribe", content=WAV, headers=LINES)
    assert (response.status_code, response.json()["code"]) == (400, "unreadable_audio")


async def test_an_error_after_the_first_segment_ends_the_stream(serve: Serve) -> None:
    async with serve(FakeEngine([result("One."), EngineError("It broke.")]), FakeDecoder(2)) as client:
        response = await client.post("/transcribe?language=en", content=WAV, headers=LINES)
    segment, error = lines(response.text)
    assert segment["text"] == "One."
    assert (error["type"], error["file"], error["code"], error["status"]) == ("error", 0, "engine_error", 500)


async def test_several_files_are_answered_in_order(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine) as client:
        answer = asyncio.ensure_future(client.post("/transcribe", files=files(3), data={"words": "true"}))
        calls = [await engine.next_call() for _ in range(3)]
        calls[2].finish("Third to arrive.")
        calls[1].fail(EngineError("It broke."))
        calls[0].finish("First to arrive.")
        response = await answer
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [entry.get("text", entry.get("code")) for entry in results] == [
        "First to arrive.",
        "engine_error",
        "Third to arrive.",
    ]
    # The text is worth more than the times of its words, but that they are missing is said.
    assert results[0]["segments"][0]["words"] == []
    assert results[0]["warnings"] == ["The words between 0.1 s and 0.9 s could not be aligned."]


async def test_several_files_in_a_stream(serve: Serve) -> None:
    async with serve(FakeEngine([result("A."), EngineError("It broke.")])) as client:
        response = await client.post("/transcribe", files=files(2), headers=LINES)
    assert [(line["type"], line["file"]) for line in lines(response.text)] == [
        ("segment", 0),
        ("transcript", 0),
        ("error", 1),
    ]


async def test_words_come_in_seconds_of_the_recording(serve: Serve) -> None:
    words = (Word(0.2, 0.5, "One"), Word(0.5, 0.8, "two"))
    spoken = WindowResult("One two", "en", 2, WindowTimings(1, 1, 1, 1), words=words)
    engine = FakeEngine([result("x"), spoken])
    async with serve(engine, FakeDecoder(2)) as client:
        reply = (await client.post("/transcribe?words=true&language=en", content=WAV)).json()
    assert [call.options.words for call in engine.calls] == [True, True]
    assert reply["warnings"] == ["The words between 0.1 s and 0.9 s could not be aligned."]
    assert reply["segments"][1]["words"] == [
        {"word": "One", "start": 1.2, "end": 1.5},
        {"word": "two", "start": 1.5, "end": 1.8},
    ]


@pytest.mark.parametrize(
    ("style", "media_type", "body"),
    [
        ("text", "text/plain", "One.\n"),
        ("srt", "application/x-subrip", "One."),
        ("vtt", "text/vtt", "WEBVTT"),
    ],
)
async def test_formats(serve: Serve, style: str, media_type: str, body: str) -> None:
    engine = FakeEngine([result("One.")])
    async with serve(engine) as client:
        response = await client.post(f"/transcribe?response_format={style}", content=WAV)
    assert response.headers["content-type"].split(";")[0] == media_type
    assert body in response.text
    assert engine.calls[0].options.words == (style != "text")


async def test_options_reach_every_window(serve: Serve) -> None:
    engine = FakeEngine([result("a"), result("b")])
    data = {"hotwords": "Anna,  Łódź old town\nAnna", "temperature": "0.2", "task": "translate", "language": "de"}
    async with serve(engine, FakeDecoder(2)) as client:
        assert (await client.post("/transcribe", files=files(1), data=data)).status_code == 200
    for call in engine.calls:
        options = call.options
        assert options.hotwords == ("Anna", "Łódź old town")
        assert (options.temperature, options.task, options.language) == (0.2, "translate", "de")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("temperature=1.5", "not a number between 0 and 1"),
        ("temperature=nan", "not a number between 0 and 1"),
        ("words=often", "'words' is true or false"),
        ("task=sing", "no task 'sing'"),
        ("hotwords=" + "x" * 65, "has 65 characters"),
        ("hotwords=" + ",".join(str(number) for number in range(201)), "201 hotwords"),
        ("response_format=yaml", "no format 'yaml'"),
    ],
)
async def test_bad_options_are_refused(serve: Serve, query: str, sentence: str) -> None:
    async with serve(FakeEngine([])) as client:
        response = await client.post(f"/transcribe?{query}", content=WAV)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_option")
    assert sentence in response.json()["detail"]


@pytest.mark.parametrize("query", ["task=translate", "words=true"])
async def test_what_the_model_cannot_do_is_refused(serve: Serve, query: str) -> None:
    async with serve(FakeEngine([], model=GLM_ASR)) as client:
        response = await client.post(f"/transcribe?{query}", content=WAV)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_option")


async def test_formats_are_for_one_file_and_one_answer(serve: Serve) -> None:
    async with serve(FakeEngine([])) as client:
        many = await client.post("/transcribe?response_format=srt", files=files(2))
        streamed = await client.post("/transcribe?response_format=srt", files=files(1), headers=LINES)
    assert (many.status_code, streamed.status_code) == (422, 422)
