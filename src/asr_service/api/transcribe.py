"""POST /transcribe: a file in, its text out.

Owns the order of checks, upload and work, and that work ends when the client leaves. Must not know how audio is
decoded or transcribed.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from asr_service.api import uploads
from asr_service.api.context import RequestRecord, record_of
from asr_service.api.openapi import problem_responses
from asr_service.api.parts import PartsDep
from asr_service.api.schemas import TranscriptReply
from asr_service.domain import ModelInfo, Transcript
from asr_service.errors import EngineNotReady
from asr_service.options import OPTIONS, parse_options
from asr_service.service import NOT_READY_RETRY_S, Engine

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "type": "object",
    "required": [uploads.FILE_FIELD],
    "additionalProperties": False,
    "properties": {
        uploads.FILE_FIELD: {"type": "string", "format": "binary", "description": "The recording."},
        **{name: {**option["schema"], "description": option["description"]} for name, option in OPTIONS.items()},
    },
}

router = APIRouter(tags=["transcription"])


@router.post(
    "/transcribe",
    summary="Transcribe a recording",
    responses=problem_responses(400, 413, 415, 422, 500, 503),
    openapi_extra={
        "parameters": [{"name": name, "in": "query", "required": False, **option} for name, option in OPTIONS.items()],
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
async def transcribe(request: Request, parts: PartsDep) -> TranscriptReply:
    """Send a recording as the part `file` of a multipart form, or as the raw body. WAV, MP3, FLAC, OGG, Opus, M4A,
    MP4, WebM, AMR and more; the sound of a video is transcribed too. Options go into the form or the query string,
    and an unknown one is refused.

    A recording without speech gives an empty text. A recording that breaks off is transcribed as far as it goes, and
    `warnings` says so.
    """
    record = record_of(request.scope)
    model = serving_model(parts.engine)
    parse_options(request.query_params, model)  # Already now, so that a bad value does not cost the upload.
    with parts.metrics.transcribing():
        started = time.perf_counter()
        async with uploads.receive(request, max_bytes=parts.max_upload_bytes, fields=OPTIONS.keys()) as upload:
            upload_s = time.perf_counter() - started
            parts.metrics.upload_ended(upload_s)
            record.facts |= {"bytes": upload.size_bytes, "upload_ms": round(upload_s * 1000, 1)}
            options, warnings = parse_options(upload.fields, model)
            work = parts.transcriber.transcribe(upload.file, options, record.request_id)
            transcript = await unless_disconnected(request.receive, work)
        parts.metrics.transcribed(transcript)
    _note(record, transcript)
    return TranscriptReply.build(transcript, record.request_id, warnings)


def serving_model(engine: Engine) -> ModelInfo:
    """The loaded model. Raises EngineNotReady until there is one; a restarting engine keeps it, and requests wait."""
    if engine.model is None:
        reason = engine.not_ready_reason or "the model is loading"
        raise EngineNotReady(f"Not ready yet: {reason}.", retry_after_s=NOT_READY_RETRY_S)
    return engine.model


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, Transcript]) -> Transcript:
    """The result of `work`, which is cancelled when the client leaves; ClientDisconnect is raised then.

    `receive` must have delivered the whole body. Needed since a handler that streams nothing is not told otherwise.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _note(record: RequestRecord, transcript: Transcript) -> None:
    timings = transcript.timings
    record.facts |= {
        "audio_s": round(transcript.duration_s, 3),
        "segments": len(transcript.segments),
        "decode_ms": round(timings.decode_ms, 1),
        "vad_ms": round(timings.vad_ms, 1),
        "queue_ms": round(timings.queue_ms, 1),
        "encode_ms": round(timings.encode_ms, 1),
        "decode_steps_ms": round(timings.decode_steps_ms, 1),
        "total_ms": round(timings.total_ms, 1),
        "model": transcript.model,
    }
