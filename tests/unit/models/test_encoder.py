"""The shared encoder: exact equals transformers; with the silence cache, what is silent stays exact."""

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from asr_service.models.encoder import SilenceCache, clip_of, own_frames, padding_window
from asr_service.models.features import LogMel
from asr_service.models.whisper import WhisperRunner
from tests.recordings import load_pcm, packaged_clips

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def silence(whisper_runner: WhisperRunner) -> SilenceCache:
    with torch.inference_mode():
        return whisper_runner._encoder.silence(padding_window(80, 3_000, torch.float32, CPU))


@torch.inference_mode()
def test_exact_states_are_transformers_states(
    whisper_runner: WhisperRunner, whisper_reference: WhisperForConditionalGeneration
) -> None:
    features = [whisper_runner.features(load_pcm(path)) for path in packaged_clips()[:2]]
    clips = [clip_of(f, exact=True, dtype=torch.float32, device=CPU) for f in features]
    reference = whisper_reference.model.encoder(torch.stack([clip.log_mel for clip in clips])).last_hidden_state
    for ours, theirs in zip(whisper_runner._encoder(clips), reference, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


@torch.inference_mode()
def test_a_clip_of_silence_looks_like_the_silence_of_a_window(
    whisper_runner: WhisperRunner, silence: SilenceCache
) -> None:
    """A clip without any sound is where the cache approximates nothing but its keys, by their clusters."""
    nothing = LogMelOfNothing(whisper_runner)
    for samples in (0, 16_000, 100_000, 480_000):
        clip = clip_of(nothing(samples), exact=False, dtype=torch.float32, device=CPU)
        (states,) = whisper_runner._encoder([clip], silence)
        similarity = torch.nn.functional.cosine_similarity(states, silence.states[: clip.own], dim=-1)
        assert similarity.mean() > 0.9


class LogMelOfNothing:
    def __init__(self, runner: WhisperRunner) -> None:
        self._log_mel: LogMel = runner._log_mel

    def __call__(self, samples: int):  # type: ignore[no-untyped-def]
        return self._log_mel(np.zeros(samples, dtype=np.int16))


@torch.inference_mode()
def test_a_clip_is_not_changed_by_its_neighbours(whisper_runner: WhisperRunner, silence: SilenceCache) -> None:
    features = [whisper_runner.features(load_pcm(path)) for path in packaged_clips()[:3]]
    clips = [clip_of(f, exact=False, dtype=torch.float32, device=CPU) for f in features]
    together = whisper_runner._encoder(clips, silence)
    for clip, states in zip(clips, together, strict=True):
        torch.testing.assert_close(states, whisper_runner._encoder([clip], silence)[0], atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_speech_is_encoded_nearly_as_in_the_whole_window(whisper_runner: WhisperRunner, silence: SilenceCache) -> None:
    features = whisper_runner.features(load_pcm(packaged_clips()[0]))
    (exact,) = whisper_runner._encoder([clip_of(features, exact=True, dtype=torch.float32, device=CPU)])
    cached_clip = clip_of(features, exact=False, dtype=torch.float32, device=CPU)
    (cached,) = whisper_runner._encoder([cached_clip], silence)
    speech = features.frames // 2
    assert cached_clip.own < 400
    similarity = torch.nn.functional.cosine_similarity(cached[:speech], exact[:speech], dim=-1)
    assert similarity.mean() > 0.97


def test_own_frames_cover_the_audio_and_a_margin_but_no_more_than_a_window(whisper_runner: WhisperRunner) -> None:
    for samples in (0, 1_600, 64_000, 300_000, 470_000, 480_000):
        features = whisper_runner.features(np.zeros(samples, dtype=np.int16))
        own = own_frames(features, exact=False)
        assert own == 1_500 or own >= features.frames / 2 + 50
        assert own <= min(1_500, features.frames // 2 + 50 + 16)
        assert own_frames(features, exact=True) == 1_500
