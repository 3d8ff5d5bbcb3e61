"""POST /transcribe: recordings in, their texts out.

Owns this route's options and the shapes of its answers. Must not know how audio is decoded or transcribed.
"""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from asr_service.api import uploads
from asr_service.api.auth import TRANSCRIBE
from asr_service.api.jobs import Job, accept, last, live, serving_model, unless_disconnected
from asr_service.api.openapi import problem_responses
from asr_service.api.parts import PartsDep
from asr_service.api.problems import problem_of
from asr_service.api.schemas import BatchReply, Problem, SegmentReply, TranscriptReply
from asr_service.domain import Transcript, WindowOptions
from asr_service.errors import AsrError, InvalidOption
from asr_service.options import OPTIONS, parse_options
from asr_service.text import subtitles

MAX_FILES = 64
_EVENTS, _LINES = "text/event-stream", "application/x-ndjson"
_FORMATS = {"json": "application/json", "text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
_FORMAT = "response_format"
_FORMAT_OPTION = {
    "description": "`json`; `text` for nothing but the text; `srt` or `vtt` for subtitles. Other than `json` for one "
    "file only.",
    "schema": {"type": "string", "enum": list(_FORMATS), "default": "json"},
}
_ALL_OPTIONS = {**OPTIONS, _FORMAT: _FORMAT_OPTION}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "type": "object",
    "required": [uploads.FILE_FIELD],
    "additionalProperties": False,
    "properties": {
        uploads.FILE_FIELD: {
            "description": f"The recording; up to {MAX_FILES} parts of this name.",
            "oneOf": [
                {"type": "string", "format": "binary"},
                {
                    "type": "array",
                    "items": {"type": "string", "format": "binary"},
                    "minItems": 1,
                    "maxItems": MAX_FILES,
                },
            ],
        },
        **{name: {**option["schema"], "description": option["description"]} for name, option in _ALL_OPTIONS.items()},
    },
}
_STREAM_EXAMPLE = '{"type": "segment", "file": 0, "start": 0.42, "end": 4.96, "text": "Good morning."}\n'

router = APIRouter(tags=["transcription"])


@router.post(
    "/transcribe",
    summary="Transcribe recordings",
    dependencies=TRANSCRIBE,
    response_model=TranscriptReply | BatchReply,
    responses={
        200: {
            "description": "What was said. For several files: their answers in order. With `Accept: text/event-stream` "
            "or `application/x-ndjson`: an object for each segment as soon as it is known (`type: segment`), and for "
            "each file its answer (`type: transcript`) or problem (`type: error`).",
            "content": {
                _EVENTS: {"schema": {"type": "string"}, "example": f"event: segment\ndata: {_STREAM_EXAMPLE}\n"},
                _LINES: {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE},
                **{kind: {"schema": {"type": "string"}} for name, kind in _FORMATS.items() if name != "json"},
            },
        },
        **problem_responses(400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "parameters": [
            {"name": name, "in": "query", "required": False, **option} for name, option in _ALL_OPTIONS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _FORM},
                "audio/*": _BINARY,
                "video/*": _BINARY,
                "application/octet-stream": _BINARY,
            },
        },
    },
)
async def transcribe(request: Request, parts: PartsDep) -> Response:
    """Send a recording as the part `file` of a multipart form, or as the raw body. WAV, MP3, FLAC, OGG, Opus, M4A,
    MP4, WebM, AMR and more; the sound of a video is transcribed too. Options go into the form or the query string,
    and an unknown one is refused.

    Several parts `file` are transcribed together and answered in order; one that fails does not harm the others.

    A recording without speech gives an empty text. A recording that breaks off is transcribed as far as it goes, and
    `warnings` says so.
    """
    model = serving_model(parts.engine)
    # Already now, so that a bad value does not cost the upload.
    parse_options(request.query_params, model)
    _format(request.query_params.get(_FORMAT, ""))
    streamed = _streamed(request)
    async with contextlib.AsyncExitStack() as stack:
        job = await stack.enter_async_context(accept(request, parts, fields=_ALL_OPTIONS.keys(), max_files=MAX_FILES))
        options, warnings = parse_options(job.upload.fields, model)
        style = _format(job.upload.fields.get(_FORMAT, ""))
        if style != "json" and (streamed or len(job.upload.recordings) > 1):
            raise InvalidOption(f"The format {style} is for one file, and not for a stream.", option=_FORMAT)
        if streamed:
            pieces = _pieces(job, options, warnings, streamed)

            def failed(error: AsrError) -> str:
                return _event(streamed, "error", 0, _problem(job, error))

            return await live(request, pieces, failed, streamed, stack)
        if len(job.upload.recordings) > 1:
            reply = await unless_disconnected(request.receive, _batch(job, options, warnings))
            return JSONResponse(reply.model_dump(mode="json"))
        if style in ("srt", "vtt") and model.word_times:
            options = dataclasses.replace(options, words=True)
        items = job.items(job.upload.recordings[0], options)
        transcript = await unless_disconnected(request.receive, last(items))
        if style == "json":
            return JSONResponse(_reply(job, transcript, options, warnings).model_dump(mode="json"))
        return PlainTextResponse(await written(transcript, style), media_type=_FORMATS[style])


