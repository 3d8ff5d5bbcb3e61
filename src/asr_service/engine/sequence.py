"""One window's life in the engine: waiting → running → finished.

Owns the state of a sequence. Knows neither tensors nor sockets.
"""

from dataclasses import dataclass

from asr_service.domain import Priority, WindowOptions
from asr_service.models.base import Features
from asr_service.text.guard import OutputGuard


@dataclass(slots=True, eq=False)
class Sequence:
    """Times are of the monotonic clock, in seconds. `deadline_s` is the time after which nobody wants the result."""

    id: int
    request_id: str
    features: Features
    options: WindowOptions
    guard: OutputGuard
    arrived_s: float
    frames: int
    """Encoder frames that admitting this sequence costs, padding included."""
    priority: Priority = Priority.NORMAL
    exact: bool = False
    """Encode the whole padded window: set when a shortened one has led to an output that the guard stopped."""
    aligner_features: Features | None = None
    """The window as the aligner wants it, where that is not how the model wants it."""
    deadline_s: float | None = None
    language: str | None = None
    no_speech_prob: float | None = None
    admitted_s: float = 0.0
    encoded_s: float = 0.0
    steps: int = 0

    def expired(self, now_s: float) -> bool:
        return self.deadline_s is not None and now_s >= self.deadline_s


@dataclass(frozen=True, slots=True)
class Finish:
    """A sequence that has left its row; `moved_from` is the row that now stands in its place, if any."""

    sequence: Sequence
    row: int
    moved_from: int | None = None
