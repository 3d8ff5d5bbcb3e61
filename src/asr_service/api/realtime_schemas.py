"""The events of OpenAI's realtime API as far as sessions that transcribe have them.

Owns names, units and checks of what is sent over /v1/realtime, after OpenAI's API reference; docs/realtime.md has the
rest. Must not know how a session works.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asr_service.audio.listener_messages import StreamSettings
from asr_service.domain import SAMPLE_RATE_HZ, ModelInfo, WindowOptions
from asr_service.errors import InvalidOption
from asr_service.options import parse_options
from asr_service.realtime.events import (
    Committed,
    Completed,
    Event,
    Failed,
    Partial,
    SegmentDone,
    Settled,
    SpeechStarted,
    SpeechStopped,
)

PARTIAL, WORDS = "item.input_audio_transcription.partial", "item.input_audio_transcription.words"
_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_G711_RATE_HZ = 8000


class InvalidEvent(Exception):
    """A client's event that cannot be understood; the message says why."""


# What the client sends.


class Update(msgspec.Struct, tag_field="type", tag="session.update"):
    session: dict[str, Any]
    event_id: str | None = None


class Append(msgspec.Struct, tag_field="type", tag="input_audio_buffer.append"):
    audio: str
    event_id: str | None = None


class Commit(msgspec.Struct, tag_field="type", tag="input_audio_buffer.commit"):
    event_id: str | None = None


class Clear(msgspec.Struct, tag_field="type", tag="input_audio_buffer.clear"):
    event_id: str | None = None


ClientEvent = Update | Append | Commit | Clear
_decode = msgspec.json.Decoder(ClientEvent).decode


class _Envelope(msgspec.Struct):
    event_id: str | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def parse(text: str) -> ClientEvent:
    """A client's event. Raises InvalidEvent."""
    try:
        event: ClientEvent = _decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidEvent(f"This is not an event of a session that transcribes: {error}") from None
    return event


def event_id_of(text: str) -> str | None:
    """The id of an event that may not be one."""
    try:
        return _decode_envelope(text).event_id
    except (msgspec.DecodeError, RecursionError):
        return None


# The settings of a session.


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PcmFormat(_Strict):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[16000, 24000] = 24000


class MuLawFormat(_Strict):
    type: Literal["audio/pcmu"]


class ALawFormat(_Strict):
    type: Literal["audio/pcma"]


class Transcription(_Strict):
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    keywords: list[str] = []


class ServerVad(_Strict):
    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0.1, le=0.95)
    prefix_padding_ms: int = Field(default=300, ge=0, le=2000)
    silence_duration_ms: int = Field(default=500, ge=100, le=10_000)
    # Of sessions in which the model answers; they mean nothing here.
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: None = None


class AudioInput(_Strict):
    format: Annotated[PcmFormat | MuLawFormat | ALawFormat, Field(discriminator="type")] = PcmFormat()
    noise_reduction: None = None
    transcription: Transcription = Transcription()
    turn_detection: ServerVad | None = ServerVad()


class Audio(_Strict):
    input: AudioInput = AudioInput()


