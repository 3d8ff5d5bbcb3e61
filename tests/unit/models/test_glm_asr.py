"""GLM-ASR in the engine says token for token what transformers' greedy `generate` says in float32."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import GlmAsrForConditionalGeneration, GlmAsrProcessor

from asr_service.domain import WindowOptions
from asr_service.models.glm_asr import GlmAsrRunner, audio_tokens
from tests.checkpoints import STOP_IDS, glm_model, glm_processor
from tests.unit.models.batching import tokens_in_batch

LIMIT = 24
DURATIONS_S = (0.1, 0.35, 0.5, 0.9, 1.0, 1.7, 2.2, 3.1, 4.2, 5.0, 7.3, 9.9, 12.34, 18.0, 25.5, 29.99, 30.0)


def noise(duration_s: float) -> NDArray[np.int16]:
    rng = np.random.default_rng(int(duration_s * 1000))
    swell = np.sin(np.linspace(0, 40 * duration_s, int(16_000 * duration_s))) + 1.2
    return (rng.standard_normal(len(swell)) * 2_000 * swell).astype(np.int16)


class Reference:
    def __init__(self, seed: int, processor: GlmAsrProcessor) -> None:
        self.model: GlmAsrForConditionalGeneration = glm_model(seed)
        self.runner = GlmAsrRunner(self.model, processor, name="small", slots=16, started=0.0)
        self.processor = processor
        self.tokens = cache(self._tokens)

    @torch.inference_mode()
    def _tokens(self, duration_s: float) -> list[int]:
        inputs = self.processor.apply_transcription_request(noise(duration_s).astype(np.float32) / 32768)
        answer = self.model.generate(**inputs, do_sample=False, max_new_tokens=LIMIT)
        tokens: list[int] = answer[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens[:-1] if tokens[-1] in STOP_IDS else tokens


@pytest.fixture(scope="module")
def processor() -> GlmAsrProcessor:
    return glm_processor()


@pytest.fixture(scope="module")
def references(processor: GlmAsrProcessor) -> list[Reference]:
    return [Reference(seed, processor) for seed in range(3)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_windows_of_mixed_length_in_one_batch_at_random_times(data: st.DataObject, references: list[Reference]) -> None:
    reference = data.draw(st.sampled_from(references))
    durations = data.draw(st.lists(st.sampled_from(DURATIONS_S), min_size=1, max_size=16))
    arrivals = data.draw(st.lists(st.integers(0, 30), min_size=len(durations), max_size=len(durations)))
    tokens, _ = tokens_in_batch(
        reference.runner, [noise(duration) for duration in durations], arrivals=arrivals, limit=LIMIT
    )
    assert tokens == [reference.tokens(duration) for duration in durations]


def test_the_small_checkpoints_say_varied_things_and_stop_by_themselves(references: list[Reference]) -> None:
    """Without this, the comparison above would compare little."""
    answers = [reference.tokens(duration) for reference in references for duration in DURATIONS_S]
    assert len({tuple(answer) for answer in answers}) > 40
    assert any(len(answer) < LIMIT for answer in answers)


@pytest.mark.parametrize("prompt", [None, "Names: Aiko, Bartholomew."])
def test_the_prompt_is_the_reference_processors(
    prompt: str | None, processor: GlmAsrProcessor, references: list[Reference]
) -> None:
    instruction = processor.default_transcription_prompt
    full = processor.apply_transcription_request(
        noise(1.0).astype(np.float32) / 32768, prompt=instruction if prompt is None else f"{instruction}. {prompt}"
    )
    before, after = references[0].runner._prompt(WindowOptions(prompt=prompt))
    assert full["input_ids"][0].tolist() == before + [59260] * audio_tokens(100) + after
    assert before[0] == 59253


def test_a_text_goes_on_from_its_prefix_as_in_transformers(
    processor: GlmAsrProcessor, references: list[Reference]
) -> None:
    reference = references[0]
    prefix = "He said that"
    inputs = processor.apply_transcription_request(noise(3.1).astype(np.float32) / 32768)
    ids = processor.tokenizer(prefix, add_special_tokens=False)["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        answer = reference.model.generate(**inputs, do_sample=False, max_new_tokens=LIMIT)
    expected = answer[0, inputs["input_ids"].shape[1] :].tolist()
    options = [WindowOptions(prefix=prefix), WindowOptions()]
    (tokens, plain), _ = tokens_in_batch(reference.runner, [noise(3.1)] * 2, options=options, limit=LIMIT)
    assert tokens == [*ids, *(expected[:-1] if expected[-1] in STOP_IDS else expected)]
    assert plain == reference.tokens(3.1)


def test_a_prompt_that_is_too_long_is_shortened_and_the_slot_still_holds_an_answer(references: list[Reference]) -> None:
    assert references[0].runner.max_new_tokens(WindowOptions(prompt="word " * 5_000)) >= 400


@given(st.integers(8, 3000))
def test_audio_tokens_as_the_reference_processor_counts_them(frames: int) -> None:
    assert audio_tokens(frames) == int(glm_processor_length(frames))


def glm_processor_length(frames: int) -> torch.Tensor:
    length: torch.Tensor = GlmAsrProcessor._get_audio_token_length(None, torch.tensor(frames))
    return length


def test_no_audio_token_is_missing_at_the_shortest_lengths() -> None:
    assert [audio_tokens(frames) for frames in (1, 7, 8, 15, 16)] == [1, 1, 1, 2, 2]
