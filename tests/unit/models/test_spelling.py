"""The bytes of tokens, put together, are the text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import WhisperTokenizerFast

from asr_service.models.spelling import _BYTES, Spelling
from tests.checkpoints import SPECIAL_TOKENS, glm_processor

GLM = Spelling(glm_processor().tokenizer)


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> Spelling:
    return Spelling(WhisperTokenizerFast.from_pretrained(whisper_folder))


def test_every_byte_has_one_character_of_the_known_alphabet() -> None:
    assert sorted(_BYTES.values()) == list(range(256))
    assert set(_BYTES) == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize("text", [" Zoë's café", "广州市", " naïve — 😀!", "नमस्ते दुनिया"])
def test_whispers_tokens_put_together(text: str, whisper: Spelling) -> None:
    tokens = whisper.encode(text)
    assert b"".join(map(whisper.data, tokens)).decode() == text


@given(st.text(max_size=40))
def test_any_text_of_a_byte_level_vocabulary(text: str) -> None:
    assert b"".join(map(GLM.data, GLM.encode(text))).decode() == text


def test_marks_have_no_bytes(whisper: Spelling) -> None:
    assert {GLM.data(token) for token in SPECIAL_TOKENS} == {b""}
    # End of text, a language, no timestamps, and the timestamp 0.00.
    assert {whisper.data(token) for token in (50257, 50259, 50363, 50364)} == {b""}


def test_log_probabilities_of_tokens_that_were_cut_off_are_left_out() -> None:
    details = GLM.details(GLM.encode("ab"), [-0.5, -0.25, -0.125])
    assert [(token.data, token.logprob) for token in details] == [(b"a", -0.5), (b"b", -0.25)]
