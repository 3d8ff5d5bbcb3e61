"""GLM-ASR in the engine: audio encoder, projector and Llama decoder over transformers' weights.

Owns everything that is particular to GLM-ASR: the reference prompt, the merge of four encoder frames into one token,
rotary positions. Checked token by token against transformers' greedy `generate` in float32, on small checkpoints.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GlmAsrForConditionalGeneration, GlmAsrProcessor
from transformers.models.glmasr.modeling_glmasr import GlmAsrEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from asr_service.domain import ModelInfo, Token, WindowOptions
from asr_service.models.base import Admitted, Features, NewSequence
from asr_service.models.encoder import (
    AudioEncoder,
    EncoderLayer,
    SilenceCache,
    clip_of,
    own_frames,
    padding_window,
)
from asr_service.models.features import LogMel
from asr_service.models.graphs import StepGraphs
from asr_service.models.layers import (
    Conv1d,
    LayerNorm,
    Linear,
    LinearFactory,
    SlotCache,
    attend,
    causal_mask,
    merge_heads,
    rotate,
    split_heads,
)
from asr_service.models.sampling import Rows
from asr_service.models.spelling import Spelling
from asr_service.text.guard import strip_framing

_SLOT_LENGTH = 1024
"""Positions of a slot: 375 audio tokens of 30 s, the prompt, and 500 tokens of text with room to spare."""
_MAX_PROMPT_TOKENS = 128
_LENGTH_BUCKET = 64
_FRAMES_PER_TOKEN = 4
_STOP_IDS = (59246, 59253, 59255)
"""All three end an answer; a runner that knows only one of them runs to its limit on most inputs."""


@dataclass(frozen=True, slots=True)
class _RmsNorm:
    weight: Tensor
    eps: float

    @classmethod
    def of(cls, module: nn.Module) -> "_RmsNorm":
        weight, eps = module.weight, module.variance_epsilon
        assert isinstance(weight, Tensor)
        assert isinstance(eps, float)
        return cls(weight.detach(), eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def _encoder_layer(layer: GlmAsrEncoderLayer, linear: LinearFactory) -> EncoderLayer:
    attention = layer.self_attn
    return EncoderLayer(
        LayerNorm.of(layer.input_layernorm),
        linear(attention.q_proj, attention.k_proj, attention.v_proj, scale=attention.scaling),
        linear(attention.o_proj),
        LayerNorm.of(layer.post_attention_layernorm),
        linear(layer.mlp.fc1),
        linear(layer.mlp.fc2),
    )


@dataclass(frozen=True, slots=True)
class _DecoderLayer:
    norm: _RmsNorm
    qkv: Linear
    out: Linear
    mlp_norm: _RmsNorm
    gate_up: Linear
    down: Linear

    @classmethod
    def of(cls, layer: LlamaDecoderLayer, linear: LinearFactory) -> "_DecoderLayer":
        attention = layer.self_attn
        return cls(
            _RmsNorm.of(layer.input_layernorm),
            linear(attention.q_proj, attention.k_proj, attention.v_proj, scale=attention.scaling),
            linear(attention.o_proj),
            _RmsNorm.of(layer.post_attention_layernorm),
            linear(layer.mlp.gate_proj, layer.mlp.up_proj),
            linear(layer.mlp.down_proj),
        )


class GlmAsrRunner:
    """Implements `models.base.Runner`. The model passed in may be dropped afterwards: its weights are repacked."""

    def __init__(
        self,
        model: GlmAsrForConditionalGeneration,
        processor: GlmAsrProcessor,
        *,
        name: str,
        slots: int,
        started: float,
        exact_encoder: bool = True,
        int8: bool = False,
    ) -> None:
        """`exact_encoder` computes every window whole instead of relying on the silence-state cache; `int8`
        quantizes the linear layers.
        """
        self._exact = exact_encoder
        self._processor = processor
        self._spelling = Spelling(processor.tokenizer)
        self._log_mel = LogMel(processor.feature_extractor)
        self.device, self.dtype = model.device, model.dtype
        self.stop_ids = frozenset(_STOP_IDS)
        self._instruction = processor.default_transcription_prompt
        weights_bytes = self._build(model, slots, LinearFactory(int8=int8))
        self._info = ModelInfo(
            name=name,
            family="glm-asr",
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            languages=(),
            slots=slots,
            memory_bytes=weights_bytes + self._cache.nbytes,
            load_s=time.monotonic() - started,
        )

    def _build(self, model: GlmAsrForConditionalGeneration, slots: int, linear: LinearFactory) -> int:
        encoder, decoder, config = model.model.audio_tower, model.model.language_model, model.config
        frames = config.audio_config.max_position_embeddings
        self._encoder = AudioEncoder(
            (Conv1d.of(encoder.conv1), Conv1d.of(encoder.conv2)),
            [_encoder_layer(layer, linear) for layer in encoder.layers],
            LayerNorm.of(encoder.norm),
            heads=config.audio_config.num_attention_heads,
            rotary=self._rotary_table(encoder.rotary_emb, frames),
        )
        self._silence: SilenceCache | None = None
        if not self._exact:
            window = padding_window(config.audio_config.num_mel_bins, 2 * frames, self.dtype, self.device)
            with torch.inference_mode():
                self._silence = self._encoder.silence(window)
        projector = model.model.multi_modal_projector
        self._project1, self._project2 = linear(projector.linear_1), linear(projector.linear_2)
        self._embedding = decoder.embed_tokens.weight.detach()
        self._heads = config.text_config.num_attention_heads
        self._kv_heads = config.text_config.num_key_value_heads
        self._head_dim = config.text_config.head_dim
        self._layers = [_DecoderLayer.of(layer, linear) for layer in decoder.layers]
        self._norm = _RmsNorm.of(decoder.norm)
        self._head = linear(model.lm_head)
        self._length: int = min(_SLOT_LENGTH, config.text_config.max_position_embeddings)
        self._rotary = self._rotary_table(decoder.rotary_emb, self._length)
        self._cache = SlotCache(
            len(self._layers), slots, self._kv_heads, self._head_dim, self._length, self.dtype, self.device
        )
        self._rows = Rows(slots, self.device, self._spelling.encode)
        self._used_rows = 0
        """Rows that hold a sequence, and perhaps some after them whose sequence has ended."""
        self._graphs = StepGraphs(self._step, self.device, slots)
        return linear.nbytes + int(self._embedding.nbytes)

    def _rotary_table(self, module: nn.Module, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, rotated width] of all positions, from the model's own module."""
        positions = torch.arange(length, device=self.device)[None]
        cos, sin = module(torch.zeros(1, dtype=self.dtype, device=self.device), positions)
        return cos[0].detach(), sin[0].detach()

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def frames_per_window(self) -> int:
        return self._log_mel.max_frames

    def features(self, pcm: NDArray[np.int16]) -> Features:
        return self._log_mel(pcm)

    def encoder_frames(self, features: Features, *, exact: bool = False) -> int:
        return 2 * own_frames(features, exact=exact or self._exact)

    def max_new_tokens(self, options: WindowOptions) -> int:
        longest_audio = self._log_mel.max_frames // 2 // _FRAMES_PER_TOKEN
        return self._length - longest_audio - sum(len(part) for part in self._prompt(options))

    def prefix(self, options: WindowOptions) -> list[int]:
        return self._spelling.encode(options.prefix) if options.prefix else []

    def text(self, tokens: Sequence[int]) -> str:
        return strip_framing(str(self._processor.tokenizer.decode(list(tokens), skip_special_tokens=True)))

    def details(self, row: int, tokens: Sequence[int]) -> tuple[Token, ...]:
        return self._spelling.details(tokens, self._rows.logprobs(row))

    @torch.inference_mode()
    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        rows = slice(first_row, first_row + len(batch))
        self._used_rows = rows.stop
        clips = [clip_of(s.features, exact=s.exact or self._exact, dtype=self.dtype, device=self.device) for s in batch]
        prompts = [
            self._embed(self._prompt(sequence.options), self._embed_audio(states, sequence.features.frames))
            for sequence, states in zip(batch, self._encoder(clips, self._silence), strict=True)
        ]
        self._rows.begin(first_row, [sequence.options for sequence in batch])
        return [Admitted(None, (token,)) for token in self._prefill(rows, prompts)]

    @torch.inference_mode()
    def decode(self, first_row: int, count: int) -> list[int]:
        rows = slice(first_row, first_row + count)
        needed = self._rows.read_length(slice(0, self._used_rows), _LENGTH_BUCKET, self._length)
        length = self._cache.fit(self._graphs.size(needed, self._length), self._used_rows)
        self._rows.rest(slice(rows.stop, self._graphs.rows(rows).stop))
        return self._rows.advance(rows, self._graphs(rows, length), [1] * count)

    def _step(self, rows: slice, length: int) -> Tensor:
        """Logits [rows, vocabulary] after each row's last token."""
        embedded = self._embedding[self._rows.tokens[rows, None]]
        return self._head(self._decoder(rows, embedded, self._rows.positions[rows], length)[:, 0])

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        self._cache.move(source, target, self._rows.lengths[source])
        self._rows.move(source, target)

    def _embed_audio(self, states: Tensor, frames: int) -> Tensor:
        """Encoder states [own, width] → audio embeddings [audio tokens of `frames` feature frames, decoder width]."""
        tokens = audio_tokens(frames)
        merged = states[: tokens * _FRAMES_PER_TOKEN].reshape(tokens, -1)
        return self._project2(self._project1(merged, "gelu"))

    def _decoder(self, rows: slice, x: Tensor, start: Tensor, length: int) -> Tensor:
        """Run embeddings x [rows, n, width] at positions start [rows] … through the decoder; returns the same shape.

        Writes their keys and values into the cache and reads its first `length` positions.
        """
        count = x.shape[1]
        positions = start[:, None] + torch.arange(count, device=self.device)
        cos, sin = (table[positions][:, None] for table in self._rotary)
        groups = self._heads // self._kv_heads
        mask = causal_mask(start, count, length, self.dtype).repeat(1, 1, groups, 1)
        widths = [heads * self._head_dim for heads in (self._heads, self._kv_heads, self._kv_heads)]
        for index, layer in enumerate(self._layers):
            query, keys, values = layer.qkv(layer.norm(x)).split(widths, dim=-1)
            query = rotate(split_heads(query, self._heads), cos, sin)
            keys, values = rotate(split_heads(keys, self._kv_heads), cos, sin), split_heads(values, self._kv_heads)
            if count == 1:
                self._cache.append(index, rows, start, keys, values)
            else:
                self._cache.write_prefix(index, rows, keys, values)
            # Query heads that share a key head stand one after the other, so they become more queries of that head.
            query = query.reshape(len(start), self._kv_heads, groups * count, self._head_dim)
            cached = self._cache.read(index, rows, length)
            mixed = attend(query, *cached, mask, transposed=self._cache.transposed)
            mixed = mixed.view(len(start), self._heads, count, self._head_dim)
            x = layer.out(merge_heads(mixed), residual=x)
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = layer.down(F.silu(gate) * up, residual=x)
        return self._norm(x)

    def _prefill(self, rows: slice, prompts: list[Tensor]) -> list[int]:
        """Fill the caches of `rows` with embedded prompts [n, width] and return each row's first new token."""
        lengths = [len(prompt) for prompt in prompts]
        padded = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        start = self._rows.reset(rows)
        longest = max(lengths)
        needed = self._rows.read_length(slice(0, rows.stop), _LENGTH_BUCKET, self._length, at_least=longest)
        self._cache.fit(needed, rows.start)
        hidden = self._decoder(rows, padded, start, longest)
        last = hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
        return self._rows.advance(rows, self._head(last), lengths)

    def _embed(self, prompt: tuple[list[int], list[int]], audio: Tensor) -> Tensor:
        before, after = (self._embedding[torch.tensor(part, device=self.device)] for part in prompt)
        return torch.cat([before, audio, after])

    def _prompt(self, options: WindowOptions) -> tuple[list[int], list[int]]:
        """Token ids before and after the audio, as the checkpoint's own processor and chat template build them."""
        instruction = self._instruction
        if options.prompt:
            instruction = f"{instruction}. {self._shorten(options.prompt.strip())}"
        silence = np.zeros(1, dtype=np.float32)
        (text,) = self._processor.apply_transcription_request(silence, prompt=instruction, tokenize=False)
        ids = self._processor.tokenizer(text)["input_ids"]
        audio_at = ids.index(self._processor.audio_token_id)
        return ids[:audio_at], ids[audio_at + 1 :] + self.prefix(options)

    def _shorten(self, prompt: str) -> str:
        tokenizer = self._processor.tokenizer
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return prompt if len(ids) <= _MAX_PROMPT_TOKENS else str(tokenizer.decode(ids[:_MAX_PROMPT_TOKENS]))


def audio_tokens(frames: int) -> int:
    """How many audio tokens stand for `frames` feature frames: the second convolution halves, then four are merged.

    As `GlmAsrProcessor._get_audio_token_length`, but never less than one.
    """
    return max(1, ((frames - 1) // 2 + 1) // _FRAMES_PER_TOKEN)
