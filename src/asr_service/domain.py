"""The nouns of speech recognition, as frozen values.

Owns the types that travel between layers. Knows no framework, no process boundary and no file format.
Audio inside the service is always mono, 16 kHz, signed 16-bit little-endian PCM.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

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
class OpenWindow:
    """A window that is not complete yet, as far as it has been heard, in samples.

    `end_sample` is where it would end if nothing more were said; `speaking`: somebody speaks just now; `quiet`: it has
    been silent for so long that it ends just there unless somebody goes on. Between the two it cannot be said yet.
    """

    start_sample: int
    end_sample: int
    speaking: bool
    quiet: bool


@dataclass(frozen=True, slots=True)
class AudioSummary:
    """What the decoder learned about a recording once it had read all of it."""

    duration_s: float
    warnings: tuple[str, ...]
    decode_ms: float
    vad_ms: float


Task = Literal["transcribe", "translate"]


class Priority(IntEnum):
    """What a window is to the engine.

    FINAL: somebody has just stopped speaking and waits for the text; goes first. NORMAL: a piece of a recording.
    DRAFT: a window that is still being spoken; worth nothing any more as soon as a newer one of its request is there.
    """

    FINAL = 0
    NORMAL = 1
    DRAFT = 2


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How a window is to be transcribed.

    language: an ISO 639-1 code; None asks the model to detect it. prompt: text from before the window, or about it.
    task: `translate` writes English, where the model can. temperature: 0 takes the likeliest token, more draws one.
    hotwords: names and terms that are made likelier. words: find the times of words. logprobs: report what each token
    was worth. timestamps: let the model write when each piece of its text begins and ends, where it can. no_speech:
    report how likely the model thinks that nobody speaks, where it can. prefix: what the text begins with, as if the
    model had written it; whole words. guess: how it may go on from there; right or wrong, it changes nothing but the
    time that it takes.
    """

    language: str | None = None
    prompt: str | None = None
    task: Task = "transcribe"
    temperature: float = 0.0
    hotwords: tuple[str, ...] = ()
    words: bool = False
    logprobs: bool = False
    timestamps: bool = False
    no_speech: bool = False
    prefix: str = ""
    guess: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or a character where words are not set apart by spaces, with its punctuation.

    Seconds from the start of its window or, in a `Segment`, of the recording.
    """

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a window's text between two times that the model wrote, in seconds from the window's start. tokens: of
    how many it consists, its times included.
    """

    start_s: float
    end_s: float
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token that a model wrote: its id, its bytes (not always whole characters), and its log probability."""

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class WindowTimings:
    """Where the engine spent its time on one window, in milliseconds. Shared steps count in full for each window.

    align: finding the times of words.
    """

    queue_ms: float
    encode_ms: float
    decode_ms: float
    decode_steps: int
    align_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The text of one window. `guard` names what stopped a runaway output ("budget", "loop"), if anything did.

    tokens: how many the model wrote. words, details, parts, no_speech_prob: where the options asked for word times, log
    probabilities, the model's own times, and how likely it is that nobody speaks.
    """

    text: str
    language: str | None
    tokens: int
    timings: WindowTimings
    guard: str | None = None
    words: tuple[Word, ...] = ()
    details: tuple[Token, ...] = ()
    parts: tuple[Part, ...] = ()
    no_speech_prob: float | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """The text of one window of speech, or of a part of it, in seconds from the start of the recording."""

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...] = ()
    tokens: tuple[Token, ...] = ()
    no_speech_prob: float | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in milliseconds.

    decode, vad: CPU time-like wall time in the decode worker. queue, encode, decode_steps (the time from a window's
    first decoder step to its last), align (finding the times of words): summed over windows these would exceed the wall
    clock, so each is the largest of any window. first_token: from the start until a window had its first token; None if
    nobody speaks.
    """

    decode_ms: float
    vad_ms: float
    queue_ms: float
    encode_ms: float
    decode_steps_ms: float
    total_ms: float
    align_ms: float = 0.0
    first_token_ms: float | None = None


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
    """What a loaded model is and can do.

    languages: empty where the model takes no language. translates: into English. word_times: an aligner is loaded.
    timestamps: the model can write times itself.
    """

    name: str
    family: str
    device: str
    dtype: str
    languages: tuple[str, ...]
    slots: int
    memory_bytes: int
    load_s: float
    translates: bool = False
    word_times: bool = False
    timestamps: bool = False
