"""What a live session tells: utterances begin, their text grows and settles, and each ends exactly once.

Owns these types. Knows no wire format. Samples count from the beginning of the session, at 16 kHz.
"""

from dataclasses import dataclass

from asr_service.domain import Segment
from asr_service.errors import AsrError


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody speaks; `sample` is where the audio of the utterance begins."""

    item: str
    sample: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Nobody speaks any more; `sample` is where the audio of the utterance ends."""

    item: str
    sample: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The utterance is complete, whether its text is there or not. `previous`: the one before."""

    item: str
    previous: str | None


@dataclass(frozen=True, slots=True)
class Settled:
    """Text that is certain; it follows what settled before."""

    item: str
    delta: str


@dataclass(frozen=True, slots=True)
class Partial:
    """All text of an utterance so far, which reaches to `end_sample` of the audio; `unsettled` may still change."""

    item: str
    settled: str
    unsettled: str
    end_sample: int


@dataclass(frozen=True, slots=True)
class SegmentDone:
    """A stretch of an utterance with its final text. `number`: which one."""

    item: str
    number: int
    segment: Segment


@dataclass(frozen=True, slots=True)
class Completed:
    """The final text of an utterance, in seconds from the beginning of the session; `audio_s` is what it took."""

    item: str
    text: str
    language: str | None
    segments: tuple[Segment, ...]
    audio_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """An utterance that gets no text."""

    item: str
    error: AsrError


Event = SpeechStarted | SpeechStopped | Committed | Settled | Partial | SegmentDone | Completed | Failed
