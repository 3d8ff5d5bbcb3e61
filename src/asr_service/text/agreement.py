"""When words of growing text are certain: once two transcriptions of a growing window agree on them.

Owns this rule, local agreement (Liu, Spanakis and Niehues 2020, "Low-Latency Sequence-to-Sequence Speech Recognition
and Translation by Partial Hypothesis Selection"), and that what has settled never changes. Knows no audio and no model.
"""

from asr_service.text.formats import separator
from asr_service.text.words import split_words


class Agreement:
    """The text of one window while it is spoken. `settled` only grows; `unsettled` is what may follow it."""

    def __init__(self) -> None:
        self.settled = ""
        self.unsettled = ""
        self._before: str | None = None

    def take(self, hypothesis: str) -> str:
        """Compare with the hypothesis before, which heard less. Returns what has settled now."""
        if not hypothesis.startswith(self.settled):
            # From a time when less had settled: it says nothing about what came after that.
            return ""
        agreed = 0 if self._before is None else _agreed(self._before, hypothesis)
        added = hypothesis[len(self.settled) : agreed]
        self.settled += added
        self.unsettled = hypothesis[len(self.settled) :]
        self._before = hypothesis
        return added

    def finish(self, text: str) -> str:
        """Settle the final text of the window. Returns what that adds."""
        if text.startswith(self.settled):
            added = text[len(self.settled) :]
        else:
            # Its beginning is as it is: as many words of the final text are left out.
            rest = split_words(text)[len(split_words(self.settled)) :]
            tail = text[rest[0].start :] if rest else ""
            added = separator(self.settled, tail) + tail
        self.settled, self.unsettled = self.settled + added, ""
        return added


def _agreed(before: str, after: str) -> int:
    """The end of the words of `after`, from its first on, that `before` has too."""
    old, new = split_words(before), split_words(after)
    end = 0
    for number, (left, right) in enumerate(zip(old, new, strict=False), 1):
        if before[left.start : left.last] != after[right.start : right.last]:
            break
        # Punctuation at the end of what was heard is a guess: the sentence may go on.
        if number in (len(old), len(new)) or before[left.start : left.end] != after[right.start : right.end]:
            return right.last
        end = right.end
    return end
