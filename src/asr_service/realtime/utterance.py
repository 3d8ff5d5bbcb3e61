"""One utterance: its windows in order, what each has been transcribed to so far, and the text of all.

Owns when text of an utterance is certain and when the utterance is complete. Starts nothing and waits for nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from asr_service.domain import SAMPLE_RATE_HZ, Segment, Window, WindowResult, Word
from asr_service.errors import AsrError
from asr_service.text.agreement import Agreement
from asr_service.text.formats import join


@dataclass(slots=True, eq=False)
class Piece:
    """One window of an utterance. `window` is set when it has ended, `result` when its text is final."""

    start_sample: int
    text: Agreement = field(default_factory=Agreement)
    heard_sample: int = 0
    """Where the audio of the newest transcription ends."""
    ended_s: float = 0.0
    """When the window ended, by the session's clock."""
    newest: WindowResult | None = None
    window: Window | None = None
    result: WindowResult | None = None

    def take(self, end_sample: int, result: WindowResult) -> None:
        """A transcription of the window as far as `end_sample`."""
        self.heard_sample, self.newest = end_sample, result
        # What was stopped while it ran away may be wrong from its beginning.
        if result.guard is None:
            self.text.take(result.text)

    def finish(self, result: WindowResult) -> None:
        """The transcription of the whole window."""
        assert self.window is not None, "only a window that has ended has a final text"
        self.heard_sample, self.result = self.window.end_sample, result
        self.text.finish(result.text)

    @property
    def segment(self) -> Segment:
        """The final text with its times, in seconds from the beginning of the session."""
        assert self.window is not None
        assert self.result is not None
        offset_s = self.window.start_sample / SAMPLE_RATE_HZ
        words = tuple(Word(offset_s + w.start_s, offset_s + w.end_s, w.text) for w in self.result.words)
        return Segment(self.window.speech.start_s, self.window.speech.end_s, self.text.settled, words)


@dataclass(slots=True, eq=False)
class Utterance:
    """Windows that follow each other without the silence that would end it. `closed`: no more will come."""

    id: str
    pieces: list[Piece] = field(default_factory=list)
    closed: bool = False
    announced: bool = False
    """Whether the client knows of it: from the beginning of speech, or from its commit."""
    error: AsrError | None = None
    """Why it gets no text."""
    language: str | None = None
    told: str = ""
    """The settled text that the client knows."""
    segments_told: int = 0

    @property
    def done(self) -> bool:
        """Whether all windows have their final text."""
        return self.closed and all(piece.result is not None for piece in self.pieces)

    @property
    def settled(self) -> str:
        """The text that is certain: of the windows that are final, and of the first one that is not."""
        return join(piece.text.settled for piece in self._certain())

    @property
    def unsettled(self) -> str:
        """What may follow it."""
        certain = list(self._certain())
        return certain[-1].text.unsettled if certain else ""

    @property
    def heard_sample(self) -> int:
        """How far into the audio `settled` and `unsettled` reach."""
        return max((piece.heard_sample for piece in self._certain()), default=0)

    def _certain(self) -> Iterator[Piece]:
        for piece in self.pieces:
            yield piece
            if piece.result is None:
                return

    @property
    def final_pieces(self) -> list[Piece]:
        """Those windows at the beginning whose text is final."""
        return [piece for piece in self._certain() if piece.result is not None]

    @property
    def audio_s(self) -> float:
        windows = [piece.window for piece in self.pieces if piece.window is not None]
        return sum(window.duration_s for window in windows)
