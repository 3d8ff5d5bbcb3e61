"""The JSON that callers get, as pydantic models.

Owns names, units and examples of reply fields. Must not know how a transcript comes about.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from asr_service.domain import Segment, Transcript, Word


class WordReply(BaseModel):
    """A word, or a character in Chinese and Japanese, with its punctuation."""

    word: str
    start: float = Field(description="In seconds from the start of the recording.")
    end: float

    @classmethod
    def build(cls, word: Word) -> "WordReply":
        return cls(word=word.text, start=round(word.start_s, 3), end=round(word.end_s, 3))


class SegmentReply(BaseModel):
    """A stretch of speech and its text."""

    start: float = Field(description="Where it begins, in seconds from the start of the recording.")
    end: float = Field(description="Where it ends.")
    text: str
    words: list[WordReply] | None = Field(
        default=None, exclude_if=lambda words: words is None, description="Only with the option `words`."
    )

    @classmethod
    def build(cls, segment: Segment, *, words: bool = False) -> "SegmentReply":
        """The reply for a segment, with seconds rounded to milliseconds, and its words if they were asked for."""
        return cls(
            start=round(segment.start_s, 3),
            end=round(segment.end_s, 3),
            text=segment.text,
            words=[WordReply.build(word) for word in segment.words] if words else None,
        )


class TimingsReply(BaseModel):
    """Where the time went, in milliseconds.

    Windows are transcribed side by side, so `queue`, `encode`, `decode_steps` and `align` are those of the slowest
    window, and the stages do not add up to `total`.
    """

    decode: float = Field(description="Reading and resampling the file.")
    vad: float = Field(description="Finding the speech in it.")
    queue: float = Field(description="Waiting for a free slot in the engine.")
    encode: float = Field(description="The model's encoder.")
    decode_steps: float = Field(description="The model's decoder: from the first step to the last.")
    align: float = Field(description="Finding the times of words; 0 without the option `words`.")
    total: float = Field(description="From the end of the upload to the finished text.")


class TranscriptReply(BaseModel):
    """What was said."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "text": "Good morning. Is anybody there?",
                "language": "en",
                "duration_s": 5.2,
                "model": "whisper-base",
                "request_id": "3f0c4e0f5d9b4c2e9a55b6c8e7d10a2f",
                "segments": [{"start": 0.42, "end": 4.96, "text": "Good morning. Is anybody there?"}],
                "timings_ms": {
                    "decode": 6.1,
                    "vad": 9.4,
                    "queue": 0.8,
                    "encode": 61.0,
                    "decode_steps": 98.7,
                    "align": 0.0,
                    "total": 181.3,
                },
                "warnings": [],
            }
        }
    )

    text: str = Field(description="The whole text; empty when nobody speaks.")
    language: str | None = Field(
        description="Code of the language that was given or detected; null when the model does not tell, or when "
        "there was no speech to detect it from."
    )
    duration_s: float = Field(description="Length of the recording in seconds.")
    model: str = Field(description="The model that transcribed it.")
    request_id: str = Field(description="Also in the header X-Request-ID; quote it when you report a problem.")
    segments: list[SegmentReply] = Field(description="The text in pieces of at most 30 s of speech, in order.")
    timings_ms: TimingsReply
    warnings: list[str] = Field(description="Sentences on what is not as asked or expected, such as a cut-off file.")

    @classmethod
    def build(
        cls, transcript: Transcript, request_id: str, warnings: tuple[str, ...] = (), *, words: bool = False
    ) -> "TranscriptReply":
        """The reply for a transcript, with seconds rounded to milliseconds. `warnings` come before its own."""
        timings = transcript.timings
        return cls(
            text=transcript.text,
            language=transcript.language,
            duration_s=round(transcript.duration_s, 3),
            model=transcript.model,
            request_id=request_id,
            segments=[SegmentReply.build(segment, words=words) for segment in transcript.segments],
            timings_ms=TimingsReply(
                decode=round(timings.decode_ms, 1),
                vad=round(timings.vad_ms, 1),
                queue=round(timings.queue_ms, 1),
                encode=round(timings.encode_ms, 1),
                decode_steps=round(timings.decode_steps_ms, 1),
                align=round(timings.align_ms, 1),
                total=round(timings.total_ms, 1),
            ),
            warnings=[*warnings, *transcript.warnings],
        )


class BatchReply(BaseModel):
    """The answers for several recordings, in the order in which they were sent."""

    results: list["TranscriptReply | Problem"]


class LiveReply(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class ReadyReply(BaseModel):
    """The service transcribes."""

    status: Literal["ready"] = "ready"
    model: str


class NotReadyReply(BaseModel):
    """The service cannot transcribe now."""

    status: Literal["not ready"] = "not ready"
    reason: str = Field(examples=["the model is loading"])


class Problem(BaseModel):
    """An error, as RFC 9457 lays it out."""

    type: str = Field(description="`urn:asr-service:problem:` and the code.")
    title: str = Field(description="The kind of problem, the same for each `code`.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="One sentence on what happened and what to do.")
    code: str = Field(description="Stable name to branch on.")
    request_id: str


BatchReply.model_rebuild()
