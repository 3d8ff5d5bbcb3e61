"""What a decoder may look at of one window, for a single pass over a text that is known already.

Owns attention whose weights are wanted, over a window's encoder states and the silence behind them. Knows no
architecture, no token and no row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_service.models.silence import SilentTail


@dataclass(frozen=True, slots=True)
class Heard:
    """A window: keys [heads, head_dim, own] and values [heads, own, head_dim] of each layer. Where silence follows its
    own states: each layer's, and what it weighs [layers, heads, clusters].
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    tails: Sequence[SilentTail]
    tail_weights: Tensor | None

    def attend(self, layer: int, query: Tensor) -> tuple[Tensor, Tensor]:
        """For scaled queries [heads, n, head_dim]: what they take [heads, n, head_dim], and the weights of the window's
        own states [heads, n, own], which add up to less than one where there is silence.
        """
        keys, values = self.layers[layer]
        own = keys.shape[2]
        if self.tail_weights is None:
            weights = torch.softmax(torch.matmul(query, keys), dim=-1)
            return torch.matmul(weights, values), weights
        tail = self.tails[layer]
        scores = torch.matmul(query, torch.cat([keys, tail.keys.transpose(1, 2)], dim=2))
        scores += F.pad(self.tail_weights[layer], (own, 0))[:, None]
        weights = torch.softmax(scores, dim=-1)
        return torch.matmul(weights, torch.cat([values, tail.values], dim=1)), weights[:, :, :own]
