"""OpenAI's shapes: what comes back, what is refused by name, and what a stream holds."""

import json
from typing import Any

import pytest

from asr_service.domain import Token, WindowResult, WindowTimings, Word
from asr_service.errors import EngineError, UnreadableAudio
from tests.api.conftest import Serve
from tests.fakes import GLM_ASR, FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

WAV = b"RIFF, some audio"
FILE = {"file": ("a.wav", WAV)}
URL = "/v1/audio/transcriptions"


def detailed(text: str, *, start_s: float = 0.1) -> WindowResult:
    """A result with one word and two tokens, the second of them half a character."""
    tokens = (Token(7, text.encode(), -0.5), Token(8, b"\xe4", -1.5))
    return WindowResult(
        text, "en", 2, WindowTimings(1, 1, 1, 1), words=(Word(start_s, start_s + 0.4, text),), details=tokens
    )


def events(body: str) -> list[dict[str, Any]]:
    assert body.endswith("\n\n")
    return [json.loads(block.removeprefix("data: ")) for block in body.strip().split("\n\n")]


async def test_json_is_the_default(serve: Serve) -> None:
    engine = FakeEngine([result("One."), result("Two.")])
    async with serve(engine, FakeDecoder(2)) as client:
        response = await client.post(URL, files=FILE, data={"model": "whisper-1", "temperature": "0.5"})
    assert response.status_code == 200, response.text
    assert response.json() == {"text": "One. Two.", "usage": {"type": "duration", "seconds": 2.0}}
    assert engine.calls[0].options.temperature == 0.5
    assert not engine.calls[0].options.logprobs


async def test_log_probabilities_come_when_they_are_asked_for(serve: Serve) -> None:
    engine = FakeEngine([detailed("Hi")])
    async with serve(engine) as client:
        response = await client.post(URL, files=FILE, data={"model": "whisper-test", "include[]": "logprobs"})
    assert response.json()["logprobs"] == [
        {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
        {"token": "\ufffd", "logprob": -1.5, "bytes": [0xE4]},
    ]
    assert engine.calls[0].options.logprobs


async def test_verbose_json_has_segments_and_words(serve: Serve) -> None:
    engine = FakeEngine([detailed("Hello"), detailed("there")])
    data = {
        "model": "whisper-1",
        "response_format": "verbose_json",
        "timestamp_granularities[]": ["word", "segment"],
        "language": "en",
        "prompt": "A greeting",
    }
    async with serve(engine, FakeDecoder(2)) as client:
        response = await client.post(URL, files=FILE, data=data)
    reply = response.json()
    segments = reply.pop("segments")
    assert reply == {
        "task": "transcribe",
        "language": "english",
        "duration": 2.0,
        "text": "Hello there",
        "words": [{"word": "Hello", "start": 0.1, "end": 0.5}, {"word": "there", "start": 1.1, "end": 1.5}],
        "usage": {"type": "duration", "seconds": 2.0},
    }
    assert [(s["id"], s["seek"], s["start"], s["end"], s["text"]) for s in segments] == [
        (0, 10, 0.1, 0.9, "Hello"),
        (1, 110, 1.1, 1.9, "there"),
    ]
    assert (segments[0]["tokens"], segments[0]["avg_logprob"]) == ([7, 8], -1.0)
    assert segments[0]["compression_ratio"] == pytest.approx(5 / 13)
    assert (engine.calls[0].options.words, engine.calls[0].options.prompt) == (True, "A greeting")


@pytest.mark.parametrize("granularities", [None, "segment", "word"])
async def test_only_the_granularities_asked_for_come(serve: Serve, granularities: str | None) -> None:
    data = {"model": "whisper-1", "response_format": "verbose_json"}
    if granularities:
        data["timestamp_granularities[]"] = granularities
    async with serve(FakeEngine([detailed("x")])) as client:
        reply = (await client.post(URL, files=FILE, data=data)).json()
    assert ("segments" in reply, "words" in reply) == (granularities != "word", granularities == "word")


@pytest.mark.parametrize(
    ("style", "media_type", "start"),
    [
        ("text", "text/plain", "One."),
        ("srt", "application/x-subrip", "1\n00:00:00,"),
        ("vtt", "text/vtt", "WEBVTT\n"),
    ],
)
async def test_text_formats(serve: Serve, style: str, media_type: str, start: str) -> None:
    async with serve(FakeEngine([detailed("One.")])) as client:
        response = await client.post(URL, files=FILE, data={"model": "whisper-1", "response_format": style})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].split(";")[0] == media_type
    assert response.text.startswith(start)
    assert "One." in response.text


async def test_a_stream_holds_deltas_segments_and_the_whole(serve: Serve) -> None:
    engine = FakeEngine([result("One."), result("Two.")])
    async with serve(engine, FakeDecoder(2)) as client:
        response = await client.post(URL, files=FILE, data={"model": "whisper-1", "stream": "true"})
    assert response.headers["content-type"].split(";")[0] == "text/event-stream"
    first, first_segment, second, _, done = events(response.text)
    assert first == {"type": "transcript.text.delta", "delta": "One."}
    assert first_segment == {
        "type": "transcript.text.segment", "id": "seg_0", "start": 0.1, "end": 0.9, "text": "One."
    }  # fmt: skip
    assert second["delta"] == " Two."
    assert done == {
        "type": "transcript.text.done",
        "text": "One. Two.",
        "usage": {"type": "duration", "seconds": 2.0},
    }