async def written(transcript: Transcript, style: str) -> str:
    """A transcript as `text`, `srt` or `vtt`."""
    if style == "text":
        return transcript.text + "\n"
    # Subtitles of hours of speech take a second to cut.
    return await asyncio.to_thread(_subtitles, transcript, style)


def _subtitles(transcript: Transcript, style: str) -> str:
    cues = subtitles.cues(transcript.segments)
    return subtitles.srt(cues) if style == "srt" else subtitles.vtt(cues)


async def _batch(job: Job, options: WindowOptions, warnings: tuple[str, ...]) -> BatchReply:
    results: list[TranscriptReply | Problem] = []
    async with contextlib.aclosing(job.all_items(options)) as entries:
        async for _, item in entries:
            if isinstance(item, Transcript):
                results.append(_reply(job, item, options, warnings))
            elif isinstance(item, AsrError):
                results.append(_problem(job, item))
    return BatchReply(results=results)


async def _pieces(job: Job, options: WindowOptions, warnings: tuple[str, ...], kind: str) -> AsyncGenerator[str, None]:
    async with contextlib.aclosing(job.all_items(options, live=True)) as entries:
        async for file, item in entries:
            if isinstance(item, Transcript):
                yield _event(kind, "transcript", file, _reply(job, item, options, warnings))
            elif isinstance(item, AsrError):
                yield _event(kind, "error", file, _problem(job, item))
            else:
                yield _event(kind, "segment", file, SegmentReply.build(item, words=options.words))


def _event(kind: str, name: str, file: int, body: TranscriptReply | SegmentReply | Problem) -> str:
    # A problem has a `type` of its own, a URN; what kind of object this is comes first in all of them.
    content: dict[str, Any] = body.model_dump(mode="json") | {"type": name, "file": file}
    line = json.dumps({"type": name, "file": file} | content, ensure_ascii=False)
    return f"event: {name}\ndata: {line}\n\n" if kind == _EVENTS else f"{line}\n"


def _reply(job: Job, transcript: Transcript, options: WindowOptions, warnings: tuple[str, ...]) -> TranscriptReply:
    return TranscriptReply.build(transcript, job.record.request_id, warnings, words=options.words)


def _problem(job: Job, error: AsrError) -> Problem:
    return problem_of(error.status, error.code, error.message, job.record.request_id)


def _streamed(request: Request) -> str:
    """The media type of a stream, if one is asked for, else nothing."""
    accepted = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return next((kind for kind in accepted if kind in (_EVENTS, _LINES)), "")


def _format(text: str) -> str:
    style = text.strip() or "json"
    if style not in _FORMATS:
        raise InvalidOption(f"There is no format {style[:40]!r}; it is one of {', '.join(_FORMATS)}.", option=_FORMAT)
    return style
