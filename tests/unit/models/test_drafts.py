"""Drafts of growing speech: what they leave for the next one saves most of the work, and changes little."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asr_service.domain import WindowOptions
from asr_service.models.base import NewSequence
from asr_service.models.drafts import DraftMemory
from asr_service.models.encoder import Clip, Past, SilenceCache, clip_of, padding_window
from asr_service.models.whisper import WhisperRunner
from tests.recordings import load_pcm, packaged_clips

CPU = torch.device("cpu")
ENGLISH = WindowOptions("en")


@pytest.fixture(scope="module")
def speech() -> NDArray[np.int16]:
    """Some ten seconds of English."""
    return np.concatenate([load_pcm(path) for path in packaged_clips() if path.parent.name == "en"])[:160_000]


@pytest.fixture(scope="module")
def silence(whisper_runner: WhisperRunner) -> SilenceCache:
    with torch.inference_mode():
        return whisper_runner._encoder.silence(padding_window(80, 3_000, torch.float32, CPU))


def clip(runner: WhisperRunner, pcm: NDArray[np.int16]) -> tuple[Clip, int]:
    features = runner.features(pcm)
    return clip_of(features, exact=False, dtype=torch.float32, device=CPU), features.frames // 2


@torch.inference_mode()
def test_a_past_that_is_right_gives_the_same_states(
    whisper_runner: WhisperRunner, silence: SilenceCache, speech: NDArray[np.int16]
) -> None:
    """Cut out of the whole clip's own run, so that nothing about it is old."""
    whole, _ = clip(whisper_runner, speech)
    known = whisper_runner._encoder.with_pasts([whole], silence)[0]
    other, _ = clip(whisper_runner, speech[:40_000])
    for frames in (1, 2, 16, 160, 400):
        again = Clip(whole.log_mel, whole.own, known.first(frames))
        states, unrelated = whisper_runner._encoder([again, other], silence)
        torch.testing.assert_close(states, known.states, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(unrelated, whisper_runner._encoder([other], silence)[0], atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_what_lies_a_second_back_hardly_changes_any_more(
    whisper_runner: WhisperRunner, silence: SilenceCache, speech: NDArray[np.int16]
) -> None:
    memory = DraftMemory(whisper_runner._encoder, silence)
    similarities = []
    for end in range(24_000, len(speech), 16_000):
        fresh, heard = clip(whisper_runner, speech[:end])
        recalled = memory.recall("r", fresh)
        (past,) = whisper_runner._encoder.with_pasts([recalled], silence)
        memory.remember("r", fresh, heard, past)
        (exact,) = whisper_runner._encoder([fresh], silence)
        similarities.append(torch.nn.functional.cosine_similarity(past.states, exact, dim=-1).mean().item())
        assert recalled.known == (0 if end == 24_000 else max(0, (heard - 50 - 50) // 16 * 16))
    assert min(similarities) > 0.98


@pytest.mark.slow
def test_drafts_read_as_windows_do(whisper_runner: WhisperRunner, speech: NDArray[np.int16]) -> None:
    same = 0
    ends = range(24_000, 110_000, 16_000)
    for end in ends:
        features = whisper_runner.features(speech[:end])
        texts = []
        for speech_of in ("request", None):
            tokens = list(whisper_runner.admit(0, [NewSequence(features, ENGLISH, speech_of=speech_of)])[0].tokens)
            while tokens[-1] not in whisper_runner.stop_ids and len(tokens) < 60:
                tokens += whisper_runner.decode(0, 1)
            texts.append(whisper_runner.text(tokens[:-1]))
        same += texts[0] == texts[1]
    assert same >= 0.7 * len(ends)


def test_another_window_of_the_same_request_is_not_taken_for_it(
    whisper_runner: WhisperRunner, silence: SilenceCache, speech: NDArray[np.int16]
) -> None:
    memory = DraftMemory(whisper_runner._encoder, silence)
    first, heard = clip(whisper_runner, speech[:80_000])
    with torch.inference_mode():
        memory.remember("r", first, heard, whisper_runner._encoder.with_pasts([first], silence)[0])
    longer, _ = clip(whisper_runner, speech[:100_000])
    other, _ = clip(whisper_runner, speech[40_000:140_000])
    shorter, _ = clip(whisper_runner, speech[:20_000])
    assert memory.recall("r", longer).known > 0
    assert memory.recall("r", other).known == 0
    assert memory.recall("r", shorter).known == 0
    assert memory.recall("s", longer).known == 0
    memory.forget("r")
    assert memory.recall("r", longer).known == 0


def test_the_oldest_is_forgotten_when_there_is_too_much(whisper_runner: WhisperRunner) -> None:
    def past(frames: int) -> Past:
        return Past([(torch.zeros(2, frames, 4), torch.zeros(2, frames, 4))], torch.zeros(frames, 8))

    def window() -> Clip:
        return Clip(torch.zeros(3, 400), 200)

    memory = DraftMemory(whisper_runner._encoder, None, max_bytes=3 * 128 * (2 * 2 * 4 + 8 + 6) * 4)
    for request_id in "abcd":
        memory.remember(request_id, window(), 178, past(200))
    assert [request_id for request_id in "abcd" if memory.recall(request_id, window()).known] == ["b", "c", "d"]
    assert memory.nbytes == 3 * 128 * (2 * 2 * 4 + 8 + 6) * 4
    memory.remember("e", window(), 60, past(200))
    assert not memory.recall("e", window()).known
