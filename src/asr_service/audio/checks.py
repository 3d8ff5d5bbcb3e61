"""What a decode worker may say about a recording. One that a hostile file has taken over could say anything.

Owns the bounds of every message, so that behind them the API process may trust what it reads: windows lie in audio
that was written, numbers are numbers, texts are short, and there is an end. Runs in the API process.
"""

import math
import os
from itertools import pairwise

from asr_service.audio.messages import Done, Failed, FromWorker, Progress, WindowCut
from asr_service.domain import BYTES_PER_SAMPLE, MAX_WINDOW_S, AudioSummary, Window

MAX_FRAME_BYTES = 64 * 1024

_MAX_TEXT = 500
_MAX_WARNINGS = 16
_MAX_ELAPSED_MS = 1e9
_MIN_MESSAGES = 1000


class ImplausibleMessage(Exception):
    """A worker says what no worker of ours can say: it cannot be trusted any more."""


class Conversation:
    """The messages about one recording, whose PCM goes to the file `pcm_fd`."""

    def __init__(self, pcm_fd: int, max_audio_s: float) -> None:
        self._pcm_fd = pcm_fd
        self._max_audio_s = max_audio_s
        # Windows and signs of life are seconds apart.
        self._messages_left = _MIN_MESSAGES + int(max_audio_s)
        self._last_end = 0

    def check(self, message: FromWorker) -> None:
        """Raises ImplausibleMessage."""
        self._messages_left -= 1
        if self._messages_left < 0 or not self._is_plausible(message):
            raise ImplausibleMessage(f"a decode worker said {type(message).__name__}, out of its bounds")

    def _is_plausible(self, message: FromWorker) -> bool:
        match message:
            case WindowCut(window):
                plausible = self._holds(window)
                self._last_end = window.end_sample
                return plausible
            case Progress(decoded_s):
                return self._in_order(0, decoded_s)
            case Done(summary):
                return self._is_sound(summary)
            case Failed(code, text):
                return len(code) <= _MAX_TEXT and len(text) <= _MAX_TEXT
            case _:
                return False

    def _holds(self, window: Window) -> bool:
        written_samples = os.fstat(self._pcm_fd).st_size // BYTES_PER_SAMPLE
        return (
            self._last_end <= window.start_sample < window.end_sample <= written_samples
            and window.duration_s <= MAX_WINDOW_S
            and self._in_order(0, window.speech.start_s, window.speech.end_s)
        )

    def _is_sound(self, summary: AudioSummary) -> bool:
        return (
            self._in_order(0, summary.duration_s)
            and all(0 <= elapsed_ms <= _MAX_ELAPSED_MS for elapsed_ms in (summary.decode_ms, summary.vad_ms))
            and len(summary.warnings) <= _MAX_WARNINGS
            and all(len(warning) <= _MAX_TEXT for warning in summary.warnings)
        )

    def _in_order(self, *seconds: float) -> bool:
        """Whether these are times of the recording, none before the last."""
        times = (*seconds, self._max_audio_s)
        return all(map(math.isfinite, seconds)) and all(a <= b for a, b in pairwise(times))
