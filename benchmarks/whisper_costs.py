"""How many operations and bytes Whisper's encoder and decode step need at least, from the model's configuration.

Owns the counting; measures nothing. A multiplication with its addition counts as two operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_POSITIONS_PER_S = 50
_MARGIN_S = 1.0
"""Frames beside the speech that belong to a window of its own; the rest of the 30 s is padding, the same for all."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Counts for a checkpoint's config.json; `itemsize` is the number of bytes of a weight."""

    config: Mapping[str, Any]
    itemsize: int

    @property
    def window_positions(self) -> int:
        """Encoder positions of a 30 s window."""
        return int(self.config["max_source_positions"])

    def own_positions(self, audio_s: float) -> int:
        """Encoder positions that depend on what was said in `audio_s` seconds."""
        return min(self.window_positions, round((audio_s + _MARGIN_S) * _POSITIONS_PER_S))

    def admit_flops(self, positions: int, prompt_tokens: int) -> float:
        """Encoder, keys and values for the decoder, and prefill, of one window of which so many positions are computed.

        They attend to all positions of the window, whose others need not be computed: padding is the same every time.
        """
        width, layers = self.config["d_model"], self.config["encoder_layers"]
        convolutions = 2 * 3 * width * (2 * positions * self.config["num_mel_bins"] + positions * width)
        projections = 2 * positions * (4 * width**2 + 2 * width * self.config["encoder_ffn_dim"])
        attention = 2 * 2 * positions * self.window_positions * width
        cross = self.config["decoder_layers"] * 2 * positions * 2 * width**2
        return float(convolutions + layers * (projections + attention) + cross) + self._prefill(
            self.window_positions, prompt_tokens
        )

    def _prefill(self, positions: int, tokens: int) -> float:
        width = self.config["d_model"]
        layer = 2 * tokens * self._decoder_layer_weights() + 2 * 2 * tokens * (positions + tokens) * width
        return float(self.config["decoder_layers"] * layer + 2 * self.config["vocab_size"] * width)

    def _decoder_layer_weights(self) -> int:
        """Weights of a decoder layer that a step reads: self-attention, cross-attention's query and output, the MLP."""
        width = int(self.config["d_model"])
        return 4 * width**2 + 2 * width**2 + 2 * width * int(self.config["decoder_ffn_dim"])

    @property
    def weight_bytes(self) -> float:
        """Weights that one decode step reads, however many rows it has: layers and output layer."""
        layers = self.config["decoder_layers"] * self._decoder_layer_weights()
        return float(self.itemsize * (layers + self.config["vocab_size"] * self.config["d_model"]))

    def cross_bytes(self, own_positions: int, rows: int) -> float:
        """Keys and values of the audio: each row's own positions, and once for all what is padding in every row."""
        shared = self.window_positions - own_positions
        return self._cached_bytes(rows * own_positions + shared)

    def self_bytes(self, positions: float, rows: int) -> float:
        """Keys and values of the text so far."""
        return self._cached_bytes(rows * positions)

    def _cached_bytes(self, positions: float) -> float:
        return float(self.config["decoder_layers"] * 2 * positions * self.config["d_model"] * self.itemsize)
