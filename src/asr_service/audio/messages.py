"""What the API process and a decode worker say to each other, as msgpack.

Owns the wire format, nothing else. A worker hears one `Configure`, answers `Ready`, then takes one `Job` at a time
and answers it with any number of `WindowCut` and `Progress` and exactly one `Done` or `Failed`.
"""

import msgspec

from asr_service.domain import AudioSummary, Window


class Configure(msgspec.Struct, frozen=True, tag=True):
    """The limits of a worker's process for its whole life. `max_memory_bytes` comes on top of what it has loaded."""

    max_memory_bytes: int
    max_output_bytes: int


class Job(msgspec.Struct, frozen=True, tag=True):
    """Decode one recording. Two open files come with it: the upload (seekable), and the file that takes the PCM.

    `cpu_s_base` + `cpu_s_per_audio_s` x the seconds decoded so far is the CPU time that it may take.
    """

    max_audio_s: float
    cpu_s_base: float
    cpu_s_per_audio_s: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Libraries and the VAD are loaded, the limits are in force. `unfiltered`: why system calls are not, if so."""

    unfiltered: str | None = None


class Progress(msgspec.Struct, frozen=True, tag=True):
    """A sign of life: this much has been decoded, in seconds."""

    decoded_s: float


class WindowCut(msgspec.Struct, frozen=True, tag=True):
    """A window is certain, and its PCM is in the file."""

    window: Window


class Done(msgspec.Struct, frozen=True, tag=True):
    summary: AudioSummary


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The recording cannot be used. `code` is that of a child of AsrError, `message` one sentence for a human."""

    code: str
    message: str


ToWorker = Configure | Job
FromWorker = Ready | Progress | WindowCut | Done | Failed

encode = msgspec.msgpack.Encoder().encode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
