"""Models that the tests of this folder share; loading them takes seconds."""

from pathlib import Path

import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

from asr_service.models.embedded import ensure_checkpoint
from asr_service.models.whisper import WhisperRunner


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_checkpoint(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def whisper_reference(whisper_folder: Path) -> WhisperForConditionalGeneration:
    """Transformers' own Whisper base in float32."""
    return WhisperForConditionalGeneration.from_pretrained(whisper_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def whisper_runner(whisper_folder: Path, whisper_reference: WhisperForConditionalGeneration) -> WhisperRunner:
    tokenizer = WhisperTokenizerFast.from_pretrained(whisper_folder)
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    return WhisperRunner(
        whisper_reference, tokenizer, extractor, name="whisper-base", slots=16, started=0.0, exact_encoder=True
    )
