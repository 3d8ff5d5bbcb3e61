"""Building blocks that both model families share: packed linear layers, norms and attention over slot caches.

Owns how the weights of transformers' modules are laid out for speed. Knows no architecture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["none", "gelu", "silu"]
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "gelu": F.gelu, "silu": F.silu}
_MKLDNN_ACTIVATIONS = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "silu": ("swish", ""),
}
_ROWS_HINT = 16
"""Packed weights may be tiled for a number of rows; decode steps have about this many."""


class Linear:
    """y = activation(x Wᵀ + b) + residual, with W laid out once for the kernels of its device.

    On a CPU W is packed for oneDNN: at decode time a plain `F.linear` spends as long on repacking W as on multiplying,
    so packing is worth a factor of 1.5 to 2.3 there (benchmarks/RESULTS.md).

    With `int8`, W is rounded to 8 bits with a scale for each output, and x with a scale for each row as it comes
    (dynamic quantization): half the memory to read, and a row's result does not depend on its neighbours.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, int8: bool = False) -> None:
        """weight [out, in], bias [out], of the same dtype and device."""
        self.bias = None if bias is None else bias.detach().contiguous()
        weight = weight.detach().contiguous()
        self.nbytes = weight.numel() * (1 if int8 else weight.itemsize)
        self._int8 = _Int8Weight(weight) if int8 else None
        self._packed = not int8 and weight.device.type == "cpu" and _can_pack(weight.dtype)
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
        self._weight = None if int8 else weight

    def __call__(self, x: Tensor, activation: Activation = "none", residual: Tensor | None = None) -> Tensor:
        """x [..., in] → [..., out]; `residual` has the result's shape and cannot be combined with an activation."""
        if self._packed:
            return self._packed_product(x, activation, residual)
        if self._int8 is not None:
            y = self._int8(x)
            y = y if self.bias is None else y + self.bias
        else:
            assert self._weight is not None
            y = F.linear(x, self._weight, self.bias)
        y = _ACTIVATIONS[activation](y)
        return y if residual is None else residual + y

    def _packed_product(self, x: Tensor, activation: Activation, residual: Tensor | None) -> Tensor:
        if residual is not None:
            fused: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self.bias, "add")
            return fused
        name, algorithm = _MKLDNN_ACTIVATIONS[activation]
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, name, [], algorithm)
        return result


