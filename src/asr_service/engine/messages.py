"""What the API process and an engine process say to each other, as msgpack.

Owns the wire format, nothing else. Every `Submit` is answered by exactly one `Finished` or `Failed`, unless it is
cancelled first.
"""

import msgspec

from asr_service.domain import ModelInfo, Part, Priority, Token, WindowOptions, WindowTimings, Word


class EngineConfig(msgspec.Struct, frozen=True, tag=True):
    """The first message to an engine: what to load and how. `threads` 0 means one per core."""

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    slots: int = 16
    cache_dir: str = ""
    encoder: str = "auto"
    quantization: str = "none"
    aligner: str = "auto"
    guard: bool = True


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Transcribe one window: mono 16 kHz int16 PCM, at most 30 s.

    `id` is unique per engine client; `request_id` groups windows for fairness. `deadline_ms` counts from arrival. A
    draft that is still waiting when another window of its request comes fails with the code `superseded`.
    """

    id: int
    request_id: str
    pcm: bytes
    options: WindowOptions = WindowOptions()
    deadline_ms: float | None = None
    priority: Priority = Priority.NORMAL


class Cancel(msgspec.Struct, frozen=True, tag=True):
    id: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and warmed up."""

    model: ModelInfo


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be had; the engine exits after this. `message` says what to do."""

    message: str


class Started(msgspec.Struct, frozen=True, tag=True):
    """A window has been encoded and has its slot; its language is known."""

    id: int
    language: str | None


class Finished(msgspec.Struct, frozen=True, tag=True):
    id: int
    text: str
    language: str | None
    tokens: int
    timings: WindowTimings
    guard: str | None
    words: tuple[Word, ...] = ()
    details: tuple[Token, ...] = ()
    parts: tuple[Part, ...] = ()
    no_speech_prob: float | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The window ended without a text. `code` is that of an AsrError."""

    id: int
    code: str
    message: str


class Stats(msgspec.Struct, frozen=True, tag=True):
    """The engine's state since the last Stats: sent after steps, at most every 50 ms, and once when it falls idle.

    batch_sizes: sequences in each decode step. frames_real, frames_padded: encoder frames of audio, and computed.
    memory_bytes, memory_total_bytes: what the engine holds of its device's memory, and how much the device has.
    """

    waiting: int
    running: int
    batch_sizes: list[int]
    tokens: int
    frames_real: int
    frames_padded: int
    memory_bytes: int = 0
    memory_total_bytes: int = 0


ToEngine = EngineConfig | Submit | Cancel
FromEngine = Ready | LoadFailed | Started | Finished | Failed | Stats

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
