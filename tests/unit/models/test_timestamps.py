"""Whisper's own times: the rules by which it may write them, what it says by them, and the segments that come of it."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTimeStampLogitsProcessor,
    WhisperTokenizerFast,
)

from asr_service.domain import WindowOptions
from asr_service.models.base import NewSequence, TimeWriter
from asr_service.models.sampling import Rows
from asr_service.models.timestamps import Span, TimesSoFar, Timestamps
from asr_service.models.whisper import WhisperRunner
from tests.recordings import load_pcm, packaged_clips
from tests.unit.models.batching import finished_in_batch

# A vocabulary of 0 … 9 as text, 10 as the end, 11 as "no times", and times from 12 to 21.
END, NONE, FIRST, VOCABULARY = 10, 11, 12, 22
SMALL = Timestamps(first_id=FIRST, none_id=NONE, end_id=END, latest_first=3)
TIMES = WindowOptions("en", timestamps=True)


def reference_rules() -> WhisperTimeStampLogitsProcessor:
    config = GenerationConfig(eos_token_id=END, no_timestamps_token_id=NONE, max_initial_timestamp_index=3)
    return WhisperTimeStampLogitsProcessor(config, begin_index=1)


@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 24), bias=st.floats(-4, 4))
def test_the_rules_are_those_of_transformers(seed: int, length: int, bias: float) -> None:
    """Whatever a row has said by the rules, the same tokens are left for what comes next."""
    generator, reference = torch.Generator().manual_seed(seed), reference_rules()
    said, progress = [[0], [0]], [TimesSoFar(), TimesSoFar()]
    for _ in range(length):
        logits = torch.randn(2, VOCABULARY, generator=generator) * 2
        logits[:, FIRST:] += bias
        logits[:, END] = float("-inf")
        expected = reference(torch.tensor(said), logits.clone())
        SMALL.restrict(logits, progress)
        assert torch.equal(logits, expected)
        if bool((logits == float("-inf")).all(dim=1).any()):
            return
        for row, token in enumerate(torch.distributions.Categorical(logits=logits).sample().tolist()):
            said[row].append(token)
            progress[row].push(token, FIRST)


def test_only_rows_that_ask_are_restricted() -> None:
    rows = Rows(3, torch.device("cpu"), lambda text: [0], SMALL)
    rows.begin(0, [WindowOptions(), TIMES, WindowOptions(logprobs=True)])
    rows.reset(slice(0, 3))
    logits = torch.zeros(3, VOCABULARY)
    logits[:, 4] = 5.0
    before = logits.clone()
    assert rows.advance(slice(0, 3), logits, [1, 1, 1]) == [4, FIRST, 4]
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    # A time was the first token, so that a text must follow; then whatever is likeliest may.
    assert rows.advance(slice(0, 3), before.clone(), [1, 1, 1]) == [4, 4, 4]
    rows.move(1, 0)
    wishing = before.clone()
    wishing[:, FIRST + 2] = 9.0
    assert rows.advance(slice(0, 1), wishing[:1], [1]) == [FIRST + 2]


def test_a_model_without_times_is_not_restricted() -> None:
    rows = Rows(1, torch.device("cpu"), lambda text: [0])
    rows.begin(0, [TIMES])
    rows.reset(slice(0, 1))
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 4] = 5.0
    assert rows.advance(slice(0, 1), logits, [1]) == [4]


def times_of(spans: list[Span]) -> list[float]:
    return [time for span in spans for time in (span.start_s, span.end_s)]


@pytest.mark.parametrize(
    ("tokens", "spans"),
    [
        ([], []),
        ([FIRST], []),
        ([FIRST, 1, 2, FIRST + 5], [Span(0.0, 0.1, 0, 4)]),
        ([FIRST + 1, 1, FIRST + 3, FIRST + 4, 2, FIRST + 9], [Span(0.02, 0.06, 0, 3), Span(0.08, 0.12, 3, 6)]),
        # Cut off by the guard: until the end of the window, as is a time after it.
        ([FIRST, 1, FIRST + 3, FIRST + 3, 2], [Span(0.0, 0.06, 0, 3), Span(0.06, 0.12, 3, 5)]),
        ([FIRST + 8, 1, FIRST + 9], [Span(0.12, 0.12, 0, 3)]),
        # Not by the rules, but no reason to fail.
        ([1, 2], [Span(0.0, 0.12, 0, 2)]),
        ([FIRST + 5, 1, FIRST + 2], [Span(0.1, 0.1, 0, 3)]),
    ],
)
def test_a_text_is_cut_at_its_times(tokens: list[int], spans: list[Span]) -> None:
    found = SMALL.split(tokens, 0.12)
    assert [(s.first, s.last) for s in found] == [(s.first, s.last) for s in spans]
    assert times_of(found) == pytest.approx(times_of(spans))


@given(st.lists(st.integers(0, VOCABULARY - 1)), st.floats(0.0, 0.2))
def test_pieces_lie_within_the_window_in_order_and_hold_all_text(tokens: list[int], duration_s: float) -> None:
    spans = SMALL.split(tokens, duration_s)
    times = [0.0, *times_of(spans), duration_s]
    assert times == sorted(times)
    kept = [token for span in spans for token in tokens[span.first : span.last] if token < FIRST]
    assert kept == [token for token in tokens if token < FIRST]


@torch.inference_mode()
def reference(model: WhisperForConditionalGeneration, runner: WhisperRunner, pcm: NDArray[np.int16]) -> list[int]:
    """What transformers' `generate` says with times, of the features that the runner computes."""
    features = torch.from_numpy(runner.features(pcm).log_mel)[None]
    answer = model.generate(features, language="en", task="transcribe", return_timestamps=True)
    tokens: list[int] = answer[0].tolist()
    return [token for token in tokens if token not in runner.stop_ids]


