"""The counts behind the roofline, against what Whisper base is known to be."""

import pytest

from benchmarks.whisper_costs import Costs

BASE = {
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "num_mel_bins": 80,
    "vocab_size": 51865,
    "max_source_positions": 1500,
}
COSTS = Costs(BASE, itemsize=2)


def test_a_step_reads_the_decoder_but_not_the_projections_of_the_audio() -> None:
    """52 million weights in the decoder, of which 6 x 2 x 512 x 512 make the keys and values of the audio, once."""
    layer = 4 * 512**2 + 2 * 512**2 + 2 * 512 * 2048
    assert COSTS.weight_bytes == 2 * (6 * layer + 51865 * 512)


def test_padding_is_read_once_for_all_rows() -> None:
    whole, short = COSTS.cross_bytes(1500, 16), COSTS.cross_bytes(250, 16)
    per_position = 6 * 2 * 512 * 2
    assert whole == 16 * 1500 * per_position
    assert short == (16 * 250 + 1250) * per_position


def test_speech_and_its_margin_are_a_windows_own() -> None:
    assert COSTS.own_positions(4.0) == 250
    assert COSTS.own_positions(30.0) == 1500


def test_a_whole_window_of_the_encoder_is_a_hundred_billion_operations() -> None:
    encoder = 6 * (2 * 1500 * (4 * 512**2 + 2 * 512 * 2048) + 4 * 1500**2 * 512)
    stem = 2 * 3 * 512 * (3000 * 80 + 1500 * 512)
    cross = 6 * 2 * 1500 * 2 * 512**2
    assert COSTS.admit_flops(1500, 0) == pytest.approx(encoder + stem + cross + 2 * 51865 * 512)


def test_what_is_computed_attends_to_what_is_not() -> None:
    """So the cost is linear in the computed positions, apart from the decoder's share."""
    none, half, whole = (COSTS.admit_flops(positions, 4) for positions in (0, 750, 1500))
    assert whole - half == pytest.approx(half - none)
