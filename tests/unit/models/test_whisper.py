"""Whisper in the engine says token for token what transformers' greedy `generate` says in float32."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

from asr_service.domain import WindowOptions
from asr_service.models.base import NewSequence
from asr_service.models.whisper import WhisperRunner
from tests.recordings import load_pcm, packaged_clips, shared_recordings
from tests.unit.models.batching import tokens_in_batch


@dataclass
class Reference:
    model: WhisperForConditionalGeneration
    extractor: WhisperFeatureExtractor

    def __post_init__(self) -> None:
        self.tokens = cache(self._tokens)
        self.language = cache(self._language)

    def _features(self, path: Path) -> torch.Tensor:
        samples = load_pcm(path).astype(np.float32) / 32768
        features: torch.Tensor = self.extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        return features

    @torch.inference_mode()
    def _language(self, path: Path) -> str:
        config = self.model.generation_config
        (found,) = self.model.detect_language(self._features(path), generation_config=config).tolist()
        language: str = next(token.strip("<|>") for token, i in config.lang_to_id.items() if i == found)
        return language

    @torch.inference_mode()
    def _tokens(self, path: Path, language: str) -> list[int]:
        answer = self.model.generate(self._features(path), language=language, task="transcribe")
        tokens: list[int] = answer[0].tolist()
        return tokens


@pytest.fixture(scope="module")
def reference(whisper_reference: WhisperForConditionalGeneration, whisper_folder: Path) -> Reference:
    return Reference(whisper_reference, WhisperFeatureExtractor.from_pretrained(whisper_folder))


def clips() -> list[Any]:
    """Every clip there is; what is neither English nor Mandarin takes part in the slow tests only."""
    quick = [*shared_recordings(), *(path for path in packaged_clips() if path.parent.name in ("en", "zh"))]
    others = [path for path in packaged_clips() if path not in quick]
    return [
        pytest.param(path, id=f"{path.parent.name}-{path.stem}", marks=[pytest.mark.slow] if path in others else [])
        for path in (*quick, *others)
    ]


@pytest.mark.parametrize("path", clips())
def test_a_clip_alone(path: Path, whisper_runner: WhisperRunner, reference: Reference) -> None:
    (tokens,), (language,) = tokens_in_batch(whisper_runner, [load_pcm(path)])
    assert language == reference.language(path)
    assert tokens == reference.tokens(path, language)


@pytest.mark.skipif(not shared_recordings(), reason="the recordings beside the checkout are absent")
def test_the_recordings_beside_the_checkout_were_compared() -> None:
    assert len(shared_recordings()) == 5


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_clips_of_mixed_length_in_one_batch_at_random_times(
    data: st.DataObject, whisper_runner: WhisperRunner, reference: Reference
) -> None:
    clips = data.draw(st.lists(st.sampled_from(packaged_clips()), min_size=2, max_size=16, unique=True))
    arrivals = data.draw(st.lists(st.integers(0, 12), min_size=len(clips), max_size=len(clips)))
    languages = [reference.language(path) for path in clips]
    given_languages = [data.draw(st.sampled_from([None, language])) for language in languages]
    tokens, detected = tokens_in_batch(
        whisper_runner, [load_pcm(path) for path in clips], arrivals=arrivals, languages=given_languages
    )
    assert detected == languages
    assert tokens == [reference.tokens(path, language) for path, language in zip(clips, languages, strict=True)]


def test_a_prompt_is_previous_text_as_in_transformers(
    whisper_runner: WhisperRunner, reference: Reference, whisper_folder: Path
) -> None:
    tokenizer = WhisperTokenizerFast.from_pretrained(whisper_folder)
    path = packaged_clips()[0]
    prompt = "Names: Aiko, Bartholomew."
    prompt_ids = tokenizer.get_prompt_ids(prompt, return_tensors="pt")
    with torch.inference_mode():
        answer = reference.model.generate(
            reference._features(path), language="en", task="transcribe", prompt_ids=prompt_ids
        )[0].tolist()
    sequence = NewSequence(whisper_runner.features(load_pcm(path)), WindowOptions("en", prompt))
    tokens = list(whisper_runner.admit(0, [sequence])[0].tokens)
    while tokens[-1] not in whisper_runner.stop_ids:
        tokens += whisper_runner.decode(0, 1)
    assert answer[-len(tokens) + 1 :] == tokens[:-1]
    assert whisper_runner.max_new_tokens(WindowOptions("en", prompt)) == 448 - 4 - len(prompt_ids)
