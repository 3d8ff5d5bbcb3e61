"""Which stretches of a recording the models hear: speech probabilities in, windows of at most 30 s out.

Owns the policy: hysteresis from frames to regions of speech, the air around them, which regions share a window and
where speech without a pause is cut. Knows neither audio nor the detector, only one probability per frame.

The thresholds were tuned with the recordings that `vad.py` lists.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from asr_service.domain import MAX_WINDOW_S, SAMPLE_RATE_HZ, OpenWindow, Region, Window

FRAME_SAMPLES = 512
"""Samples (at 16 kHz: 32 ms) behind one probability."""


def _frames(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Thresholds are probabilities, the rest is in seconds.

    A group of frames of at least `keep` (bridging gaps up to `bridge_s`) is speech if one of them reaches `start` and
    they add up to `min_speech_s`. `close_pause_s` is the silence that is not worth transcribing; `min_window_s` the
    least that a cut may leave on either side.
    """

    start: float = 0.6
    keep: float = 0.3
    min_speech_s: float = 0.224
    bridge_s: float = 0.096
    undecided_s: float = 10.0
    pad_before_s: float = 0.3
    pad_after_s: float = 0.3
    close_pause_s: float = 2.0
    min_window_s: float = 0.5
    max_window_s: float = MAX_WINDOW_S

    def __post_init__(self) -> None:
        # The air after a window must not reach into audio that has not been heard yet.
        if self.pad_after_s > self.close_pause_s:
            raise ValueError("pad_after_s must fit into close_pause_s")


DEFAULT_POLICY = WindowPolicy()


@dataclass(slots=True)
class _Group:
    """Frames that may turn out to be speech."""

    first: int
    last: int
    active: int = 0
    peak: float = 0.0
    is_speech: bool = False


@dataclass(slots=True)
class _Span:
    """Speech, in frames; `end` is exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a window ends and the next begins (samples), and the first frame whose speech belongs to the next."""

    end_sample: int
    next_sample: int
    frame: int


