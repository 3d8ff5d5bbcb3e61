"""The same tokens on a GPU as on the CPU. Runs only where there is a CUDA device."""

import numpy as np
import pytest
import torch

from asr_service.models.glm_asr import GlmAsrRunner
from tests.checkpoints import glm_model, glm_processor
from tests.unit.models.batching import tokens_in_batch

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_a_batch_says_the_same_as_on_the_cpu(exact: bool, int8: bool) -> None:
    processor = glm_processor()
    windows = [(np.random.default_rng(i).standard_normal(16_000 * (i + 1)) * 3_000).astype(np.int16) for i in range(6)]
    answers = []
    for device in ("cpu", "cuda"):
        model = glm_model(0).to(torch.device(device))
        runner = GlmAsrRunner(model, processor, name="small", slots=4, started=0.0, exact_encoder=exact, int8=int8)
        answers.append(tokens_in_batch(runner, windows, limit=24)[0])
    cpu, cuda = answers
    # Rounding in 8 bits may tip a close decision; in float32 nothing may differ.
    agreeing = sum(a == b for a, b in zip(cpu, cuda, strict=True))
    assert agreeing == len(windows) if not int8 else agreeing >= len(windows) // 2
