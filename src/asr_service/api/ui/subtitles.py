"""POST /ui/subtitles: a transcript that the page holds, as a file of subtitles.

Owns what the page sends and its bounds. How subtitles are cut is the business of `asr_service.text.subtitles`, for the
page as for everybody else.
"""

import asyncio
from typing import Annotated, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import PlainTextResponse, Response

from asr_service.domain import Segment, Word
from asr_service.errors import InvalidOption, UnsupportedUpload, UploadTimeout, UploadTooLarge
from asr_service.text import subtitles

MAX_BODY_BYTES = 16 * 2**20
"""A day of speech with the times of its words."""
_BODY_TIMEOUT_S = 60.0
_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}
_MOST_SENTENCES = 3

_Seconds = Annotated[float, Field(ge=0, le=604_800, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SentWord(_Strict):
    """A word as the service's replies have it."""

    word: str = Field(max_length=1000)
    start: _Seconds
    end: _Seconds


class SentSegment(_Strict):
    """A segment as the service's replies have it."""

    start: _Seconds
    end: _Seconds
    text: str = Field(max_length=100_000)
    words: list[SentWord] | None = Field(default=None, max_length=20_000)

    def segment(self) -> Segment:
        """The same inside the service."""
        words = tuple(Word(word.start, word.end, word.word) for word in self.words or ())
        return Segment(self.start, self.end, self.text, words)


class SentTranscript(_Strict):
    """What to cut, and how to write it."""

    format: Literal["srt", "vtt"]
    segments: list[SentSegment] = Field(max_length=50_000)


class Cutter:
    """Cuts one transcript at a time: that of hours of speech takes a second of a processor."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def cut(self, request: Request) -> Response:
        """The answer. Raises InvalidOption, UnsupportedUpload, UploadTooLarge, UploadTimeout."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise UnsupportedUpload("The body should be application/json.")
        body = await _body(request)
        async with self._turn:
            style, text = await asyncio.to_thread(_written, body)
        return PlainTextResponse(text, media_type=_TYPES[style])


def _written(body: bytes) -> tuple[str, str]:
    try:
        sent = SentTranscript.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        sentences = [f"{'.'.join(str(part) for part in e['loc']) or 'body'}: {e['msg']}" for e in details]
        raise InvalidOption("; ".join(sentences[:_MOST_SENTENCES])) from None
    return sent.format, subtitles.WRITERS[sent.format](subtitles.cues([each.segment() for each in sent.segments]))


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise UploadTooLarge(f"The transcript has more than {MAX_BODY_BYTES // 2**20} MiB.")
    except TimeoutError:
        raise UploadTimeout("The transcript arrives too slowly.") from None
    return bytes(body)
