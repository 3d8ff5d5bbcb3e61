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


def test_attention_grows_with_the_square_of_the_window() -> None:
    whole, half = COSTS.admit_flops(1500, 0), COSTS.admit_flops(750, 0)
    attention = 6 * 4 * 1500**2 * 512
    head = 2 * 51865 * 512
    assert whole - 2 * half == pytest.approx(attention / 2 - head)
