"""What a model's name means, and one sentence for every way in which a model cannot be had."""

import json
from pathlib import Path

import pytest
import torch

from asr_service.domain import WindowOptions
from asr_service.engine.messages import Submit
from asr_service.engine.process import _info, _warm_up, _with_features
from asr_service.errors import ModelUnavailable
from asr_service.models import registry
from asr_service.models.registry import GLM_ASR_ID, PINNED_REVISIONS, LoadOptions, load_aligner, load_runner
from asr_service.models.whisper import WhisperRunner
from tests.checkpoints import save_glm_checkpoint
from tests.unit.models.batching import tokens_in_batch
from tests.unit.models.test_glm_asr import noise

FLOAT32 = LoadOptions(device="cpu", dtype="float32", slots=2)


@pytest.fixture(scope="module")
def glm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_glm_checkpoint(tmp_path_factory.mktemp("models") / "glm-small")


@pytest.mark.parametrize("encoder", ["auto", "exact", "cached"])
def test_a_glm_asr_folder_is_loaded_warmed_up_and_says_something(glm_folder: Path, encoder: str) -> None:
    runner = load_runner(str(glm_folder), LoadOptions(device="cpu", dtype="float32", slots=2, encoder=encoder))
    assert (runner.info.name, runner.info.family, runner.info.dtype) == ("glm-small", "glm-asr", "float32")
    assert runner.info.languages == ()
    _warm_up(runner)
    features = runner.features(noise(1.0))
    assert runner.encoder_frames(features) == (3_000 if encoder != "cached" else 224)
    (tokens,), (language,) = tokens_in_batch(runner, [features], limit=8)
    assert len(tokens) > 0
    assert language is None


def test_eight_bits_hold_less(glm_folder: Path) -> None:
    plain = load_runner(str(glm_folder), FLOAT32)
    quantized = load_runner(str(glm_folder), LoadOptions(device="cpu", dtype="float32", slots=2, quantization="int8"))
    assert quantized.info.memory_bytes < plain.info.memory_bytes


def test_whisper_is_loaded_and_warmed_up_with_either_encoder(
    whisper_folder: Path, whisper_runner: WhisperRunner
) -> None:
    _warm_up(whisper_runner)
    cached = load_runner(str(whisper_folder), FLOAT32)
    _warm_up(cached)
    assert "en" in cached.info.languages
    second_of_noise = cached.features(noise(1.0))
    assert cached.encoder_frames(second_of_noise) < whisper_runner.encoder_frames(second_of_noise) == 3_000


def test_the_published_model_is_pinned() -> None:
    assert len(PINNED_REVISIONS[GLM_ASR_ID]) == 40


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("/no/such/folder", "There is no model '/no/such/folder'"),
        ("whisper-huge", "There is no model 'whisper-huge'"),
        ("nobody/nothing", "Cannot fetch the model nobody/nothing from the Hugging Face hub"),
    ],
)
def test_names_of_nothing(model: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=sentence):
        load_runner(model, LoadOptions(device="cpu", cache_dir=tmp_path))


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="it has no readable config"):
        load_runner(str(tmp_path), FLOAT32)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelUnavailable, match="only whisper and glmasr can be served"):
        load_runner(str(tmp_path), FLOAT32)


def test_a_damaged_checkpoint(glm_folder: Path, tmp_path: Path) -> None:
    for file in glm_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:1_000])
    (tmp_path / "config.json").write_bytes((glm_folder / "config.json").read_bytes())
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load_runner(str(tmp_path), FLOAT32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ModelUnavailable, match="PyTorch sees none"):
        registry.resolve_device("cuda:0")
    assert registry.resolve_device("auto") == torch.device("cpu")


def test_precision_is_as_asked_and_never_half_by_itself() -> None:
    cpu = torch.device("cpu")
    assert registry.resolve_dtype("float16", cpu) is torch.float16
    assert registry.resolve_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


def test_a_served_whisper_aligns_its_own_texts(whisper_runner: WhisperRunner) -> None:
    assert load_aligner("none", whisper_runner, "whisper-base", FLOAT32) is None
    assert not _info(whisper_runner, None).word_times
    for name in ("auto", "whisper-base"):
        aligner = load_aligner(name, whisper_runner, "whisper-base", FLOAT32)
        assert aligner is not None
        assert aligner.shared
        info = _info(whisper_runner, aligner)
        assert info.word_times
        assert info.memory_bytes == whisper_runner.info.memory_bytes


def test_the_packaged_whisper_aligns_the_texts_of_glm_asr(glm_folder: Path, whisper_folder: Path) -> None:
    options = LoadOptions(device="cpu", dtype="float32", slots=2, cache_dir=whisper_folder.parent)
    served = load_runner(str(glm_folder), options)
    aligner = load_aligner("auto", served, str(glm_folder), options)
    assert aligner is not None
    assert not aligner.shared
    assert _info(served, aligner).memory_bytes == served.info.memory_bytes + aligner.memory_bytes > 150_000_000
    _warm_up(served, aligner)
    pcm = noise(2.0).astype("<i2").tobytes()
    for words in (True, False):
        inbound = _with_features(Submit(1, "r", pcm, WindowOptions(words=words)), served, aligner)
        assert isinstance(inbound, tuple)
        _, features, own = inbound
        assert len(features.log_mel) == 128
        assert (own is not None and len(own.log_mel) == 80) == words


def test_aligners_that_cannot_be_had(glm_folder: Path, whisper_runner: WhisperRunner) -> None:
    with pytest.raises(ModelUnavailable, match=r"ASR_ALIGNER is .*which is no Whisper"):
        load_aligner(str(glm_folder), whisper_runner, "whisper-base", FLOAT32)
    with pytest.raises(ModelUnavailable, match="There is no model 'whisper-huge': ASR_ALIGNER takes"):
        load_aligner("whisper-huge", whisper_runner, "whisper-base", FLOAT32)
