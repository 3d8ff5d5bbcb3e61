"""Keys and values of padding, summed up: what every clip of a batch attends to after its own frames.

Both models see windows that are padded to 30 s, so nine tenths of what a short clip attends to is silence, and it is
the same for all clips. Its keys lie close together: clustered head by head into some hundred, attention over them is
attention over all of them (benchmarks/RESULTS.md), at a tenth of the cost.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

POSITION_MULTIPLE = 16
"""Clips end at multiples of this many positions, or with the window, so what follows them is looked up in a table."""

_CLUSTERS = 128
"""Keys a head. 128 cannot be told from all 1500, 64 can (benchmarks/RESULTS.md)."""

_ITERATIONS = 8

_Positions = TypeVar("_Positions", int, Tensor)


@dataclass(frozen=True, slots=True)
class SilentTail:
    """One layer's keys and values of a window that is all padding, as centroids of clusters.

    positions: how many there are in the window. keys, values: [heads, clusters, head_dim]. log_counts: [heads, ends,
    clusters], the logarithm of how many positions from end * POSITION_MULTIPLE on each cluster stands for: its key's
    weight in a softmax, minus infinity for none.
    """

    positions: int
    keys: Tensor
    values: Tensor
    log_counts: Tensor

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> "SilentTail":
        """From keys and values [heads, positions, head_dim] of every position, in the dtype that they have."""
        clusters = min(_CLUSTERS, keys.shape[1])
        members = _members(_cluster(keys.float(), clusters), clusters)
        counts = members.sum(dim=1)[..., None].clamp(min=1)
        by_cluster = members.transpose(1, 2)
        whole = torch.nn.functional.pad(members, (0, 0, 0, -members.shape[1] % POSITION_MULTIPLE))
        stretches = whole.unflatten(1, (-1, POSITION_MULTIPLE)).sum(dim=2)
        following = stretches.flip(1).cumsum(dim=1).flip(1)
        none_left = torch.zeros_like(following[:, :1])
        return cls(
            keys.shape[1],
            (by_cluster @ keys.float() / counts).to(keys.dtype),
            (by_cluster @ values.float() / counts).to(values.dtype),
            torch.cat([following, none_left], dim=1).log().to(keys.dtype),
        )

    def weights_after(self, own: int) -> Tensor:
        """Log counts [heads, clusters] of the positions from `own` on, a multiple of POSITION_MULTIPLE or all."""
        return self.log_counts[:, ends_after(own)]


def ends_after(own: _Positions) -> _Positions:
    """The entry of `SilentTail.log_counts` for a clip of `own` positions, or for each of many."""
    return -(-own // POSITION_MULTIPLE)


def _cluster(x: Tensor, clusters: int) -> Tensor:
    """Lloyd's algorithm on x [heads, n, dim], from evenly spaced points: the cluster [heads, n] of each."""
    first = torch.linspace(0, x.shape[1] - 1, clusters, device=x.device).long()
    centroids = x[:, first]
    for _ in range(_ITERATIONS):
        members = _members(_nearest(x, centroids), clusters)
        counts = members.sum(dim=1)[..., None]
        means = members.transpose(1, 2) @ x / counts.clamp(min=1)
        centroids = torch.where(counts > 0, means, centroids)
    return _nearest(x, centroids)


def _members(nearest: Tensor, clusters: int) -> Tensor:
    """1.0 where a point is in a cluster: [heads, n] → [heads, n, clusters]. Lighter than `one_hot`."""
    return (nearest[..., None] == torch.arange(clusters, device=nearest.device)).float()


def _nearest(x: Tensor, centroids: Tensor) -> Tensor:
    # |x - c|² without the term that is the same for all c.
    norms = (centroids * centroids).sum(dim=-1)[:, None]
    return torch.baddbmm(norms, x, centroids.transpose(1, 2), alpha=-2).argmin(dim=-1)