class Windower:
    """Turns frame probabilities into windows, as soon as each is certain.

    Windows come in order, never overlap, are at most 30 s long, and hold every frame of speech exactly once. How the
    probabilities are split between calls of `feed` makes no difference. Memory is bounded by a window's length.
    """

    def __init__(self, policy: WindowPolicy = DEFAULT_POLICY) -> None:
        self._policy = policy
        self._min_active = _frames(policy.min_speech_s)
        self._bridge = _frames(policy.bridge_s)
        self._undecided = _frames(policy.undecided_s)
        self._close_pause = _frames(policy.close_pause_s)
        self._pad_before = _samples(policy.pad_before_s)
        self._pad_after = _samples(policy.pad_after_s)
        self._min_window = _samples(policy.min_window_s)
        self._max_window = _samples(policy.max_window_s)
        self._index = 0
        self._frames_seen = 0
        self._closed_sample = 0
        self._group: _Group | None = None
        self._spans: list[_Span] = []
        self._open_sample = 0
        self._probs: list[float] = []
        self._probs_from = 0

    @property
    def open(self) -> OpenWindow | None:
        """What the next window holds so far; None while nobody speaks."""
        if not self._spans:
            return None
        heard, end = self._frames_seen * FRAME_SAMPLES, self._known_end() + self._pad_after
        quiet = self._group is None and heard >= end
        return OpenWindow(self._open_sample, min(heard, end, self._limit()), self._group is not None, quiet)

    @property
    def earliest_sample(self) -> int:
        """No window that is still to come begins before this."""
        if self._spans:
            return self._open_sample
        first = self._frames_seen if self._group is None else self._group.first
        return self._opening(first)

    def feed(self, probs: Iterable[float]) -> Iterator[Window]:
        """Take the next frames' probabilities; yields the windows that they complete. Consume all of it."""
        for prob in probs:
            self._advance(float(prob))
            while self._spans and self._is_cut_due():
                yield self._split(self._best_cut(self._known_end()))
            if self._spans and self._group is None and self._silent_frames() >= self._close_pause:
                yield self._close(self._known_end())

    def finish(self, total_samples: int) -> Iterator[Window]:
        """The recording is over, `total_samples` long: yields the windows that are left."""
        self._group = None
        if self._spans:
            known_end = min(self._known_end(), total_samples)
            while known_end > self._limit():
                yield self._split(self._best_cut(known_end), total_samples)
            yield self._close(known_end, total_samples)

    # frames -> spans of speech

    def _advance(self, prob: float) -> None:
        frame = self._frames_seen
        self._frames_seen += 1
        self._probs.append(prob)
        group = self._group
        if prob >= self._policy.keep:
            if group is None:
                group = self._group = _Group(first=frame, last=frame)
            group.last = frame
            group.active += 1
            group.peak = max(group.peak, prob)
            self._judge(group)
        if group is not None:
            gone_quiet = frame - group.last > self._bridge
            undecided = not group.is_speech and frame - group.first >= self._undecided
            if gone_quiet or undecided:
                self._group = None
        if self._group is None and not self._spans:
            self._forget_before(self._frames_seen)

    def _judge(self, group: _Group) -> None:
        if group.is_speech:
            self._spans[-1].end = group.last + 1
        elif group.active >= self._min_active and group.peak >= self._policy.start:
            group.is_speech = True
            if not self._spans:
                self._open_sample = self._opening(group.first)
                self._forget_before(group.first)
            self._spans.append(_Span(group.first, group.last + 1))

    def _opening(self, frame: int) -> int:
        """Where a window whose speech begins with `frame` begins: with air before it, but not the last window's."""
        return max(self._closed_sample, frame * FRAME_SAMPLES - self._pad_before)

    def _forget_before(self, frame: int) -> None:
        del self._probs[: frame - self._probs_from]
        self._probs_from = frame

    # spans -> windows

    def _known_end(self) -> int:
        return self._spans[-1].end * FRAME_SAMPLES

    def _limit(self) -> int:
        return self._open_sample + self._max_window

    def _silent_frames(self) -> int:
        return self._frames_seen - self._spans[-1].end

    def _is_cut_due(self) -> bool:
        """Speech has outgrown the window, and enough follows (or it has ended) to say where to cut."""
        over = self._known_end() - self._limit()
        still_growing = self._group is not None and self._group.is_speech
        return over >= self._min_window or (over > 0 and not still_growing)

    def _best_cut(self, known_end: int) -> _Cut:
        """The longest pause in the last third, else the last pause, else the frame that is least like speech."""
        pauses = [cut for cut in self._pauses(known_end) if cut[1].end_sample - self._open_sample >= self._min_window]
        late = self._open_sample + self._max_window * 2 // 3
        in_last_third = [(length, cut) for length, cut in pauses if cut.end_sample >= late]
        if in_last_third:
            return max(in_last_third, key=lambda pause: (pause[0], pause[1].frame))[1]
        if pauses:
            return pauses[-1][1]
        return self._cut_in_speech(late, min(self._limit(), known_end - self._min_window))

    def _pauses(self, known_end: int) -> Iterator[tuple[int, _Cut]]:
        for left, right in zip(self._spans, self._spans[1:], strict=False):
            quiet_from, quiet_to = left.end * FRAME_SAMPLES, right.start * FRAME_SAMPLES
            if quiet_from > self._limit():
                break
            end = min(quiet_from + self._pad_after, (quiet_from + quiet_to) // 2, self._limit())
            following = max(end, quiet_to - self._pad_before)
            if known_end - following >= self._min_window:
                yield right.start - left.end, _Cut(end, following, right.start)

    def _cut_in_speech(self, first_sample: int, last_sample: int) -> _Cut:
        first, last = -(-first_sample // FRAME_SAMPLES), last_sample // FRAME_SAMPLES
        probs = np.array(self._probs[first - 2 - self._probs_from : last + 3 - self._probs_from])
        # The mean of five frames around each boundary; the latest of equals makes the longest window.
        smooth = np.convolve(probs, np.full(5, 0.2), "valid")
        frame = first + len(smooth) - 1 - int(np.argmin(np.round(smooth[::-1], 6)))
        return _Cut(frame * FRAME_SAMPLES, frame * FRAME_SAMPLES, frame)

    def _split(self, cut: _Cut, total_samples: int | None = None) -> Window:
        """Emit what lies before the cut and open the next window with the rest."""
        left = [span for span in self._spans if span.start < cut.frame]
        right = [_Span(max(span.start, cut.frame), span.end) for span in self._spans if span.end > cut.frame]
        speech_end = min(left[-1].end, cut.frame) * FRAME_SAMPLES
        window = self._window(left[0].start, speech_end, cut.end_sample, total_samples)
        self._spans = right
        self._open_sample = cut.next_sample
        self._forget_before(right[0].start)
        return window

    def _close(self, known_end: int, total_samples: int | None = None) -> Window:
        """Emit the open window whole."""
        end = min(known_end + self._pad_after, self._limit())
        window = self._window(self._spans[0].start, known_end, end, total_samples)
        self._spans = []
        return window

    def _window(self, first_frame: int, speech_end: int, end_sample: int, total_samples: int | None) -> Window:
        if total_samples is not None:
            end_sample, speech_end = min(end_sample, total_samples), min(speech_end, total_samples)
        speech = Region(first_frame * FRAME_SAMPLES / SAMPLE_RATE_HZ, speech_end / SAMPLE_RATE_HZ)
        window = Window(self._index, self._open_sample, end_sample, speech)
        self._index += 1
        self._closed_sample = end_sample
        return window
