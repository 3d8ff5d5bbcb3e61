"""Our log-mel features equal transformers', though only the audio is transformed and not the padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from asr_service.models.features import LogMel

EXTRACTOR = WhisperFeatureExtractor(feature_size=80)
LOG_MEL = LogMel(EXTRACTOR)


@given(
    samples=st.one_of(
        st.integers(1, 480_000), st.sampled_from([1, 159, 160, 161, 200, 201, 479_799, 479_999, 480_000])
    ),
    loudness=st.sampled_from([1, 300, 20_000]),
    seed=st.integers(0, 99),
)
def test_equal_to_transformers(samples: int, loudness: int, seed: int) -> None:
    pcm = np.clip(np.random.default_rng(seed).standard_normal(samples) * loudness, -32768, 32767).astype(np.int16)
    reference = EXTRACTOR(
        pcm.astype(np.float32) / 32768, sampling_rate=16_000, return_tensors="np", return_attention_mask=True
    )
    ours = LOG_MEL(pcm)
    np.testing.assert_allclose(ours.log_mel, reference["input_features"][0], atol=5e-5)
    assert ours.frames == reference["attention_mask"].sum()
    assert ours.duration_s == samples / 16_000


def test_nothing_at_all_is_all_padding() -> None:
    ours = LOG_MEL(np.zeros(0, dtype=np.int16))
    assert ours.frames == 0
    assert np.unique(ours.log_mel).tolist() == [pytest.approx(-1.5)]


def test_more_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 480000 samples"):
        LOG_MEL(np.zeros(480_001, dtype=np.int16))
