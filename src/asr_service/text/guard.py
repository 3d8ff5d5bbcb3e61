"""The output guard: what stops a model that would not stop by itself, and what cleans its answers.

Owns token budgets, loop detection and the framing that GLM-ASR was trained to add. Works on token ids and plain
text; knows no model.
"""

from typing import Literal

Verdict = Literal["budget", "loop"]

_TOKENS_BASE = 32
_TOKENS_PER_S = 30.0
"""Fast speech reaches about 7 syllables a second, at most 3 byte-level tokens each: 30 a second is never speech."""

_MAX_PERIOD = 32
_MIN_REPEATED_TOKENS = 24
_MIN_REPETITIONS = 4
"""A loop is a pattern of up to 32 tokens, repeated at least 4 times more and over at least 24 tokens more. People do
say "no, no, no, no" and laugh for a while; a model in a loop goes on for hundreds of tokens."""


class LoopDetector:
    """Watches a growing list of tokens for a periodic end. Costs `_MAX_PERIOD` comparisons a token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._matches = [0] * (_MAX_PERIOD + 1)

    def push(self, token: int) -> bool:
        """Add a token; True when the end of the text has become a loop."""
        self._tokens.append(token)
        looping = False
        for period in range(1, min(_MAX_PERIOD, len(self._tokens) - 1) + 1):
            if self._tokens[-1 - period] != token:
                self._matches[period] = 0
                continue
            self._matches[period] += 1
            looping |= self._matches[period] >= max(_MIN_REPEATED_TOKENS, _MIN_REPETITIONS * period)
        return looping

    def without_loop(self) -> list[int]:
        """The tokens with the repetitions at the end reduced to the first occurrence of their pattern."""
        return self._tokens[: len(self._tokens) - max(self._matches)]


class OutputGuard:
    """Follows one sequence. `stopped` names the reason once the guard has ended it."""

    def __init__(self, duration_s: float, max_new_tokens: int, *, enabled: bool = True) -> None:
        """`duration_s` of audio bounds what can have been said; `max_new_tokens` is what the slot holds."""
        allowed = int(_TOKENS_BASE + _TOKENS_PER_S * duration_s) if enabled else max_new_tokens
        self._budget = min(allowed, max_new_tokens)
        self._loop = LoopDetector() if enabled else None
        self.tokens: list[int] = []
        self.stopped: Verdict | None = None

    def push(self, token: int) -> bool:
        """Take one more token (no stop id); True when the sequence must end now."""
        self.tokens.append(token)
        if self._loop is not None and self._loop.push(token):
            self.tokens = self._loop.without_loop()
            self.stopped = "loop"
        elif len(self.tokens) >= self._budget:
            self.stopped = "budget"
        return self.stopped is not None


_FRAMES = (
    "The spoken content of the audio is",
    "The transcription of the audio is",
    "The content of the input audio is",
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」"}


def strip_framing(text: str) -> str:
    """Remove a sentence that GLM-ASR puts around what was said, with its quotes. Other text stays as it is."""
    stripped = text.strip()
    frame = next((frame for frame in _FRAMES if stripped.startswith(frame)), None)
    if frame is None:
        return stripped
    inner = stripped[len(frame) :].lstrip(" :").rstrip()
    unstopped = inner.removesuffix(".").removesuffix("。").rstrip()
    for candidate in (inner, unstopped):
        if len(candidate) >= 2 and _QUOTES.get(candidate[0]) == candidate[-1]:
            return candidate[1:-1].strip()
    return inner
