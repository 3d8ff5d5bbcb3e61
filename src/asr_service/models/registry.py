"""From a model's name to a runner on a device.

Owns what `ASR_MODEL`, `ASR_ALIGNER`, `ASR_DEVICE` and `ASR_DTYPE` mean. Raises ModelUnavailable with one sentence that
says what to do whenever a model cannot be had.
"""

import gc
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoProcessor,
    GlmAsrForConditionalGeneration,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from asr_service.errors import ModelUnavailable
from asr_service.models import embedded
from asr_service.models.aligner import AttentionAligner
from asr_service.models.base import Aligner, Runner
from asr_service.models.glm_asr import GlmAsrRunner
from asr_service.models.whisper import WhisperRunner

GLM_ASR_ID = "zai-org/GLM-ASR-Nano-2512"
PINNED_REVISIONS = {GLM_ASR_ID: "61ba4e0b3309b6656edea3e93e419f7bd5c61957"}
"""The weight format of GLM-ASR changed in December 2025; this revision is the one that was read."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model. encoder: "exact" or "cached" (silence-state cache), "auto" for the model's own default.
    quantization: "none", or "int8" for the linear layers.
    """

    device: str = "auto"
    dtype: str = "auto"
    encoder: str = "auto"
    quantization: str = "none"
    slots: int = 16
    revision: str | None = None
    cache_dir: Path = Path()
    setting: str = "ASR_MODEL"
    """What to name in a sentence that says what to do."""


def load_runner(model: str, options: LoadOptions) -> Runner:
    """Load `model`: the packaged name, a folder, or a hub id."""
    started = time.monotonic()
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    folder = find_checkpoint(model, options.revision, options.cache_dir, options.setting)
    family = _family(folder, model)
    try:
        runner = _LOADERS[family](
            folder,
            _Plan(
                _short(model), device, dtype, options.encoder, options.quantization == "int8", options.slots, started
            ),
        )
    except (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelUnavailable(f"The model in {folder} cannot be loaded: {reason}") from error
    gc.collect()
    return runner


def load_aligner(aligner: str, served: Runner, model: str, options: LoadOptions) -> Aligner | None:
    """What finds the times of words in the texts of `served`, which is `model`, loaded with `options`.

    aligner: "auto" for the served model itself where it is a Whisper, else the packaged one; "none"; or a Whisper's
    name, folder or hub id.
    """
    if aligner == "none":
        return None
    if isinstance(served, WhisperRunner) and aligner in ("auto", model):
        return AttentionAligner(served, shared=True)
    name = embedded.NAME if aligner == "auto" else aligner
    own = replace(options, encoder="auto", quantization="none", slots=1, revision=None, setting="ASR_ALIGNER")
    listener = load_runner(name, own)
    if not isinstance(listener, WhisperRunner):
        raise ModelUnavailable(f"ASR_ALIGNER is {aligner}, which is no Whisper; set it to one, to auto, or to none.")
    return AttentionAligner(listener, shared=False)


def resolve_device(name: str) -> torch.device:
    """The device that a setting means: "auto" is the first GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelUnavailable("ASR_DEVICE asks for a GPU, but PyTorch sees none; check the driver, or set it to cpu.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"ASR_DEVICE is {name}, but there are only {torch.cuda.device_count()} GPUs.")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision that a setting means: "auto" is bfloat16 where the hardware computes in it, else float32.

    Never float16 by itself: GLM-ASR can turn to garbage in it.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def find_checkpoint(model: str, revision: str | None, cache_dir: Path, setting: str = "ASR_MODEL") -> Path:
    """The folder that holds `model`, downloaded or converted first where necessary."""
    if model == embedded.NAME:
        return embedded.ensure_checkpoint(cache_dir)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ModelUnavailable(
            f"There is no model {model!r}: {setting} takes {embedded.NAME}, a hub id such as {GLM_ASR_ID}, or a folder."
        )
    try:
        return Path(snapshot_download(model, revision=revision or PINNED_REVISIONS.get(model), allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(
            f"Cannot fetch the model {model} from the Hugging Face hub ({reason.rstrip('.')}); "
            f"check its name, its revision and the network, or set {setting} to a folder that holds it."
        ) from error


def _family(folder: Path, model: str) -> str:
    try:
        family = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelUnavailable(f"{folder} is not a model: it has no readable config.json.") from error
    if family not in _LOADERS:
        raise ModelUnavailable(f"The model {model} is of type {family!r}; only whisper and glmasr can be served.")
    return str(family)


@dataclass(frozen=True, slots=True)
class _Plan:
    name: str
    device: torch.device
    dtype: torch.dtype
    encoder: str
    int8: bool
    slots: int
    started: float


def _load_whisper(folder: Path, plan: _Plan) -> Runner:
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=plan.dtype).to(plan.device).eval()
    tokenizer = WhisperTokenizerFast.from_pretrained(folder)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    # Shown to cost no accuracy on real speech, see benchmarks/RESULTS.md.
    exact = plan.encoder == "exact"
    return WhisperRunner(
        model,
        tokenizer,
        extractor,
        name=plan.name,
        slots=plan.slots,
        started=plan.started,
        exact_encoder=exact,
        int8=plan.int8,
    )


def _load_glm_asr(folder: Path, plan: _Plan) -> Runner:
    model = GlmAsrForConditionalGeneration.from_pretrained(folder, dtype=plan.dtype).to(plan.device).eval()
    processor = AutoProcessor.from_pretrained(folder)
    # What the cache does to its accuracy has not been measured on its real weights.
    exact = plan.encoder != "cached"
    return GlmAsrRunner(
        model,
        processor,
        name=plan.name,
        slots=plan.slots,
        started=plan.started,
        exact_encoder=exact,
        int8=plan.int8,
    )


def _short(model: str) -> str:
    """A folder's path is nobody's business outside; its name is."""
    return Path(model).name if Path(model).expanduser().is_dir() else model


_LOADERS = {"whisper": _load_whisper, "glmasr": _load_glm_asr}
