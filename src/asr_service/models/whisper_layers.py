"""Whisper's layers from transformers' modules.

Owns which of its weights go together, and the order of the decoder. Knows no cache, no row and what no token means.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperDecoderLayer, WhisperEncoderLayer

from asr_service.models.encoder import EncoderLayer
from asr_service.models.layers import LayerNorm, Linear, LinearFactory, merge_heads, split_heads

AttendOwn = Callable[[Tensor, Tensor, Tensor], Tensor]
AttendCross = Callable[[Tensor], Tensor]


def encoder_layer(layer: WhisperEncoderLayer, linear: LinearFactory) -> EncoderLayer:
    """An encoder layer with its projections of queries, keys and values as one product."""
    attention = layer.self_attn
    return EncoderLayer(
        LayerNorm.of(layer.self_attn_layer_norm),
        linear(attention.q_proj, attention.k_proj, attention.v_proj, scale=attention.scaling),
        linear(attention.out_proj),
        LayerNorm.of(layer.final_layer_norm),
        linear(layer.fc1),
        linear(layer.fc2),
    )


def alignment_heads(model: WhisperForConditionalGeneration) -> list[tuple[int, int]]:
    """Layers and heads whose attention follows the speech: the checkpoint's own list, or the upper half of all."""
    listed = getattr(model.generation_config, "alignment_heads", None)
    layers, heads = model.config.decoder_layers, model.config.decoder_attention_heads
    upper = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    return sorted((layer, head) for layer, head in listed) if listed else upper


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Self-attention, cross-attention and a perceptron, each on a norm and beside a residual. Calling it leaves both
    attentions to the caller, who knows where keys and values are.
    """

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
    def of(cls, layer: WhisperDecoderLayer, linear: LinearFactory) -> "DecoderLayer":
        own, cross = layer.self_attn, layer.encoder_attn
        return cls(
            LayerNorm.of(layer.self_attn_layer_norm),
            linear(own.q_proj, own.k_proj, own.v_proj, scale=own.scaling),
            linear(own.out_proj),
            LayerNorm.of(layer.encoder_attn_layer_norm),
            linear(cross.q_proj, scale=cross.scaling),
            linear(cross.k_proj, cross.v_proj),
            linear(cross.out_proj),
            LayerNorm.of(layer.final_layer_norm),
            linear(layer.fc1),
            linear(layer.fc2),
        )

    def __call__(self, x: Tensor, heads: int, attend_own: AttendOwn, attend_cross: AttendCross) -> Tensor:
        """x [rows, n, width] → the same shape. Queries come scaled; all of them, and what the attentions return, are
        [rows, heads, n, head_dim].
        """
        query, keys, values = (split_heads(part, heads) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = self.out(merge_heads(attend_own(query, keys, values)), residual=x)
        query = split_heads(self.cross_q(self.cross_norm(x)), heads)
        x = self.cross_out(merge_heads(attend_cross(query)), residual=x)
        return self.fc2(self.fc1(self.mlp_norm(x), "gelu"), residual=x)


class Decoder:
    """All layers between token embeddings and final states. Attentions are the caller's, and are told the layer."""

    def __init__(self, decoder: WhisperDecoder, heads: int, linear: LinearFactory) -> None:
        self.embedding = decoder.embed_tokens.weight.detach()
        self.layers = [DecoderLayer.of(layer, linear) for layer in decoder.layers]
        self._positions = decoder.embed_positions.weight.detach()
        self._norm = LayerNorm.of(decoder.layer_norm)
        self._heads = heads

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend_own: Callable[[int, Tensor, Tensor, Tensor], Tensor],
        attend_cross: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """States [rows, n, width] of tokens [rows, n] at positions [rows, n]."""
        x = self.embedding[tokens] + self._positions[positions]
        for index, layer in enumerate(self.layers):
            x = layer(x, self._heads, partial(attend_own, index), partial(attend_cross, index))
        return self._norm(x)

    def cross(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values [1, heads, frames, head_dim] of encoder states [frames, width]."""
        keys, values = self.layers[layer].cross_kv(states[None]).chunk(2, dim=-1)
        return split_heads(keys, self._heads), split_heads(values, self._heads)
