"""Rounding shapes up changes no token; the capture itself needs a GPU (tests/gpu)."""

import pytest
import torch

from asr_service.models.glm_asr import GlmAsrRunner
from asr_service.models.graphs import StepGraphs, power_of_two
from asr_service.models.whisper import WhisperRunner
from tests.checkpoints import glm_model, glm_processor
from tests.recordings import load_pcm, packaged_clips
from tests.unit.models.batching import tokens_in_batch
from tests.unit.models.test_glm_asr import noise

CPU = torch.device("cpu")


def widened(runner: GlmAsrRunner | WhisperRunner) -> StepGraphs:
    return StepGraphs(runner._step, CPU, runner.info.slots, buckets=True)


def test_powers_of_two() -> None:
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 16, 17)] == [1, 2, 4, 4, 8, 16, 32]


def test_steps_that_are_wider_than_needed_say_the_same_glm_asr() -> None:
    runner = GlmAsrRunner(glm_model(1), glm_processor(), name="small", slots=6, started=0.0)
    windows = [noise(duration) for duration in (0.5, 4.2, 1.0, 2.2, 0.9, 3.1, 1.7)]
    arrivals = [0, 0, 1, 5, 5, 9, 12]
    plain = tokens_in_batch(runner, windows, arrivals=arrivals, limit=24)
    runner._graphs = widened(runner)
    assert tokens_in_batch(runner, windows, arrivals=arrivals, limit=24) == plain


@pytest.mark.timeout(240)
def test_steps_that_are_wider_than_needed_say_the_same_whisper(
    whisper_runner: WhisperRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = [load_pcm(path) for path in packaged_clips()[:3]]
    plain = tokens_in_batch(whisper_runner, windows, languages=["en"] * 3)
    monkeypatch.setattr(whisper_runner, "_graphs", widened(whisper_runner))
    assert tokens_in_batch(whisper_runner, windows, languages=["en"] * 3) == plain
