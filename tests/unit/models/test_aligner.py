"""Words are found where they are spoken: in clips that are joined with known silences, and where a script looks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

from asr_service.domain import ModelInfo, WindowOptions, Word
from asr_service.models.aligner import AttentionAligner, median_of_seven
from asr_service.models.base import Features, NewSequence
from asr_service.models.whisper import WhisperRunner
from asr_service.text.words import split_words
from tests.recordings import load_pcm, packaged_clips

RATE = 16_000
LANGUAGES = sorted({path.parent.name for path in packaged_clips()})


@pytest.fixture(scope="module")
def runner(whisper_folder: Path, whisper_reference: WhisperForConditionalGeneration) -> WhisperRunner:
    """As it is served: with the silence cache, in float32."""
    tokenizer = WhisperTokenizerFast.from_pretrained(whisper_folder)
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    return WhisperRunner(whisper_reference, tokenizer, extractor, name="whisper-base", slots=2, started=0.0)


@dataclass(frozen=True)
class Joined:
    """Clips of one language in one window: the words of each, and when its speech begins and ends in seconds."""

    pcm: NDArray[np.int16]
    texts: list[str]
    spoken: list[tuple[float, float]]

    @property
    def text(self) -> str:
        return (" " if any(" " in text for text in self.texts) else "").join(self.texts)

    def errors(self, words: Sequence[Word]) -> list[float]:
        """How far the first word's start and the last word's end of each clip are off, in seconds."""
        assert "".join(word.text for word in words).replace(" ", "") == self.text.replace(" ", "")
        found, at = [], 0
        for text, (start_s, end_s) in zip(self.texts, self.spoken, strict=True):
            count = len(split_words(text))
            found += [words[at].start_s - start_s, words[at + count - 1].end_s - end_s]
            at += count
        assert at == len(words)
        return found


def speech(pcm: NDArray[np.int16]) -> tuple[float, float]:
    """Start and end in seconds of what is less than 30 dB below the loudest 10 ms of a clean clip."""
    frames = pcm[: len(pcm) // 160 * 160].reshape(-1, 160).astype(np.float64)
    loudness = np.sqrt((frames**2).mean(axis=1))
    (loud,) = np.nonzero(loudness > loudness.max() * 10 ** (-30 / 20))
    return float(loud[0]) * 0.01, float(loud[-1] + 1) * 0.01


def joined(language: str, seed: int, *, noise: float = 0.0, plain: bool = False) -> Joined:
    """Clips in a random order with 0.5 to 1.5 s of silence between them, as many as fit into a window.

    noise: its amplitude, over all of the window. plain: texts in lower case and without punctuation.
    """
    rng = np.random.default_rng(seed)
    paths = [path for path in packaged_clips() if path.parent.name == language]
    pieces: list[NDArray[np.int16]] = []
    texts, spoken, length = [], [], 0
    for i in rng.permutation(len(paths)):
        clip, silence = load_pcm(paths[i]), np.zeros(int(RATE * rng.uniform(0.5, 1.5)), dtype=np.int16)
        if length + len(silence) + len(clip) > 30 * RATE:
            break
        start_s, end_s = speech(clip)
        length += len(silence)
        spoken.append((length / RATE + start_s, length / RATE + end_s))
        length += len(clip)
        pieces += [silence, clip]
        text = paths[i].with_suffix(".txt").read_text().strip()
        texts.append("".join(c for c in text.lower() if c.isalnum() or c.isspace()) if plain else text)
    pcm = np.concatenate(pieces)
    return Joined((pcm + rng.standard_normal(len(pcm)) * noise).astype(np.int16), texts, spoken)


def align(runner: WhisperRunner, window: Joined, language: str | None) -> tuple[Word, ...]:
    words = AttentionAligner(runner, shared=False).words(7, runner.features(window.pcm), window.text, language)
    check(words, len(window.pcm) / RATE)
    return words


def check(words: Sequence[Word], duration_s: float) -> None:
    for word in words:
        assert 0.0 <= word.start_s <= word.end_s <= duration_s
    for before, after in pairwise(words):
        assert before.end_s <= after.start_s


@pytest.mark.parametrize("noise", [0.0, 30.0])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_at_the_edges_of_joined_clips(runner: WhisperRunner, language: str, plain: bool, noise: float) -> None:
    window = joined(language, 1, noise=noise, plain=plain)
    assert len(window.texts) >= 2
    errors = window.errors(align(runner, window, language))
    assert np.median(np.abs(errors)) <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_all_languages_in_many_orders(runner: WhisperRunner, plain: bool) -> None:
    errors: list[float] = []
    for language in LANGUAGES:
        for seed in range(4):
            window = joined(language, seed, noise=10.0 * seed, plain=plain)
            errors += window.errors(align(runner, window, language if seed % 2 else None))
    distance = np.abs(errors)
    assert np.median(distance) <= 0.1
    assert np.percentile(distance, 90) <= 0.3


def test_the_served_model_aligns_on_its_own_rows_and_leaves_them_as_they_are(runner: WhisperRunner) -> None:
    window = joined("en", 2)
    features = runner.features(window.pcm)
    other = runner.features(window.pcm[: 5 * RATE])

    def said(aligner: AttentionAligner | None) -> tuple[list[int], tuple[Word, ...]]:
        batch = [NewSequence(other, WindowOptions("en")), NewSequence(features, WindowOptions("en"))]
        tokens = [[*admitted.tokens] for admitted in runner.admit(0, batch)]
        words: tuple[Word, ...] = ()
        for _ in range(12):
            if aligner is not None:
                words = aligner.words(1, features, window.text, "en")
            for row, token in enumerate(runner.decode(0, 2)):
                tokens[row].append(token)
        return tokens[0] + tokens[1], words

    undisturbed, _ = said(None)
    tokens, words = said(AttentionAligner(runner, shared=True))
    assert tokens == undisturbed
    alone = AttentionAligner(runner, shared=False).words(1, features, window.text, "en")
    assert [word.text for word in words] == [word.text for word in alone]
    assert np.abs(np.array([w.start_s - a.start_s for w, a in zip(words, alone, strict=True)])).max() <= 0.04


def test_attention_is_that_of_transformers(
    whisper_runner: WhisperRunner, whisper_reference: WhisperForConditionalGeneration
) -> None:
    features = whisper_runner.features(load_pcm(packaged_clips()[0]))
    tokens, _ = whisper_runner.spell("Hello, world.")
    weights, first = whisper_runner.attention(features, tokens, WindowOptions("en"))
    prompt = [50258, 50259, 50359, 50363]
    assert first == len(prompt) - 1
    # The fast kernels of transformers do not tell their weights.
    whisper_reference.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            answer = whisper_reference(
                input_features=torch.from_numpy(features.log_mel)[None],
                decoder_input_ids=torch.tensor([[*prompt, *tokens, 50257]]),
                output_attentions=True,
            )
    finally:
        whisper_reference.set_attn_implementation("sdpa")
    heads = sorted(map(tuple, whisper_reference.generation_config.alignment_heads))
    expected = np.stack([answer.cross_attentions[layer][0, head].numpy() for layer, head in heads])
    assert weights.shape == expected.shape
    assert np.abs(weights - expected).max() < 1e-4


def test_without_a_list_the_upper_half_of_all_heads_is_used(
    whisper_folder: Path, whisper_reference: WhisperForConditionalGeneration
) -> None:
    listed = whisper_reference.generation_config.alignment_heads
    whisper_reference.generation_config.alignment_heads = None
    try:
        tokenizer = WhisperTokenizerFast.from_pretrained(whisper_folder)
        extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
        runner = WhisperRunner(whisper_reference, tokenizer, extractor, name="w", slots=1, started=0.0)
    finally:
        whisper_reference.generation_config.alignment_heads = listed
    window = joined("en", 3)
    weights, _ = runner.attention(runner.features(window.pcm), runner.spell("Hello")[0], WindowOptions("en"))
    assert len(weights) == 3 * 8
    assert np.median(np.abs(window.errors(align(runner, window, "en")))) <= 0.1


def test_a_text_of_more_tokens_than_the_decoder_takes(runner: WhisperRunner) -> None:
    text = " ".join(["one two three four five six seven"] * 100)
    words = align(runner, replace(joined("en", 1), texts=[text]), "en")
    assert len(words) == 700
    assert words[-1].end_s > words[400].end_s > 0.0


@pytest.mark.parametrize("text", ["", "  \n", "?", "🙂👩‍🚀", "a", "<|endoftext|>", "ไทย", "\u0301"])
def test_texts_of_little_or_nothing(runner: WhisperRunner, text: str) -> None:
    noise = np.random.default_rng(0).integers(-500, 500, 400, dtype=np.int16)
    aligner = AttentionAligner(runner, shared=False)
    for pcm in (noise, noise[:1]):
        words = aligner.words(0, runner.features(pcm), text, None)
        assert len(words) == len(split_words(text))
        check(words, len(pcm) / RATE)


@given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("ab é. 你好，ไทย")), min_size=1, max_size=30))
def test_spelling_says_where_each_token_begins(runner: WhisperRunner, text: str) -> None:
    tokens, positions = runner.spell(text)
    assert len(tokens) == len(positions) > 0
    assert positions == sorted(positions)
    assert 0 <= positions[0] <= positions[-1] <= len(text)


def test_the_middle_of_seven_is_found_for_every_order() -> None:
    # What puts all zeros and ones right puts everything right (Knuth's zero-one principle).
    bits = (np.arange(128)[:, None] >> np.arange(7) & 1).astype(np.float32)
    assert np.array_equal(median_of_seven(list(bits.T)), np.median(bits, axis=1))


class ScriptedListener:
    """Spells a text letter by letter, and looks at what a script says while it reads each."""

    info = ModelInfo("scripted", "scripted", "cpu", "float32", (), 1, 123, 0.0)

    def __init__(self, looks: list[int]) -> None:
        self._looks = looks

    def features(self, pcm: NDArray[np.int16]) -> Features:
        raise NotImplementedError("tests bring their own")

    def max_new_tokens(self, options: WindowOptions) -> int:
        return 12

    def spell(self, text: str) -> tuple[list[int], list[int]]:
        return [ord(character) for character in text], list(range(len(text)))

    def attention(
        self, source: int | Features, tokens: Sequence[int], options: WindowOptions
    ) -> tuple[NDArray[np.float32], int]:
        weights = np.full((2, len(tokens) + 3, 100), 0.01, dtype=np.float32)
        for row, (begin, end) in enumerate(pairwise([*self._looks[: len(tokens) + 1], 100])):
            weights[:, row + 1, begin:end] = 1.0
        return weights, 1


def test_a_word_begins_where_its_first_token_does_and_ends_where_its_comma_does() -> None:
    window = Features(np.zeros((80, 3000), dtype=np.float32), 200, 2.0)
    aligner = AttentionAligner(ScriptedListener([0, 10, 20, 30, 40, 60, 80, 90]), shared=False)
    assert aligner.memory_bytes == 123
    # The token that holds the space before a word belongs to that word.
    assert aligner.words(0, window, "ab, cd.", "en") == (Word(0.0, 0.4, "ab,"), Word(0.6, 1.6, "cd."))