async def test_a_stream_that_fails_at_once_has_a_status_and_later_an_event(serve: Serve) -> None:
    data = {"model": "whisper-1", "stream": "true"}
    async with serve(FakeEngine([]), FakeDecoder(0, error=UnreadableAudio("No sound."))) as client:
        early = await client.post(URL, files=FILE, data=data)
    assert early.status_code == 400
    assert early.json()["error"]["code"] == "unreadable_audio"
    engine = FakeEngine([result("One."), EngineError("It broke.")])
    async with serve(engine, FakeDecoder(2)) as client:
        late = await client.post(URL, files=FILE, data=data)
    assert late.status_code == 200
    assert events(late.text)[-1] == {
        "error": {"message": "It broke.", "type": "server_error", "param": None, "code": "engine_error"}
    }


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({}, "model"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "yaml"}, "response_format"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"language": "klingon"}, "language"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        ({"timestamp_granularities[]": "line", "response_format": "verbose_json"}, "timestamp_granularities[]"),
        ({"include[]": "speakers"}, "include[]"),
        ({"include[]": "logprobs", "response_format": "srt"}, "include[]"),
        ({"stream": "true", "response_format": "vtt"}, "stream"),
        ({"stream": "perhaps"}, "stream"),
        ({"known_speaker_names[]": "Anna"}, "known_speaker_names[]"),
        ({"known_speaker_references[]": "data:"}, "known_speaker_references[]"),
        ({"chunking_strategy": '{"type": "server_vad", "threshold": 0.3}'}, "chunking_strategy"),
        ({"chunking_strategy": "by_hand"}, "chunking_strategy"),
        ({"chunking_strategy[threshold]": "0.3"}, "chunking_strategy[threshold]"),
        ({"languages[]": ["en", "de"]}, "languages[]"),
        ({"best_of": "5"}, "best_of"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(serve: Serve, data: dict[str, Any], param: str) -> None:
    given = data if param == "model" else {"model": "whisper-1"} | data
    async with serve(FakeEngine([])) as client:
        response = await client.post(URL, files=FILE, data=given)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "invalid_option")
    assert error["message"]


@pytest.mark.parametrize("strategy", ["auto", '{"type": "server_vad"}', "server_vad"])
async def test_the_chunking_that_is_always_done_may_be_asked_for(serve: Serve, strategy: str) -> None:
    async with serve(FakeEngine([result("x")])) as client:
        response = await client.post(URL, files=FILE, data={"model": "whisper-1", "chunking_strategy": strategy})
    assert response.status_code == 200, response.text


async def test_keywords_are_hotwords(serve: Serve) -> None:
    engine = FakeEngine([result("x")])
    data = {"model": "whisper-1", "keywords[]": ["Anneliese", "Łódź"], "hotwords": "Kubernetes, Anneliese"}
    async with serve(engine) as client:
        assert (await client.post(URL, files=FILE, data=data)).status_code == 200
    assert engine.calls[0].options.hotwords == ("Kubernetes", "Anneliese", "Łódź")


async def test_an_unknown_model_is_not_found(serve: Serve) -> None:
    async with serve(FakeEngine([])) as client:
        response = await client.post(URL, files=FILE, data={"model": "gpt-4o-transcribe"})
        one = await client.get("/v1/models/gpt-4o-transcribe")
    assert (response.status_code, one.status_code) == (404, 404)
    assert response.json()["error"]["code"] == one.json()["error"]["code"] == "model_not_found"


async def test_models_are_listed_by_all_their_names(serve: Serve) -> None:
    async with serve(FakeEngine([])) as client:
        models = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/whisper-test")).json()
    assert models["object"] == "list"
    assert [model["id"] for model in models["data"]] == ["whisper-test", "whisper-1"]
    assert one == models["data"][0]
    assert (one["object"], one["owned_by"]) == ("model", "asr-service")


async def test_translations_translate(serve: Serve) -> None:
    engine = FakeEngine([result("Good morning.", "de")])
    data = {"model": "whisper-1", "response_format": "verbose_json"}
    async with serve(engine) as client:
        reply = (await client.post("/v1/audio/translations", files=FILE, data=data)).json()
    assert (reply["task"], reply["language"], reply["text"]) == ("translate", "german", "Good morning.")
    assert engine.calls[0].options.task == "translate"


async def test_a_model_that_cannot_says_so(serve: Serve) -> None:
    async with serve(FakeEngine([], model=GLM_ASR)) as client:
        translation = await client.post("/v1/audio/translations", files=FILE, data={"model": "whisper-1"})
        words = await client.post(
            URL,
            files=FILE,
            data={"model": "whisper-1", "response_format": "verbose_json", "timestamp_granularities[]": "word"},
        )
    assert (translation.status_code, words.status_code) == (400, 400)
    assert "cannot translate" in translation.json()["error"]["message"]
    assert "no aligner" in words.json()["error"]["message"]


async def test_errors_of_the_path_itself_have_the_envelope_too(serve: Serve) -> None:
    async with serve(FakeEngine([])) as client:
        missing = await client.get("/v1/audio/nothing")
        empty = await client.post(URL, data={"model": "whisper-1"}, files={"file": ("a.wav", b"")})
        json_body = await client.post(URL, json={"model": "whisper-1"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (empty.status_code, empty.json()["error"]["code"]) == (400, "missing_audio")
    assert (json_body.status_code, json_body.json()["error"]["code"]) == (400, "unsupported_upload")