def say(runner: WhisperRunner, windows: list[NDArray[np.int16]], options: list[WindowOptions]) -> list[list[int]]:
    return [[token.id for token in ended.details] for ended in finished_in_batch(runner, windows, options)]


def joined(count: int) -> NDArray[np.int16]:
    """Some clips with pauses between them, in one window."""
    clips = [load_pcm(path) for path in packaged_clips() if path.parent.name == "en"][:count]
    return np.concatenate([piece for clip in clips for piece in (clip, np.zeros(12_000, np.int16))])[: 28 * 16_000]


WITH_DETAILS = WindowOptions("en", timestamps=True, logprobs=True)


def test_whisper_writes_the_times_that_transformers_writes(
    whisper_runner: WhisperRunner, whisper_reference: WhisperForConditionalGeneration
) -> None:
    window, plain = joined(2), WindowOptions("en", logprobs=True)
    times, beside = say(whisper_runner, [window, window], [WITH_DETAILS, plain])
    assert times == reference(whisper_reference, whisper_runner, window)
    assert beside == say(whisper_runner, [window], [plain])[0]
    assert max(beside) < 50257


def test_the_parts_of_a_window_are_its_text(whisper_runner: WhisperRunner) -> None:
    assert isinstance(whisper_runner, TimeWriter)
    assert whisper_runner.info.timestamps
    window = joined(3)
    (ended,) = finished_in_batch(whisper_runner, [window], [WITH_DETAILS])
    assert len(ended.parts) >= 2
    assert " ".join(part.text for part in ended.parts) == ended.text
    assert sum(part.tokens for part in ended.parts) == len(ended.details)
    times = [0.0, *(time for part in ended.parts for time in (part.start_s, part.end_s)), len(window) / 16_000]
    assert times == sorted(times)
    assert not [token for token in ended.details if token.id > 50363 and token.data]


def small(seed: int, folder: Path, generation_config: GenerationConfig) -> WhisperForConditionalGeneration:
    """A narrow checkpoint with random float32 weights, which says text and times in any order that it may."""
    torch.manual_seed(seed)
    config = WhisperConfig.from_pretrained(
        folder,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.model.decoder.named_parameters():
            if parameter.dim() > 1:
                # Wide enough that attention and position decide the next token, instead of the last token's embedding.
                parameter.normal_(std=0.02 if "embed_tokens" in name else parameter.shape[-1] ** -0.5 * 3.0)
    model.generation_config = copy.deepcopy(generation_config)
    model.generation_config.alignment_heads = None
    return model


@torch.inference_mode()
def greedy(model: WhisperForConditionalGeneration, features: torch.Tensor, count: int) -> list[int]:
    """The likeliest tokens by transformers' model and rules; its `generate` would begin anew after some times."""
    config = model.generation_config
    tokens = [config.decoder_start_token_id, config.lang_to_id["<|en|>"], config.task_to_id["transcribe"]]
    begin = len(tokens)
    rules = [
        SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin),
        SuppressTokensLogitsProcessor(config.suppress_tokens),
        WhisperTimeStampLogitsProcessor(config, begin_index=begin),
    ]
    states = model.model.encoder(features)
    while len(tokens) < begin + count and tokens[-1] != config.eos_token_id:
        said = torch.tensor([tokens])
        scores = model(encoder_outputs=states, decoder_input_ids=said).logits[:, -1].float()
        for rule in rules:
            scores = rule(said, scores)
        tokens.append(int(scores.argmax()))
    return tokens[begin:]


def test_random_checkpoints_write_the_times_that_the_rules_of_transformers_let_them(
    whisper_folder: Path, whisper_reference: WhisperForConditionalGeneration
) -> None:
    tokenizer = WhisperTokenizerFast.from_pretrained(whisper_folder)
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    window, times = joined(1), 0
    for seed in range(3):
        model = small(seed, whisper_folder, whisper_reference.generation_config)
        runner = WhisperRunner(model, tokenizer, extractor, name="w", slots=2, started=0.0, exact_encoder=True)
        features = runner.features(window)
        batch = [NewSequence(runner.features(window[:16_000]), TIMES), NewSequence(features, TIMES)]
        tokens = list(runner.admit(0, batch)[1].tokens)
        while len(tokens) < 40 and tokens[-1] not in runner.stop_ids:
            tokens.append(runner.decode(0, 2)[1])
        assert tokens == greedy(model, torch.from_numpy(features.log_mel)[None], 40)
        times += sum(token >= 50364 for token in tokens)
    assert times > 6
