"""One stream of live speech: encoded audio in, piece by piece; 16 kHz PCM and windows of speech out.

Owns decoding of G.711, resampling, and how a session's wishes become a policy for windows. Knows no process boundary.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from asr_service.audio.listener_messages import Ended, Heard, StreamSettings
from asr_service.audio.vad import VoiceDetector
from asr_service.audio.windows import Windower, WindowPolicy
from asr_service.domain import SAMPLE_RATE_HZ, Region, Window

_MAX_UTTERANCE_WINDOW_S = 20.0
"""Longer ones are cut at a pause: each draft of a window computes all of it."""
_PAUSE_BY_HAND_S = 2.0
_PAD_AFTER_S = 0.3
_KEEP_SHARE = 0.5
"""Speech goes on while the probability is above this share of the threshold that begins it, as in recordings."""
_QUALITY = "MQ"
"""Delays by 15 ms at 24 kHz, 26 ms at 8 kHz; one step better is three times as late."""

_Pcm = npt.NDArray[np.int16]


def policy_of(settings: StreamSettings) -> WindowPolicy:
    """Where windows begin and end in a stream with these settings."""
    pause_s = _PAUSE_BY_HAND_S if settings.silence_s is None else settings.silence_s
    return WindowPolicy(
        start=settings.threshold,
        keep=settings.threshold * _KEEP_SHARE,
        pad_before_s=settings.prefix_s,
        pad_after_s=min(_PAD_AFTER_S, pause_s),
        close_pause_s=pause_s,
        max_window_s=_MAX_UTTERANCE_WINDOW_S,
    )


class SpeechStream:
    """Feed it with `feed`; `finish` ends what is open, after which it goes on."""

    def __init__(
        self,
        number: int,
        model: Any,
        settings: StreamSettings,
        *,
        start_sample: int = 0,
        heard: bytes = b"",
    ) -> None:
        """`model` is what `vad.load_model` returns; the rest as in `listener_messages.Open`."""
        self._number = number
        self._model = model
        self._settings = settings
        self._total = start_sample
        self._ended: list[Ended] = []
        self._begin()
        if heard:
            self._listen(np.frombuffer(heard, "<i2"))

    def _begin(self) -> None:
        """Begin to listen afresh: nothing before the next sample matters any more."""
        self._first = self._total
        self._resampler = None
        if self._settings.rate_hz != SAMPLE_RATE_HZ:
            self._resampler = soxr.ResampleStream(
                self._settings.rate_hz, SAMPLE_RATE_HZ, 1, dtype="int16", quality=_QUALITY
            )
        self._detector = VoiceDetector(self._model)
        self._windower = Windower(policy_of(self._settings))

    def feed(self, data: bytes) -> Heard:
        """Take a piece of audio, in whole samples."""
        pcm = self._resampled(_decoded(data, self._settings))
        self._listen(pcm)
        return self._heard(pcm)

    def finish(self) -> Heard:
        """End the window that is open."""
        pcm = self._resampled(np.zeros(0, np.int16), last=True)
        self._listen(pcm)
        self._end(self._windower.feed(self._detector.finish()))
        self._end(self._windower.finish(self._total - self._first))
        self._begin()
        return self._heard(pcm)

    def _resampled(self, pcm: _Pcm, *, last: bool = False) -> _Pcm:
        if self._resampler is None:
            return pcm
        resampled: _Pcm = np.ravel(self._resampler.resample_chunk(pcm, last=last))
        return resampled

    def _listen(self, pcm: _Pcm) -> None:
        self._total += len(pcm)
        self._end(self._windower.feed(self._detector.feed(pcm)))

    def _end(self, windows: Iterable[Window]) -> None:
        # One by one, since what is open after each tells whether its utterance goes on.
        for window in windows:
            self._ended.append(Ended(moved(window, self._first), goes_on=self._windower.open is not None))

    def _heard(self, pcm: _Pcm) -> Heard:
        ended, self._ended = self._ended, []
        window, first = self._windower.open, self._first
        if window is not None:
            window = replace(window, start_sample=first + window.start_sample, end_sample=first + window.end_sample)
        keep = first + self._windower.earliest_sample
        return Heard(self._number, pcm.astype("<i2").tobytes(), ended, window, keep)


def moved(window: Window, samples: int) -> Window:
    """A window that is so many samples later."""
    speech, seconds = window.speech, samples / SAMPLE_RATE_HZ
    return Window(
        window.index,
        window.start_sample + samples,
        window.end_sample + samples,
        Region(speech.start_s + seconds, speech.end_s + seconds),
    )


def _decoded(data: bytes, settings: StreamSettings) -> _Pcm:
    if settings.encoding == "pcm16":
        return np.frombuffer(data, "<i2").astype(np.int16)
    table = _MU_LAW if settings.encoding == "pcmu" else _A_LAW
    return table[np.frombuffer(data, np.uint8)]


def _mu_law() -> _Pcm:
    """The 256 values of µ-law, as 16-bit samples (ITU-T G.711, table 2a)."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_law() -> _Pcm:
    """The 256 values of A-law, as 16-bit samples (ITU-T G.711, table 1a)."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_MU_LAW, _A_LAW = _mu_law(), _a_law()