class LinearFactory:
    """Makes a model's linear layers from transformers' modules, all in one way. `nbytes` is what they hold so far."""

    def __init__(self, *, int8: bool) -> None:
        self._int8 = int8
        self.nbytes = 0

    def __call__(self, *modules: nn.Linear, scale: float = 1.0) -> Linear:
        """One layer for several that share their input, outputs in order; `scale` multiplies the first one's output."""
        weights = [module.weight.detach() for module in modules]
        biases = [
            module.weight.new_zeros(module.out_features) if module.bias is None else module.bias.detach()
            for module in modules
        ]
        if scale != 1.0:
            weights[0], biases[0] = weights[0] * scale, biases[0] * scale
        bias = torch.cat(biases) if any(module.bias is not None for module in modules) else None
        return self.of(torch.cat(weights), bias)

    def of(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A layer from weight [out, in] and bias [out]."""
        layer = Linear(weight, bias, int8=self._int8)
        self.nbytes += layer.nbytes
        return layer


class _Int8Weight:
    """A matrix [out, in] in 8 bits, and its product with rows that are quantized on the fly."""

    def __init__(self, weight: Tensor) -> None:
        weight = weight.float()
        self._scales = (weight.abs().amax(dim=1) / 127).clamp_(min=1e-12)
        quantized = torch.round(weight / self._scales[:, None]).to(torch.int8)
        self._on_cpu = weight.device.type == "cpu"
        if self._on_cpu:
            self._zeros = torch.zeros(len(quantized), dtype=torch.long)
            quantized = torch.ops.onednn.qlinear_prepack(quantized, [_ROWS_HINT, weight.shape[1]])
        self._weight = quantized

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out], in x's dtype."""
        rows = x.reshape(-1, x.shape[-1])
        scales = (rows.abs().amax(dim=1, keepdim=True).float() / 127).clamp_(min=1e-12)
        product = self._cpu_product(rows / scales) if self._on_cpu else self._cuda_product(rows / scales)
        return product.mul_(scales).to(x.dtype).view(*x.shape[:-1], -1)

    def _cpu_product(self, scaled: Tensor) -> Tensor:
        # VNNI multiplies unsigned by signed bytes, hence the zero point of 128. The conversion cuts off: half is added.
        unsigned = scaled.add_(128.5).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, 128, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return product

    def _cuda_product(self, scaled: Tensor) -> Tensor:
        # The kernel takes 17 rows or more, in multiples of 8.
        count = len(scaled)
        padded = F.pad(scaled.round_(), (0, 0, 0, max(24, -(-count // 8) * 8) - count)).to(torch.int8)
        product: Tensor = torch._int_mm(padded, self._weight.T)[:count]
        return product * self._scales


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True, slots=True)
class LayerNorm:
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, module: nn.LayerNorm) -> "LayerNorm":
        return cls(module.weight.detach(), module.bias.detach(), module.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class Conv1d:
    weight: Tensor
    bias: Tensor | None
    stride: int

    @classmethod
    def of(cls, module: nn.Conv1d) -> "Conv1d":
        bias = None if module.bias is None else module.bias.detach()
        return cls(module.weight.detach(), bias, module.stride[0])

    def __call__(self, x: Tensor) -> Tensor:
        """x [batch, in, frames] → gelu of the convolution, width 3, padded by one frame at each end."""
        return F.gelu(F.conv1d(x, self.weight, self.bias, stride=self.stride, padding=1))


class SlotCache:
    """Keys and values of every layer for a fixed number of slots, one sequence each.

    Shapes: keys [layers, slots, heads, head_dim, length] on a CPU, where a matrix product over transposed keys is up
    to five times as fast as the fused attention kernel for single queries in bf16, and
    [layers, slots, heads, length, head_dim] elsewhere; values are always of the latter shape.
    Starts as zeros, since masked positions are still multiplied; on a CPU such memory costs nothing until it is
    written.
    """

    def __init__(
        self, layers: int, slots: int, heads: int, head_dim: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.transposed = device.type == "cpu"
        self._shape = (layers, slots, heads, head_dim)
        self._rows = torch.arange(slots, device=device)
        size = math.prod(self._shape) * length
        self._memory = [_zeros(size, dtype, device) for _ in range(2)]
        self._lay_out(length)

    def _lay_out(self, length: int) -> None:
        layers, slots, heads, head_dim = self._shape
        shape = (layers, slots, heads, length, head_dim)
        key_shape = (layers, slots, heads, head_dim, length) if self.transposed else shape
        keys, values = (memory[: math.prod(shape)] for memory in self._memory)
        self.length = length
        self.keys, self.values = keys.view(key_shape), values.view(shape)

    def resize(self, length: int, used_rows: int) -> None:
        """Hold `length` positions from now on, at most as many as at first, and keep what `used_rows` slots hold.

        Reading all positions of a cache gives contiguous views, and reading some of them does not: the kernels of a CPU
        would copy those.
        """
        if length == self.length:
            return
        kept = min(length, self.length)
        contents = [
            part.clone() for layer in range(self._shape[0]) for part in self.read(layer, slice(0, used_rows), kept)
        ]
        self._lay_out(length)
        for layer, keys, values in zip(range(self._shape[0]), contents[::2], contents[1::2], strict=True):
            into_keys, into_values = self.read(layer, slice(0, used_rows), kept)
            into_keys.copy_(keys)
            into_values.copy_(values)

    def fit(self, length: int, used_rows: int) -> int:
        """Make room for `length` positions and for less than twice as many, keeping `used_rows` slots: what to read.

        On a CPU only. Elsewhere the cache keeps its size, since graphs are bound to its memory, and `length` is
        returned as it is: kernels read part of a cache as fast as all of it.
        """
        if not self.transposed:
            return length
        if not length <= self.length < 2 * length:
            self.resize(length, used_rows)
        return self.length

    @property
    def nbytes(self) -> int:
        return sum(memory.nbytes for memory in self._memory)

    def write_prefix(self, layer: int, rows: slice, keys: Tensor, values: Tensor) -> None:
        """Fill positions 0 … n-1 of `rows` with keys and values [rows, heads, n, head_dim]."""
        n = keys.shape[2]
        if self.transposed:
            self.keys[layer, rows, :, :, :n] = keys.transpose(2, 3)
        else:
            self.keys[layer, rows, :, :n] = keys
        self.values[layer, rows, :, :n] = values

    def append(self, layer: int, rows: slice, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write one position of each row: positions [rows], keys and values [rows, heads, 1, head_dim]."""
        index = self._rows[rows]
        if self.transposed:
            self.keys[layer, index, :, :, positions] = keys[:, :, 0]
        else:
            self.keys[layer, index, :, positions] = keys[:, :, 0]
        self.values[layer, index, :, positions] = values[:, :, 0]

    def read(self, layer: int, rows: slice, length: int) -> tuple[Tensor, Tensor]:
        """Views of the first `length` positions of `rows`, in the cache's own layout."""
        keys = self.keys[layer, rows]
        keys = keys[..., :length] if self.transposed else keys[..., :length, :]
        return keys, self.values[layer, rows, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot over another."""
        if self.transposed:
            self.keys[:, target, :, :, :length] = self.keys[:, source, :, :, :length]
        else:
            self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]


def _zeros(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, on a CPU from the system's own zero pages, which cost nothing until they are written to."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(size * dtype.itemsize, dtype=np.uint8)).view(dtype)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, transposed: bool) -> Tensor:
    """Attention of already scaled queries over a cache.

    query [batch, heads, queries, head_dim]; keys and values as `SlotCache.read` gives them; mask additive and
    broadcastable to [batch, heads, queries, length]. Returns [batch, heads, queries, head_dim].
    """
    if not transposed:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    scores = torch.matmul(query, keys)
    if mask is not None:
        scores = scores + mask
    return torch.matmul(torch.softmax(scores, dim=-1), values)


def attend_with_tail(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    tail_keys: Tensor,
    tail_values: Tensor,
    tail_bias: Tensor,
    *,
    transposed: bool,
) -> Tensor:
    """Attention over each row's own cache and over one tail that all rows share, which is read once for all of them.

    query [rows, heads, queries, head_dim]; keys and values as `SlotCache.read` gives them; mask additive,
    [rows, 1, 1, length]; tail_keys and tail_values [heads, n, head_dim]; tail_bias additive, [heads, rows, n].
    """
    rows, heads, queries, head_dim = query.shape
    own = torch.matmul(query, keys if transposed else keys.transpose(2, 3)) + mask
    by_head = query.transpose(0, 1).reshape(heads, rows * queries, head_dim)
    tail = torch.bmm(by_head, tail_keys.transpose(1, 2)).view(heads, rows, queries, -1) + tail_bias[:, :, None]
    weights = torch.softmax(torch.cat([own, tail.transpose(0, 1)], dim=-1), dim=-1)
    split = own.shape[-1]
    tail_weights = weights[..., split:].transpose(0, 1).reshape(heads, rows * queries, -1)
    from_tail = torch.bmm(tail_weights, tail_values).view(heads, rows, queries, head_dim).transpose(0, 1)
    return torch.matmul(weights[..., :split], values) + from_tail


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * head_dim] → [batch, heads, length, head_dim]."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[batch, heads, length, head_dim] → [batch, length, heads * head_dim]."""
    batch, heads, length, head_dim = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * head_dim)


def causal_mask(start: Tensor, queries: int, length: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [rows, 1, queries, length]: query i of a row, at position start + i, sees keys up to itself."""
    positions = start[:, None] + torch.arange(queries, device=start.device)
    visible = torch.arange(length, device=start.device) <= positions[:, :, None]
    mask = torch.zeros(visible.shape, dtype=dtype, device=start.device)
    return mask.masked_fill_(~visible, float("-inf"))[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) on the first cos.shape[-1] dimensions of x [..., length, head_dim]."""
    width = cos.shape[-1]
    head, rest = x[..., :width], x[..., width:]
    first, second = head.chunk(2, dim=-1)
    turned = head * cos + torch.cat([-second, first], dim=-1) * sin
    return turned if rest.shape[-1] == 0 else torch.cat([turned, rest], dim=-1)
