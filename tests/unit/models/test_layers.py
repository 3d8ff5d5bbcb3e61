"""Linear layers in every layout, caches and masks, against plain formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asr_service.models.layers import LinearFactory, SlotCache, attend, attend_with_tail, causal_mask

CPU = torch.device("cpu")


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers_in_every_layout(int8: bool, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(64, 48, bias=bias).to(dtype), nn.Linear(64, 32, bias=True).to(dtype)
    x = torch.randn(3, 5, 64, dtype=dtype)
    residual = torch.randn(3, 5, 80, dtype=dtype)
    tolerance = 0.05 if int8 or dtype == torch.bfloat16 else 1e-5

    def assert_close(ours: torch.Tensor, plain: torch.Tensor) -> None:
        torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)

    factory = LinearFactory(int8=int8)
    layer = factory(first, second, scale=0.5)
    expected = torch.cat([first(x) * 0.5, second(x)], dim=-1)
    assert_close(layer(x), expected)
    assert_close(layer(x, residual=residual), expected + residual)
    assert_close(layer(x, "gelu"), F.gelu(expected))
    assert_close(layer(x, "silu"), F.silu(expected))
    assert factory.nbytes == 64 * 80 * (1 if int8 else dtype.itemsize)


def test_a_quantized_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    layer = LinearFactory(int8=True)(nn.Linear(64, 48))
    x = torch.randn(8, 64) * torch.logspace(-3, 3, 8)[:, None]
    alone = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(layer(x), alone, atol=0, rtol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_cache_gives_back_what_was_written_and_moves_it(transposed: bool) -> None:
    torch.manual_seed(0)
    cache = SlotCache(2, 3, 4, 8, 16, torch.float32, CPU)
    if not transposed:
        cache.transposed = False
        cache.keys = torch.zeros(2, 3, 4, 16, 8)
    keys, values = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)
    cache.write_prefix(1, slice(1, 3), keys, values)
    one_key, one_value = torch.randn(2, 4, 1, 8), torch.randn(2, 4, 1, 8)
    cache.append(1, slice(1, 3), torch.tensor([5, 4]), one_key, one_value)
    cache.move(1, 0, 6)
    read_keys, read_values = cache.read(1, slice(0, 1), 6)
    if transposed:
        read_keys = read_keys.transpose(2, 3)
    torch.testing.assert_close(read_keys[0], torch.cat([keys[0], one_key[0]], dim=1))
    torch.testing.assert_close(read_values[0], torch.cat([values[0], one_value[0]], dim=1))


def test_a_resized_cache_keeps_what_its_rows_in_use_hold() -> None:
    torch.manual_seed(0)
    cache = SlotCache(2, 3, 4, 8, 16, torch.bfloat16, CPU)
    keys, values = torch.randn(2, 4, 5, 8).bfloat16(), torch.randn(2, 4, 5, 8).bfloat16()
    cache.write_prefix(0, slice(0, 2), keys, values)
    cache.write_prefix(1, slice(0, 2), values, keys)
    for length in (6, 12, 16, 5):
        cache.resize(length, 2)
        assert cache.length == length
        for layer, (expected_keys, expected_values) in enumerate(((keys, values), (values, keys))):
            read_keys, read_values = cache.read(layer, slice(0, 2), 5)
            torch.testing.assert_close(read_keys.transpose(2, 3), expected_keys)
            torch.testing.assert_close(read_values, expected_values)
    assert cache.nbytes == 2 * 2 * 3 * 4 * 8 * 16 * 2


@pytest.mark.parametrize("transposed", [False, True])
def test_attention_over_own_states_and_a_shared_tail_is_attention_over_both(transposed: bool) -> None:
    torch.manual_seed(0)
    rows, heads, queries, width, own, tail = 3, 2, 4, 8, 6, 10
    lengths = [6, 2, 4]
    query = torch.randn(rows, heads, queries, width)
    keys, values = torch.randn(rows, heads, own, width), torch.randn(rows, heads, own, width)
    tail_keys, tail_values = torch.randn(heads, tail, width), torch.randn(heads, tail, width)
    first = [6, 3, 9]
    mask = torch.zeros(rows, 1, 1, own)
    tail_bias = torch.randn(heads, rows, tail)
    for row in range(rows):
        mask[row, ..., lengths[row] :] = float("-inf")
        tail_bias[:, row, : first[row]] = float("-inf")
    mixed = attend_with_tail(
        query,
        keys.transpose(2, 3) if transposed else keys,
        values,
        mask,
        tail_keys,
        tail_values,
        tail_bias,
        transposed=transposed,
    )
    for row in range(rows):
        all_keys = torch.cat([keys[row, :, : lengths[row]], tail_keys[:, first[row] :]], dim=1)
        all_values = torch.cat([values[row, :, : lengths[row]], tail_values[:, first[row] :]], dim=1)
        bias = torch.cat([torch.zeros(heads, lengths[row]), tail_bias[:, row, first[row] :]], dim=1)[:, None]
        expected = F.scaled_dot_product_attention(query[row], all_keys, all_values, attn_mask=bias, scale=1.0)
        torch.testing.assert_close(mixed[row], expected)


def test_a_query_sees_what_came_before_it_in_its_own_row() -> None:
    mask = causal_mask(torch.tensor([0, 3]), 2, 6, torch.float32)
    assert mask.shape == (2, 1, 2, 6)
    visible = (mask[:, 0] == 0).sum(dim=-1)
    assert visible.tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize("transposed", [False, True])
def test_attention_over_a_cache_is_plain_attention(transposed: bool) -> None:
    torch.manual_seed(0)
    query, keys, values = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)
    mask = causal_mask(torch.tensor([1, 2]), 4, 6, torch.float32)
    mixed = attend(query, keys.transpose(2, 3) if transposed else keys, values, mask, transposed=transposed)
    torch.testing.assert_close(mixed, F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0))
