"""How often a window that is still being spoken is transcribed.

Owns the interval between drafts: short while the engine answers at once, and longer the longer it takes, so that drafts
of many speakers never fill the engine.
"""

_MIN_LENGTH_S = 0.9
"""Of less, its air included, nothing certain can be said."""
_MIN_NEW_S = 0.3
_MIN_INTERVAL_S = 0.5
_SHARE = 0.33
"""Of its time, a session has a draft with the engine at most this share."""
_WEIGHT = 0.3


class Pace:
    """Of one session. All times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._asked_s = float("-inf")
        self._latency_s = 0.0

    @property
    def interval_s(self) -> float:
        """Time between the beginnings of two drafts."""
        return max(_MIN_INTERVAL_S, self._latency_s / _SHARE)

    def is_due(self, now_s: float, length_s: float, new_s: float) -> bool:
        """Whether a window of `length_s`, of which the newest draft has not heard `new_s`, is worth another one."""
        return length_s >= _MIN_LENGTH_S and new_s >= _MIN_NEW_S and now_s - self._asked_s >= self.interval_s

    def asked(self, now_s: float) -> None:
        """A draft was given to the engine."""
        self._asked_s = now_s

    def answered(self, latency_s: float) -> None:
        """It took so long."""
        self._latency_s += _WEIGHT * (latency_s - self._latency_s)
