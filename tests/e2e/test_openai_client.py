"""The official OpenAI client, unchanged, against the real service: every format, streams, word times, errors."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import webvtt
from openai import OpenAI

from tests.e2e.service import serve
from tests.recordings import packaged_clips

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ENGLISH = [path for path in packaged_clips() if path.parent.name == "en"]
FRENCH = [path for path in packaged_clips() if path.parent.name == "fr"]


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with serve() as service:
        service.wait_for("ready")
        with OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
            yield client


def transcribe(client: OpenAI, path: Path = ENGLISH[0], **options: Any) -> Any:
    return client.audio.transcriptions.create(file=path, model="whisper-1", language="en", **options)


@pytest.fixture(scope="module")
def text(client: OpenAI) -> str:
    return str(transcribe(client).text)


def test_json(client: OpenAI, text: str) -> None:
    answer = transcribe(client, include=["logprobs"])
    assert answer.text == text
    assert len(text.split()) > 3
    assert answer.usage.type == "duration"
    assert answer.usage.seconds > 1
    assert bytes(int(byte) for token in answer.logprobs for byte in token.bytes).decode().strip() == text
    assert all(token.logprob <= 0 for token in answer.logprobs)


def test_text(client: OpenAI, text: str) -> None:
    assert transcribe(client, response_format="text").strip() == text


@pytest.mark.parametrize("style", ["srt", "vtt"])
def test_subtitles(client: OpenAI, text: str, style: str) -> None:
    subtitles = transcribe(client, response_format=style)
    captions = webvtt.from_string(_as_vtt(subtitles)).captions
    assert re.sub(r"\s+", " ", " ".join(caption.text for caption in captions)) == text
    assert all(caption.start_in_seconds <= caption.end_in_seconds for caption in captions)


def _as_vtt(subtitles: str) -> str:
    if subtitles.startswith("WEBVTT"):
        return subtitles
    return "WEBVTT\n\n" + re.sub(r"(\d\d:\d\d:\d\d),(\d{3})", r"\1.\2", subtitles)


def test_verbose_json_with_word_times(client: OpenAI, text: str) -> None:
    answer = transcribe(client, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (answer.task, answer.language, answer.text) == ("transcribe", "english", text)
    (segment,) = answer.segments
    assert segment.text == text
    assert segment.avg_logprob < 0
    assert segment.tokens
    assert " ".join(word.word for word in answer.words) == text
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert segment.start - 0.5 <= times[0] < times[-1] <= answer.duration


def test_a_stream(client: OpenAI, text: str) -> None:
    events = list(transcribe(client, stream=True))
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == text
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == text


def test_a_translation(client: OpenAI) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):  # OpenAI's client, about OpenAI's own models
        answer = client.audio.translations.create(file=FRENCH[0], model="whisper-1")
    assert "hello" in answer.text.lower()


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["whisper-base", "whisper-1"]
    assert client.models.retrieve("whisper-base").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o-transcribe")


def test_errors(client: OpenAI, tmp_path: Path) -> None:
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.audio.transcriptions.create(file=ENGLISH[0], model="gpt-4o-transcribe")
    with pytest.raises(openai.BadRequestError) as refused:
        transcribe(client, response_format="diarized_json")
    assert (refused.value.param, refused.value.code) == ("response_format", "invalid_option")
    (tmp_path / "notes.wav").write_text("This is not audio.")
    with pytest.raises(openai.BadRequestError) as unreadable:
        transcribe(client, tmp_path / "notes.wav")
    assert unreadable.value.code == "unreadable_audio"
    with pytest.raises(openai.BadRequestError):
        list(transcribe(client, tmp_path / "notes.wav", stream=True))
