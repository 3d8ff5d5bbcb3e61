"""Whisper in the engine: encoder, slot caches and a batched decode step over transformers' weights.

Owns everything that is particular to Whisper: its prompt, language detection, suppressed tokens, cross-attention.
Checked token by token against transformers' greedy `generate` in float32.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

from asr_service.domain import ModelInfo, WindowOptions
from asr_service.models.base import Admitted, Features, NewSequence
from asr_service.models.features import LogMel
from asr_service.models.layers import (
    Conv1d,
    LayerNorm,
    Linear,
    Rows,
    SlotCache,
    attend,
    causal_mask,
    merge_heads,
    split_heads,
)

_LENGTH_BUCKET = 32
"""Self-attention reads cached positions in multiples of this, so that shapes repeat from step to step."""


@dataclass(frozen=True, slots=True)
class _EncoderLayer:
    norm: LayerNorm
    qkv: Linear
    out: Linear
    mlp_norm: LayerNorm
    fc1: Linear
    fc2: Linear

    @classmethod
    def of(cls, layer: WhisperEncoderLayer) -> "_EncoderLayer":
        attention = layer.self_attn
        return cls(
            LayerNorm.of(layer.self_attn_layer_norm),
            Linear.of(attention.q_proj, attention.k_proj, attention.v_proj, scale=attention.scaling),
            Linear.of(attention.out_proj),
            LayerNorm.of(layer.final_layer_norm),
            Linear.of(layer.fc1),
            Linear.of(layer.fc2),
        )


@dataclass(frozen=True, slots=True)
class _DecoderLayer:
    norm: LayerNorm
    qkv: Linear
    out: Linear
    cross_norm: LayerNorm
    cross_q: Linear
    cross_kv: Linear
    cross_out: Linear
    mlp_norm: LayerNorm
    fc1: Linear
    fc2: Linear

    @classmethod
    def of(cls, layer: WhisperDecoderLayer) -> "_DecoderLayer":
        own, cross = layer.self_attn, layer.encoder_attn
        return cls(
            LayerNorm.of(layer.self_attn_layer_norm),
            Linear.of(own.q_proj, own.k_proj, own.v_proj, scale=own.scaling),
            Linear.of(own.out_proj),
            LayerNorm.of(layer.encoder_attn_layer_norm),
            Linear.of(cross.q_proj, scale=cross.scaling),
            Linear.of(cross.k_proj, cross.v_proj),
            Linear.of(cross.out_proj),
            LayerNorm.of(layer.final_layer_norm),
            Linear.of(layer.fc1),
            Linear.of(layer.fc2),
        )


class WhisperRunner:
    """Implements `models.base.Runner`. The model passed in may be dropped afterwards: its weights are repacked."""

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        tokenizer: WhisperTokenizerFast,
        extractor: WhisperFeatureExtractor,
        *,
        name: str,
        slots: int,
        started: float,
    ) -> None:
        self._tokenizer = tokenizer
        self._log_mel = LogMel(extractor)
        self.device, self.dtype = model.device, model.dtype
        self._heads = model.config.decoder_attention_heads
        self._encoder_heads = model.config.encoder_attention_heads
        self._read_generation_config(model)
        self._build(model, slots)
        self._info = ModelInfo(
            name=name,
            family="whisper",
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            languages=tuple(sorted(self._language_ids)),
            slots=slots,
            memory_bytes=model.num_parameters() * self.dtype.itemsize
            + self._self_cache.nbytes
            + self._cross_cache.nbytes,
            load_s=time.monotonic() - started,
        )

    def _read_generation_config(self, model: WhisperForConditionalGeneration) -> None:
        config = model.generation_config
        eos = config.eos_token_id
        self.stop_ids = frozenset(eos if isinstance(eos, list) else [eos])
        self._start_id = int(config.decoder_start_token_id)
        self._no_timestamps_id = config.no_timestamps_token_id
        self._previous_id = self._tokenizer.convert_tokens_to_ids("<|startofprev|>")
        multilingual = getattr(config, "is_multilingual", True)
        self._language_ids = {token.strip("<|>"): i for token, i in config.lang_to_id.items()} if multilingual else {}
        self._languages = {i: code for code, i in self._language_ids.items()}
        self._task_ids = config.task_to_id if multilingual else {}
        self._suppressed = list(config.suppress_tokens or [])
        self._suppressed_first = list(config.begin_suppress_tokens or [])

    def _build(self, model: WhisperForConditionalGeneration, slots: int) -> None:
        encoder, decoder, config = model.model.encoder, model.model.decoder, model.config
        self._conv1, self._conv2 = Conv1d.of(encoder.conv1), Conv1d.of(encoder.conv2)
        self._encoder_positions = encoder.embed_positions.weight.detach()
        self._encoder_layers = [_EncoderLayer.of(layer) for layer in encoder.layers]
        self._encoder_norm = LayerNorm.of(encoder.layer_norm)
        self._embedding = decoder.embed_tokens.weight.detach()
        self._decoder_positions = decoder.embed_positions.weight.detach()
        self._decoder_layers = [_DecoderLayer.of(layer) for layer in decoder.layers]
        self._decoder_norm = LayerNorm.of(decoder.layer_norm)
        # Whisper's output layer has no bias, so the tokens that are never allowed cost nothing as a bias of -inf.
        bias = self._embedding.new_zeros(config.vocab_size)
        bias[self._suppressed] = float("-inf")
        self._head = Linear(model.proj_out.weight, bias)
        self._source_length: int = config.max_source_positions
        self._max_length: int = config.max_target_positions
        head_dim = config.d_model // self._heads
        shape = (config.decoder_layers, slots, self._heads, head_dim)
        self._self_cache = SlotCache(*shape, self._max_length, self.dtype, self.device)
        self._cross_cache = SlotCache(*shape, self._source_length, self.dtype, self.device)
        self._rows = Rows(slots, self.device)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def frames_per_window(self) -> int:
        return self._log_mel.max_frames

    def features(self, pcm: NDArray[np.int16]) -> Features:
        return self._log_mel(pcm)

    def encoder_frames(self, features: Features) -> int:
        return int(features.log_mel.shape[1])

    def max_new_tokens(self, options: WindowOptions) -> int:
        return self._max_length - len(self._prompt(options, language="en"))

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    @torch.inference_mode()
    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        rows = slice(first_row, first_row + len(batch))
        log_mel = np.stack([sequence.features.log_mel for sequence in batch])
        states = self._encode(torch.from_numpy(log_mel).to(self.device, self.dtype))
        for index, layer in enumerate(self._decoder_layers):
            keys, values = layer.cross_kv(states).chunk(2, dim=-1)
            self._cross_cache.write_prefix(
                index, rows, split_heads(keys, self._heads), split_heads(values, self._heads)
            )
        languages = self._detect_languages(rows, [sequence.options.language for sequence in batch])
        prompts = [self._prompt(s.options, language) for s, language in zip(batch, languages, strict=True)]
        tokens = self._prefill(rows, prompts)
        return [Admitted(language, token) for language, token in zip(languages, tokens, strict=True)]

    @torch.inference_mode()
    def decode(self, first_row: int, count: int) -> list[int]:
        rows = slice(first_row, first_row + count)
        length = self._rows.read_length(rows, _LENGTH_BUCKET, self._max_length)
        hidden = self._decoder(rows, self._rows.tokens[rows, None], self._rows.positions[rows], length)
        return self._rows.advance(rows, self._head(hidden[:, 0]), [1] * count)

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        self._self_cache.move(source, target, self._rows.lengths[source])
        self._cross_cache.move(source, target, self._source_length)
        self._rows.move(source, target)

    def _encode(self, log_mel: Tensor) -> Tensor:
        """log_mel [batch, mel bins, frames] → encoder states [batch, frames / 2, width]."""
        x = self._conv2(self._conv1(log_mel)).transpose(1, 2) + self._encoder_positions
        for layer in self._encoder_layers:
            qkv = layer.qkv(layer.norm(x)).chunk(3, dim=-1)
            query, keys, values = (split_heads(part, self._encoder_heads) for part in qkv)
            mixed = torch.nn.functional.scaled_dot_product_attention(query, keys, values, scale=1.0)
            x = layer.out(merge_heads(mixed), residual=x)
            x = layer.fc2(layer.fc1(layer.mlp_norm(x), "gelu"), residual=x)
        return self._encoder_norm(x)

    def _decoder(self, rows: slice, tokens: Tensor, start: Tensor, length: int) -> Tensor:
        """Run tokens [rows, n] at positions start [rows] … through the decoder; keys up to `length` are read.

        Writes their keys and values into the cache. Returns hidden states [rows, n, width].
        """
        count = tokens.shape[1]
        positions = start[:, None] + torch.arange(count, device=self.device)
        x = self._embedding[tokens] + self._decoder_positions[positions]
        mask = causal_mask(start, count, length, self.dtype)
        transposed = self._self_cache.transposed
        for index, layer in enumerate(self._decoder_layers):
            qkv = layer.qkv(layer.norm(x)).chunk(3, dim=-1)
            query, keys, values = (split_heads(part, self._heads) for part in qkv)
            if count == 1:
                self._self_cache.append(index, rows, start, keys, values)
            else:
                self._self_cache.write_prefix(index, rows, keys, values)
            mixed = attend(query, *self._self_cache.read(index, rows, length), mask, transposed=transposed)
            x = layer.out(merge_heads(mixed), residual=x)
            query = split_heads(layer.cross_q(layer.cross_norm(x)), self._heads)
            cross = self._cross_cache.read(index, rows, self._source_length)
            x = layer.cross_out(merge_heads(attend(query, *cross, None, transposed=transposed)), residual=x)
            x = layer.fc2(layer.fc1(layer.mlp_norm(x), "gelu"), residual=x)
        return self._decoder_norm(x)

    def _prefill(self, rows: slice, prompts: list[list[int]]) -> list[int]:
        """Fill the caches of `rows` from position 0 and return each row's first new token."""
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        padded = [prompt + prompt[-1:] * (longest - len(prompt)) for prompt in prompts]
        start = self._rows.reset(rows)
        hidden = self._decoder(rows, torch.tensor(padded, device=self.device), start, longest)
        last = hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
        logits = self._head(last)
        logits[:, self._suppressed_first] = float("-inf")
        return self._rows.advance(rows, logits, lengths)

    def _detect_languages(self, rows: slice, given: list[str | None]) -> list[str | None]:
        """The languages of rows whose language is not given: the likeliest language token after the start token."""
        if not self._language_ids or all(language is not None for language in given):
            return given
        start = torch.full((len(given), 1), self._start_id, device=self.device)
        hidden = self._decoder(rows, start, self._rows.reset(rows), 1)
        ids = torch.tensor(list(self._languages), device=self.device)
        best = ids[self._head(hidden[:, 0])[:, ids].max(dim=-1).indices].tolist()
        return [self._languages[i] if language is None else language for i, language in zip(best, given, strict=True)]

    def _prompt(self, options: WindowOptions, language: str | None) -> list[int]:
        prompt = [self._start_id]
        if language is not None and self._language_ids:
            prompt += [self._language_ids[language], self._task_ids["transcribe"]]
        prompt.append(self._no_timestamps_id)
        if not options.prompt:
            return prompt
        # As in the reference: the text before this window, cut to its last half a context.
        text = self._tokenizer.encode(" " + options.prompt.strip(), add_special_tokens=False)
        return [self._previous_id, *text[-(self._max_length // 2 - 1) :], *prompt]
