"""OpenAI's shapes of replies, as pydantic models.

Owns names and units of what is sent under /v1, after OpenAI's API reference. Must not know how a transcript comes
about.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, Field

from asr_service.domain import Segment, Token, Transcript, WindowOptions
from asr_service.text import languages
from asr_service.text.formats import separator

_FRAMES_PER_S = 100
"""Whisper's feature frames, in which `seek` counts."""
_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorDetail(BaseModel):
    message: str = Field(description="One sentence on what happened and what to do.")
    type: str = Field(
        description="`authentication_error`, `permission_error`, `rate_limit_error`, or "
        "`invalid_request_error` for all else that the caller can change; `server_error` for the rest."
    )
    param: str | None = Field(description="The field that is to blame, where it is one.")
    code: str = Field(description="Stable name to branch on.")


class ErrorReply(BaseModel):
    """An error, as OpenAI lays it out."""

    error: ErrorDetail

    @classmethod
    def build(cls, status: int, code: str, message: str, param: str | None) -> "ErrorReply":
        kind = "server_error" if status >= 500 else _ERROR_TYPES.get(status, "invalid_request_error")
        return cls(error=ErrorDetail(message=message, type=kind, param=param, code=code))


class DurationUsage(BaseModel):
    """What is counted: the length of the recording."""

    type: Literal["duration"] = "duration"
    seconds: float


class TokenLogprob(BaseModel):
    token: str = Field(description="The token's text; characters that it holds only a part of are replaced.")
    logprob: float
    bytes: list[int]

    @classmethod
    def build(cls, token: Token) -> "TokenLogprob":
        text = token.data.decode("utf-8", "replace")
        return cls(token=text, logprob=token.logprob, bytes=list(token.data))


class JsonReply(BaseModel):
    """`response_format=json`."""

    text: str
    logprobs: list[TokenLogprob] | None = Field(
        default=None, exclude_if=lambda value: value is None, description="Only with `include[]=logprobs`."
    )
    usage: DurationUsage

    @classmethod
    def build(cls, transcript: Transcript, *, logprobs: bool) -> "JsonReply":
        return cls(
            text=transcript.text,
            logprobs=_logprobs(transcript.segments) if logprobs else None,
            usage=_usage(transcript),
        )


class VerboseSegment(BaseModel):
    id: int
    seek: int = Field(description="Where the segment begins, in hundredths of a second.")
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float | None = Field(description="Mean log probability of the tokens; null if there are none.")
    compression_ratio: float = Field(description="Bytes of the text by those of its zlib compression: high in loops.")
    no_speech_prob: float | None = Field(
        description="What the model thinks of the chance that nobody speaks, though a detector of its own has found "
        "speech; null when the model does not tell."
    )


class VerboseWord(BaseModel):
    word: str
    start: float
    end: float


class VerboseReply(BaseModel):
    """`response_format=verbose_json`."""

    task: Literal["transcribe", "translate"]
    language: str | None = Field(description="In words, such as `english`; null when the model does not tell.")
    duration: float
    text: str
    segments: list[VerboseSegment] | None = Field(default=None, exclude_if=lambda value: value is None)
    words: list[VerboseWord] | None = Field(default=None, exclude_if=lambda value: value is None)
    usage: DurationUsage

    @classmethod
    def build(cls, transcript: Transcript, options: WindowOptions, *, segments: bool, words: bool) -> "VerboseReply":
        spoken = transcript.segments
        return cls(
            task=options.task,
            language=None if transcript.language is None else languages.name(transcript.language),
            duration=round(transcript.duration_s, 3),
            text=transcript.text,
            segments=[_segment(i, s, options.temperature) for i, s in enumerate(spoken)] if segments else None,
            words=[
                VerboseWord(word=word.text, start=round(word.start_s, 3), end=round(word.end_s, 3))
                for segment in spoken
                for word in segment.words
            ]
            if words
            else None,
            usage=_usage(transcript),
        )


class DeltaEvent(BaseModel):
    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str
    logprobs: list[TokenLogprob] | None = Field(default=None, exclude_if=lambda value: value is None)

    @classmethod
    def build(cls, before: str, segment: Segment, *, logprobs: bool) -> "DeltaEvent":
        """What a segment adds after the text of the one `before` it."""
        delta = separator(before, segment.text) + segment.text
        return cls(delta=delta, logprobs=_logprobs([segment]) if logprobs else None)


class SegmentEvent(BaseModel):
    type: Literal["transcript.text.segment"] = "transcript.text.segment"
    id: str
    start: float
    end: float
    text: str

    @classmethod
    def build(cls, number: int, segment: Segment) -> "SegmentEvent":
        start, end = round(segment.start_s, 3), round(segment.end_s, 3)
        return cls(id=f"seg_{number}", start=start, end=end, text=segment.text)


class DoneEvent(BaseModel):
    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str
    logprobs: list[TokenLogprob] | None = Field(default=None, exclude_if=lambda value: value is None)
    usage: DurationUsage

    @classmethod
    def build(cls, transcript: Transcript, *, logprobs: bool) -> "DoneEvent":
        return cls(
            text=transcript.text,
            logprobs=_logprobs(transcript.segments) if logprobs else None,
            usage=_usage(transcript),
        )


class ModelReply(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the service began to serve it, in seconds since 1970.")
    owned_by: str = "asr-service"


class ModelsReply(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelReply]


def _usage(transcript: Transcript) -> DurationUsage:
    return DurationUsage(seconds=round(transcript.duration_s, 3))


def _logprobs(segments: Iterable[Segment]) -> list[TokenLogprob]:
    # Times that the model has written are no text.
    return [TokenLogprob.build(token) for segment in segments for token in segment.tokens if token.data]


def _segment(number: int, segment: Segment, temperature: float) -> VerboseSegment:
    return VerboseSegment(
        id=number,
        seek=round(segment.start_s * _FRAMES_PER_S),
        start=round(segment.start_s, 3),
        end=round(segment.end_s, 3),
        text=segment.text,
        tokens=[token.id for token in segment.tokens],
        temperature=temperature,
        avg_logprob=_mean([token.logprob for token in segment.tokens]),
        compression_ratio=_compression_ratio(segment.text),
        no_speech_prob=segment.no_speech_prob,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _compression_ratio(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data))
