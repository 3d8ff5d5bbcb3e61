"""The nouns of speech recognition, as frozen values.

Owns the types that travel between layers. Knows no framework, no process boundary and no file format.
Audio inside the service is always mono, 16 kHz, signed 16-bit little-endian PCM.
"""

from dataclasses import dataclass, field

SAMPLE_RATE_HZ = 16_000
BYTES_PER_SAMPLE = 2
MAX_WINDOW_S = 30.0
"""The longest stretch of audio that Whisper and GLM-ASR take in one piece."""


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of speech, in seconds from the start of the recording."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Window:
    """At most 30 s of a recording that holds speech: the unit that the engine transcribes.

    `start_sample` and `end_sample` bound the audio that the model hears (with a little air around the speech);
    `speech` bounds what was spoken.
    """

    index: int
    start_sample: int
    end_sample: int
    speech: Region

    @property
    def duration_s(self) -> float:
        return (self.end_sample - self.start_sample) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class AudioSummary:
    """What the decoder learned about a recording once it had read all of it."""

    duration_s: float
    warnings: tuple[str, ...]
    decode_ms: float
    vad_ms: float


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How a window is to be transcribed. `language` is an ISO 639-1 code; None asks the model to detect it."""

    language: str | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class WindowTimings:
    """Where the engine spent its time on one window, in milliseconds. Shared steps count in full for each window."""

    queue_ms: float
    encode_ms: float
    decode_ms: float
    decode_steps: int


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The text of one window. `guard` names what stopped a runaway output ("budget", "loop"), if anything did."""

    text: str
    language: str | None
    tokens: int
    timings: WindowTimings
    guard: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """The text of one window of speech, in seconds from the start of the recording."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in milliseconds.

    decode, vad: CPU time-like wall time in the decode worker. queue, encode, decode_steps (the time from a window's
    first decoder step to its last): summed over windows these would exceed the wall clock, so each is the largest of
    any window.
    """

    decode_ms: float
    vad_ms: float
    queue_ms: float
    encode_ms: float
    decode_steps_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """The answer to one request."""

    text: str
    language: str | None
    duration_s: float
    model: str
    segments: tuple[Segment, ...]
    timings: Timings
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and can do. `languages` is empty where the model takes no language."""

    name: str
    family: str
    device: str
    dtype: str
    languages: tuple[str, ...]
    slots: int
    memory_bytes: int
    load_s: float