class SessionConfig(_Strict):
    """All settings of a session."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()
    include: list[Literal["item.input_audio_transcription.partial", "item.input_audio_transcription.words"]] = []

    def updated(self, changes: Mapping[str, Any]) -> "SessionConfig":
        """These settings with those that `changes` names. Raises InvalidOption; its `option` is the setting's path."""
        try:
            return SessionConfig.model_validate(_merged(self.model_dump(), changes))
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            # Which of several kinds of format was tried is no part of the path.
            path = ".".join(str(part) for part in detail["loc"] if "/" not in str(part))
            raise InvalidOption(
                f"The setting session.{path} cannot be used: {detail['msg']}.", option=f"session.{path}"
            ) from None

    @property
    def stream(self) -> StreamSettings:
        """What the listener has to know."""
        audio, vad = self.audio.input.format, self.audio.input.turn_detection
        wished = vad or ServerVad()
        return StreamSettings(
            encoding="pcmu" if audio.type == "audio/pcmu" else "pcma" if audio.type == "audio/pcma" else "pcm16",
            rate_hz=audio.rate if isinstance(audio, PcmFormat) else _G711_RATE_HZ,
            threshold=wished.threshold,
            prefix_s=wished.prefix_padding_ms / 1000,
            silence_s=None if vad is None else vad.silence_duration_ms / 1000,
        )

    def options(self, model: ModelInfo) -> WindowOptions:
        """How windows are transcribed. Raises InvalidOption."""
        wished = self.audio.input.transcription
        fields = {
            "language": wished.language or "",
            "prompt": wished.prompt or "",
            "hotwords": "\n".join(wished.keywords),
            "words": "true" if WORDS in self.include else "",
        }
        try:
            options, _ = parse_options(fields, model)
        except InvalidOption as error:
            names = {"hotwords": "keywords"}
            error.option = f"session.audio.input.transcription.{names.get(str(error.option), error.option)}"
            if error.option.endswith(".words"):
                error.option = "session.include"
            raise
        return options


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of settings are merged; whatever is no group, or is of another type, is replaced."""
    merged = copy.deepcopy(dict(old))
    for name, value in new.items():
        before = merged.get(name)
        if (
            isinstance(before, dict)
            and isinstance(value, Mapping)
            and value.get("type", before.get("type")) == (before.get("type"))
        ):
            merged[name] = _merged(before, value)
        elif name == "transcription" and value is None:
            # OpenAI turns transcription off by this. It is all that is done here.
            merged[name] = {}
        else:
            merged[name] = copy.deepcopy(value)
    return merged


# What the service sends.


def session_event(kind: str, session_id: str, expires_at: int, config: SessionConfig) -> dict[str, Any]:
    """`session.created` or `session.updated`."""
    about = {"id": session_id, "object": "realtime.transcription_session", "expires_at": expires_at}
    shown = config.model_dump(exclude={"audio": {"input": {"turn_detection": _MEANINGLESS}}})
    return {"type": kind, "session": about | shown}


_MEANINGLESS = {"create_response", "interrupt_response", "idle_timeout_ms"}


def error_event(
    kind: str, code: str, message: str, *, param: str | None = None, event_id: str | None = None
) -> dict[str, Any]:
    """`error`. `kind` is OpenAI's type of errors, `event_id` the event that caused it."""
    return {
        "type": "error",
        "error": {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id},
    }


def events_of(event: Event, include: Sequence[str], kind_of: Callable[[int], str]) -> list[dict[str, Any]]:
    """What a client is told of something that happened in its session. `kind_of` gives OpenAI's type of an error."""
    match event:
        case SpeechStarted(item, sample):
            return [{"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": _ms(sample)}]
        case SpeechStopped(item, sample):
            return [{"type": "input_audio_buffer.speech_stopped", "item_id": item, "audio_end_ms": _ms(sample)}]
        case Committed(item, previous):
            about = {
                "id": item,
                "object": "realtime.item",
                "type": "message",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_audio", "transcript": None}],
            }
            return [
                {"type": "input_audio_buffer.committed", "item_id": item, "previous_item_id": previous},
                {"type": "conversation.item.added", "previous_item_id": previous, "item": about},
                {"type": "conversation.item.done", "previous_item_id": previous, "item": about},
            ]
        case Settled(item, delta):
            return [_of_item("delta", item, delta=delta)]
        case Partial(item, settled, unsettled, end_sample):
            if PARTIAL not in include:
                return []
            return [_of_item("partial", item, settled=settled, unsettled=unsettled, audio_end_ms=_ms(end_sample))]
        case SegmentDone(item, number, segment):
            times: dict[str, Any] = {"start": round(segment.start_s, 3), "end": round(segment.end_s, 3)}
            return [_of_item("segment", item, id=f"{item}_{number}", text=segment.text, speaker="", **times)]
        case Completed():
            return [_completed(event, words=WORDS in include)]
        case Failed(item, error):
            kind = kind_of(error.status)
            why = {"type": kind, "code": error.code, "message": error.message, "param": error.option}
            return [_of_item("failed", item, error=why)]


def _completed(event: Completed, *, words: bool) -> dict[str, Any]:
    more: dict[str, Any] = {"language": event.language}
    if event.segments:
        more |= {"start": round(event.segments[0].start_s, 3), "end": round(event.segments[-1].end_s, 3)}
    if words:
        more["words"] = [
            {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for segment in event.segments
            for word in segment.words
        ]
    usage = {"type": "duration", "seconds": round(event.audio_s, 3)}
    return _of_item("completed", event.item, transcript=event.text, usage=usage, **more)


def _of_item(kind: str, item: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"{_TRANSCRIPTION}.{kind}", "item_id": item, "content_index": 0, **fields}


def _ms(sample: int) -> int:
    return round(sample * 1000 / SAMPLE_RATE_HZ)


def rendered(event: Mapping[str, Any], event_id: str) -> str:
    """An event as it is sent."""
    return json.dumps({"event_id": event_id, **event}, ensure_ascii=False)
