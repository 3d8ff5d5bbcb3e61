"""What the API process and the process that listens to live speech say to each other, as msgpack.

Owns the wire format, nothing else. Streams are numbered by the API process. After `Open`, each `Hear` and each `Finish`
is answered by one `Heard`, in order.
"""

from typing import Literal

import msgspec

from asr_service.domain import OpenWindow, Window

Encoding = Literal["pcm16", "pcmu", "pcma"]


class StreamSettings(msgspec.Struct, frozen=True):
    """How a stream is encoded, and where its utterances begin and end.

    encoding: 16-bit little-endian PCM, or G.711 (µ-law, A-law), mono, at `rate_hz`. threshold: the probability of
    speech that begins an utterance. prefix_s: audio before it that belongs to it. silence_s: silence that ends it;
    None: only `Finish` does.
    """

    encoding: Encoding = "pcm16"
    rate_hz: int = 24_000
    threshold: float = 0.5
    prefix_s: float = 0.3
    silence_s: float | None = 0.5

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample on the wire."""
        return 2 if self.encoding == "pcm16" else 1


class Open(msgspec.Struct, frozen=True, tag=True):
    """Begin a stream, or take one over: its next sample is number `start_sample` + those of `heard`.

    heard: mono 16 kHz PCM that another process has answered already, but which windows to come may still hold.
    """

    stream: int
    settings: StreamSettings
    start_sample: int = 0
    heard: bytes = b""


class Hear(msgspec.Struct, frozen=True, tag=True):
    """The next piece of audio, in whole samples of the stream's encoding."""

    stream: int
    data: bytes


class Finish(msgspec.Struct, frozen=True, tag=True):
    """Whatever is open ends here."""

    stream: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """Forget a stream. Not answered."""

    stream: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The detector is loaded, the limits are in force. `unfiltered`: why system calls are not, if so."""

    unfiltered: str | None = None


class Ended(msgspec.Struct, frozen=True):
    """A window that is complete. `goes_on`: so long that it was cut; the utterance continues in the next."""

    window: Window
    goes_on: bool


class Heard(msgspec.Struct, frozen=True, tag=True):
    """What a piece of audio has brought. Samples and seconds count from the beginning of the stream.

    pcm: the piece as mono 16 kHz PCM. ended: windows that it has completed. open: the window that is not complete.
    keep_sample: no window to come begins before it.
    """

    stream: int
    pcm: bytes
    ended: list[Ended]
    open: OpenWindow | None
    keep_sample: int


ToListener = Open | Hear | Finish | Close
FromListener = Ready | Heard

encode = msgspec.msgpack.Encoder().encode
decode_to_listener = msgspec.msgpack.Decoder(ToListener).decode
decode_from_listener = msgspec.msgpack.Decoder(FromListener).decode
