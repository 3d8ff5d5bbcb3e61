"""The times of segments that a caller may choose, and what comes with them."""

import dataclasses

import pytest

from asr_service.domain import Part, Token, WindowResult
from tests.api.conftest import Serve
from tests.fakes import GLM_ASR, FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

WAV = b"RIFF, some audio"
FILE = {"file": ("a.wav", WAV)}
URL = "/v1/audio/transcriptions"


def cut() -> WindowResult:
    """A window in two parts, each of a token between two times."""
    tokens = tuple(Token(i, data, -0.5) for i, data in enumerate((b"", b"One.", b"", b"", b" Two.", b"")))
    parts = (Part(0.0, 0.4, "One.", 3), Part(0.5, 0.9, "Two.", 3))
    return dataclasses.replace(result("One. Two."), details=tokens, parts=parts, no_speech_prob=0.125)


async def test_the_models_own_times_cut_a_window_into_segments(serve: Serve) -> None:
    engine = FakeEngine([cut()])
    async with serve(engine) as client:
        reply = (await client.post("/transcribe?timestamps=model", content=WAV)).json()
    assert engine.calls[0].options.timestamps
    assert reply["text"] == "One. Two."
    assert reply["segments"] == [
        {"start": 0.0, "end": 0.4, "text": "One."},
        {"start": 0.5, "end": 0.9, "text": "Two."},
    ]


@pytest.mark.parametrize("query", ["", "?timestamps=vad", "?timestamps="])
async def test_the_times_of_speech_are_the_default(serve: Serve, query: str) -> None:
    engine = FakeEngine([result("One.")])
    async with serve(engine) as client:
        reply = (await client.post("/transcribe" + query, content=WAV)).json()
    assert not engine.calls[0].options.timestamps
    assert reply["segments"] == [{"start": 0.1, "end": 0.9, "text": "One."}]


async def test_they_are_refused_where_the_model_writes_none(serve: Serve) -> None:
    async with serve(FakeEngine([], model=GLM_ASR)) as client:
        response = await client.post("/transcribe?timestamps=model", content=WAV)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_option")
        assert "writes no timestamps of its own" in response.json()["detail"]
        response = await client.post(URL, files=FILE, data={"model": "whisper-1", "timestamps": "model"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "timestamps")
        assert (await client.post("/transcribe?timestamps=words", content=WAV)).status_code == 422


async def test_verbose_json_has_them_with_their_tokens_and_the_chance_of_silence(serve: Serve) -> None:
    engine = FakeEngine([cut(), result("Three.")])
    data = {"model": "whisper-1", "timestamps": "model", "response_format": "verbose_json"}
    async with serve(engine, FakeDecoder(2)) as client:
        segments = (await client.post(URL, files=FILE, data=data)).json()["segments"]
    assert engine.calls[0].options.no_speech
    found = [(s["start"], s["end"], s["text"], s["tokens"], s["no_speech_prob"]) for s in segments]
    assert found == [
        (0.0, 0.4, "One.", [0, 1, 2], 0.125),
        (0.5, 0.9, "Two.", [3, 4, 5], 0.125),
        (1.1, 1.9, "Three.", [], None),
    ]


async def test_times_are_no_text_among_log_probabilities(serve: Serve) -> None:
    engine = FakeEngine([cut()])
    data = {"model": "whisper-1", "timestamps": "model", "include[]": "logprobs"}
    async with serve(engine) as client:
        reply = (await client.post(URL, files=FILE, data=data)).json()
    assert [entry["token"] for entry in reply["logprobs"]] == ["One.", " Two."]
    assert not engine.calls[0].options.no_speech
