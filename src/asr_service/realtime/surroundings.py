"""What a live session needs of others: somebody who listens to its audio, and somebody who is told how it fares.

Owns these protocols. Knows no process, no metric and no session.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from asr_service.audio.listener_messages import Heard, StreamSettings


class Stream(Protocol):
    """One stream of audio that somebody listens to."""

    @property
    def settings(self) -> StreamSettings: ...

    @property
    def total_samples(self) -> int:
        """How much has been heard, at 16 kHz."""

    async def hear(self, data: bytes) -> Heard:
        """Take the next piece of audio, in whole samples. Raises Unavailable."""

    async def finish(self) -> Heard:
        """End the window that is open, if one is. The stream goes on. Raises Unavailable."""

    def restart(self, settings: StreamSettings | None = None) -> None:
        """Forget what is open, and go on, with other settings if they are given."""

    def pcm(self, start_sample: int, end_sample: int) -> bytes:
        """Audio of a window that was open or ended in the last answer: mono 16 kHz int16 PCM."""

    def close(self) -> None:
        """Forget the stream."""


class Listener(Protocol):
    """Who listens to all streams."""

    def stream(self, settings: StreamSettings) -> Stream:
        """A new stream. Raises Unavailable."""

    async def aclose(self) -> None:
        """Listen no more. What is not answered gets Unavailable."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told how live sessions fare.

    draft: what became of a draft: `used`, `superseded` or `dropped`. final: seconds from the end of a window to its
    final text. age: seconds of audio that a draft was behind when it came.
    """

    draft: Callable[[str], None] = lambda outcome: None
    final: Callable[[float], None] = lambda seconds: None
    age: Callable[[float], None] = lambda seconds: None
