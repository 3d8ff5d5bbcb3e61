"""Silence in clusters: what a softmax over all positions says, a softmax over the clusters says too."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F

from asr_service.models.silence import POSITION_MULTIPLE, SilentTail, ends_after

HEADS, WIDTH = 2, 8


def tail_of(distinct: int, positions: int, seed: int = 0) -> tuple[SilentTail, torch.Tensor, torch.Tensor]:
    """A tail of keys and values that repeat every `distinct` positions, and the keys and values."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.arange(positions) % distinct
    keys, values = (torch.randn(HEADS, distinct, WIDTH, generator=generator)[:, pattern] for _ in range(2))
    return SilentTail.of(keys, values), keys, values


@settings(deadline=None, max_examples=25)
@given(own=st.integers(0, 25), positions=st.integers(1, 400), seed=st.integers(0, 99))
def test_where_keys_repeat_the_clusters_lose_nothing(own: int, positions: int, seed: int) -> None:
    own = min(own * POSITION_MULTIPLE, positions)
    tail, keys, values = tail_of(20, positions, seed)
    query = torch.randn(HEADS, 3, WIDTH, generator=torch.Generator().manual_seed(seed))
    clip_keys, clip_values = torch.ones(HEADS, 1, WIDTH), torch.zeros(HEADS, 1, WIDTH)
    expected = F.scaled_dot_product_attention(
        query, torch.cat([clip_keys, keys[:, own:]], dim=1), torch.cat([clip_values, values[:, own:]], dim=1)
    )
    weights = torch.cat([torch.zeros(HEADS, 1), tail.weights_after(own)], dim=1)[:, None]
    clustered = F.scaled_dot_product_attention(
        query,
        torch.cat([clip_keys, tail.keys], dim=1),
        torch.cat([clip_values, tail.values], dim=1),
        attn_mask=weights,
    )
    torch.testing.assert_close(clustered, expected)


@pytest.mark.parametrize("positions", [1, 16, 100, 1_500])
def test_every_position_counts_once(positions: int) -> None:
    tail, *_ = tail_of(positions, positions)
    for own in range(0, positions, POSITION_MULTIPLE):
        torch.testing.assert_close(
            tail.weights_after(own).exp().sum(dim=1), torch.full((HEADS,), positions - own + 0.0)
        )
    assert torch.isneginf(tail.weights_after(positions)).all()


def test_neighbouring_keys_are_summed_up_by_their_mean() -> None:
    positions = torch.linspace(0, 6, 1_500)
    keys = torch.stack([positions.sin(), positions.cos()], dim=-1)[None]
    tail = SilentTail.of(keys, keys)
    assert tail.keys.shape[1] < 200
    distances = torch.cdist(keys, tail.keys).amin(dim=-1)
    assert distances.max() < 0.1
    torch.testing.assert_close(tail.keys, tail.values)


def test_the_table_is_read_for_one_clip_or_for_many() -> None:
    assert [ends_after(own) for own in (0, 16, 32, 1_500)] == [0, 1, 2, 94]
    assert ends_after(torch.tensor([0, 16, 32, 1_500])).tolist() == [0, 1, 2, 94]
