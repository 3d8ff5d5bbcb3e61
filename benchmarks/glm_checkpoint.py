"""A GLM-ASR checkpoint of full size with random weights: as slow as the real one, and it says nothing.

    python -m benchmarks.glm_checkpoint

Owns where it is kept (beside the peers' environments) and how it is made. 4.5 GB in bfloat16.
"""

import shutil
from pathlib import Path

import torch
from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration

from benchmarks.cli import start
from benchmarks.peers import environments
from tests.checkpoints import STOP_IDS, glm_processor

_SEED = 1


def ensure() -> Path:
    """The checkpoint's folder, made on first use."""
    folder = environments.root() / "glm-asr-random"
    if folder.is_dir():
        return folder
    scratch = folder.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    model = _model()
    model.save_pretrained(scratch)
    glm_processor().save_pretrained(scratch)
    scratch.rename(folder)
    return folder


def config() -> GlmAsrConfig:
    """The published model's sizes, which are the class's defaults."""
    return GlmAsrConfig()


def _model() -> GlmAsrForConditionalGeneration:
    torch.manual_seed(_SEED)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = GlmAsrForConditionalGeneration(config())
    finally:
        torch.set_default_dtype(default)
    model.generation_config.eos_token_id = list(STOP_IDS)
    model.generation_config.pad_token_id = STOP_IDS[0]
    return model


def main() -> None:
    """Make the checkpoint and print its folder."""
    print(ensure())


if __name__ == "__main__":
    start(main)
