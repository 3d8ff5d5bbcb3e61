"""Log-mel features as Whisper and GLM-ASR expect them, computed for the audio and not for the padding.

The frames after the end of the audio are all the same, so the transform runs over the audio only and the rest is
filled with that constant. Formula: Radford et al. 2022 (Whisper), as in transformers' WhisperFeatureExtractor, whose
filter bank and parameters are used; equal to it within float32 rounding.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asr_service.domain import SAMPLE_RATE_HZ
from asr_service.models.base import Features

_FLOOR = np.float32(1e-10)
_DYNAMIC_RANGE = 8.0


class FeatureParameters(Protocol):
    """The part of transformers' WhisperFeatureExtractor that is used."""

    n_fft: int
    hop_length: int
    n_samples: int
    nb_max_frames: int
    mel_filters: NDArray[np.float64]


class LogMel:
    """Callable from any thread; single-threaded numpy, so that it does not fight the model for cores."""

    def __init__(self, parameters: FeatureParameters) -> None:
        self.n_fft = parameters.n_fft
        self.hop = parameters.hop_length
        self.max_samples = parameters.n_samples
        self.max_frames = parameters.nb_max_frames
        self._filters = np.ascontiguousarray(parameters.mel_filters.T, dtype=np.float32)
        # torch.hann_window and scipy's "hann" are periodic; numpy's hanning is symmetric, hence one more point.
        self._window = np.hanning(self.n_fft + 1)[:-1].astype(np.float32)

    def __call__(self, pcm: NDArray[np.int16]) -> Features:
        """Features [mel bins, nb_max_frames] of int16 `pcm` [samples]. Raises ValueError past 30 s."""
        if len(pcm) > self.max_samples:
            raise ValueError(f"a window holds at most {self.max_samples} samples, not {len(pcm)}")
        frames = -(-len(pcm) // self.hop)
        audible = min(self.max_frames, (len(pcm) + self.n_fft // 2) // self.hop + 1)
        log_mel = np.log10(np.maximum(self._mel(pcm, audible), _FLOOR))
        floor = log_mel.max(initial=np.log10(_FLOOR)) - _DYNAMIC_RANGE
        padding = np.float32(max(np.log10(_FLOOR), floor))
        padded = np.full((self._filters.shape[0], self.max_frames), padding)
        np.maximum(log_mel, floor, out=padded[:, :audible])
        padded += 4.0
        padded /= 4.0
        return Features(padded, frames, len(pcm) / SAMPLE_RATE_HZ, float((padding + 4.0) / 4.0))

    def _mel(self, pcm: NDArray[np.int16], frames: int) -> NDArray[np.float32]:
        # The reference centres frames on the samples of a whole window, mirrored at its ends; silence mirrors itself.
        signal = np.zeros(min(self.max_samples, len(pcm) + self.n_fft), dtype=np.float32)
        signal[: len(pcm)] = pcm
        signal *= 1.0 / 32768.0
        signal = np.pad(signal, self.n_fft // 2, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(signal, self.n_fft)[:: self.hop][:frames]
        spectrum = np.fft.rfft(windows * self._window, axis=-1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        mel: NDArray[np.float32] = self._filters @ power.T.astype(np.float32)
        return mel
