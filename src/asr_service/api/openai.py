"""OpenAI's transcription API: existing clients work when their base URL points here.

Owns the options of that API and what of it is not done here, which is refused by name. Must not know how audio is
decoded or transcribed.
"""

import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from asr_service.api import uploads
from asr_service.api.auth import TRANSCRIBE
from asr_service.api.jobs import accept, last, live, serving_model, unless_disconnected
from asr_service.api.openai_schemas import (
    DeltaEvent,
    DoneEvent,
    ErrorReply,
    JsonReply,
    ModelReply,
    ModelsReply,
    SegmentEvent,
    VerboseReply,
)
from asr_service.api.openapi import openai_error_responses
from asr_service.api.parts import Parts, PartsDep
from asr_service.api.transcribe import written
from asr_service.domain import ModelInfo, Transcript, WindowOptions
from asr_service.errors import AsrError, InvalidOption, UnknownModel
from asr_service.options import OPTIONS, boolean, parse_options

_EVENTS = "text/event-stream"
_FORMATS = {
    "json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "verbose_json": "application/json",
    "vtt": "text/vtt",
}
_GRANULARITIES, _INCLUDE, _KEYWORDS, _LANGUAGES = "timestamp_granularities[]", "include[]", "keywords[]", "languages[]"
_CHUNKING, _CHUNKING_TYPE = "chunking_strategy", "chunking_strategy[type]"

# Options of the API that are not done here. They are refused by name, so that nobody believes that they were followed.
_NOT_DONE = {
    "known_speaker_names[]": "Speakers are not told apart here.",
    "known_speaker_references[]": "Speakers are not told apart here.",
    **{
        f"{_CHUNKING}[{name}]": "The recording is cut at pauses by the service itself; that cannot be tuned by request."
        for name in ("threshold", "prefix_padding_ms", "silence_duration_ms")
    },
}
_TRANSLATION: dict[str, Mapping[str, Any]] = {
    "model": {
        "description": "The model that is served, or one of its other names; see `/v1/models`.",
        "schema": {"type": "string"},
    },
    "prompt": OPTIONS["prompt"],
    "response_format": {
        "description": "How the text comes back.",
        "schema": {"type": "string", "enum": list(_FORMATS), "default": "json"},
    },
    "temperature": OPTIONS["temperature"],
}
_TRANSCRIPTION: dict[str, Mapping[str, Any]] = {
    **_TRANSLATION,
    "language": OPTIONS["language"],
    "hotwords": OPTIONS["hotwords"],
    "timestamps": OPTIONS["timestamps"],
    "stream": {
        "description": "`true` sends the text as server-sent events while the recording is transcribed. With the "
        "format `json` only.",
        "schema": {"type": "boolean", "default": False},
    },
    _GRANULARITIES: {
        "description": "With `verbose_json`: `segment`, `word` or both. `segment` if absent.",
        "schema": {"type": "array", "items": {"type": "string", "enum": ["segment", "word"]}},
    },
    _INCLUDE: {
        "description": "With `json`: `logprobs` adds the log probability of each token.",
        "schema": {"type": "array", "items": {"type": "string", "enum": ["logprobs"]}},
    },
    _KEYWORDS: {
        "description": "The same as `hotwords`, one at a time.",
        "schema": {"type": "array", "items": {"type": "string"}},
    },
    _LANGUAGES: {
        "description": "At most one language, as in `language`.",
        "schema": {"type": "array", "items": {"type": "string"}, "maxItems": 1},
    },
    _CHUNKING: {
        "description": "`auto`, or an object of type `server_vad` without further settings. Both mean what is always "
        "done: the recording is cut at pauses.",
        "schema": {"type": "string"},
    },
}


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request asks for, once it has been checked."""

    options: WindowOptions
    style: str
    stream: bool
    segments: bool
    words: bool


def _body(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    properties = {name: {**option["schema"], "description": option["description"]} for name, option in options.items()}
    file = {"type": "string", "format": "binary", "description": "The recording."}
    schema = {
        "type": "object",
        "required": [uploads.FILE_FIELD, "model"],
        "additionalProperties": False,
        "properties": {uploads.FILE_FIELD: file, **properties},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text, in the format that was asked for.",
        "content": {
            kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/x-subrip", "text/vtt")
        },
    },
    **openai_error_responses(400, 401, 403, 404, 408, 413, 429, 500, 503, 504),
}

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=TRANSCRIBE)


@router.post(
    "/audio/transcriptions",
    summary="Transcribe, as OpenAI's API does",
    response_model=JsonReply | VerboseReply,
    responses=_ANSWERS
    | {200: _ANSWERS[200] | {"content": _ANSWERS[200]["content"] | {_EVENTS: {"schema": {"type": "string"}}}}},
    openapi_extra=_body(_TRANSCRIPTION),
)
async def create_transcription(request: Request, parts: PartsDep) -> Response:
    """As in OpenAI's API reference. `stream=true` sends `transcript.text.delta` and `transcript.text.segment` for each
    stretch of speech and `transcript.text.done` with the whole text at the end.
    """
    return await _answer(request, parts, _TRANSCRIPTION, "transcribe")


@router.post(
    "/audio/translations",
    summary="Translate into English, as OpenAI's API does",
    response_model=JsonReply | VerboseReply,
    responses=_ANSWERS,
    openapi_extra=_body(_TRANSLATION),
)
async def create_translation(request: Request, parts: PartsDep) -> Response:
    """As in OpenAI's API reference. For models that can translate: multilingual Whisper."""
    return await _answer(request, parts, _TRANSLATION, "translate")


@router.get("/models", summary="The models that can be named", responses=openai_error_responses(401, 403, 429, 503))
async def list_models(parts: PartsDep) -> ModelsReply:
    """The served model, and its other names."""
    return ModelsReply(data=[ModelReply(id=name, created=parts.created) for name in _names(parts)])


@router.get("/models/{model:path}", summary="One model", responses=openai_error_responses(401, 403, 404, 429, 503))
async def retrieve_model(model: str, parts: PartsDep) -> ModelReply:
    """Whether a model can be named here."""
    _check_model(model, parts)
    return ModelReply(id=model, created=parts.created)


async def _answer(request: Request, parts: Parts, known: Mapping[str, Any], task: str) -> Response:
    model = serving_model(parts.engine)
    async with contextlib.AsyncExitStack() as stack:
        fields = {*known, *_NOT_DONE, _CHUNKING_TYPE}
        job = await stack.enter_async_context(accept(request, parts, fields=fields))
        wish = _wish(job.upload, model, parts, task)
        items = job.items(job.upload.recordings[0], wish.options, live=wish.stream)
        if wish.stream:
            return await live(request, _pieces(items, logprobs=wish.options.logprobs), _failed, _EVENTS, stack)
        transcript = await unless_disconnected(request.receive, last(items))
        if wish.style == "json":
            return _json(JsonReply.build(transcript, logprobs=wish.options.logprobs))
        if wish.style == "verbose_json":
            return _json(VerboseReply.build(transcript, wish.options, segments=wish.segments, words=wish.words))
        return PlainTextResponse(await written(transcript, wish.style), media_type=_FORMATS[wish.style])


def _wish(upload: uploads.Upload, model: ModelInfo, parts: Parts, task: str) -> _Wish:
    fields, lists = dict(upload.fields), upload.lists
    for name, reason in _NOT_DONE.items():
        if name in fields or name in lists:
            raise InvalidOption(f"The option {name!r} is not supported: {reason}", option=name)
    if not fields.get("model", "").strip():
        raise InvalidOption("The field 'model' is missing; /v1/models lists what it can be.", option="model")
    _check_model(fields["model"].strip(), parts)
    _check_chunking(fields)
    style = fields.get("response_format", "").strip() or "json"
    if style not in _FORMATS:
        reason = "speakers are not told apart here" if style == "diarized_json" else "there is no such format"
        raise InvalidOption(
            f"The format {style[:40]!r} is not supported: {reason}; it is one of {', '.join(_FORMATS)}.",
            option="response_format",
        )
    granularities = _choices(lists, _GRANULARITIES, ("segment", "word"))
    if granularities and style != "verbose_json":
        raise InvalidOption("Granularities of time stamps are for the format verbose_json.", option=_GRANULARITIES)
    logprobs = bool(_choices(lists, _INCLUDE, ("logprobs",)))
    stream = boolean(fields, "stream")
    if (logprobs or stream) and style != "json":
        raise InvalidOption(
            f"{'Log probabilities are' if logprobs else 'A stream is'} for the format json.",
            option=_INCLUDE if logprobs else "stream",
        )
    words = "word" in granularities
    if words and not model.word_times:
        raise InvalidOption(f"{model.name} has no aligner here, so words have no times.", option=_GRANULARITIES)
    fields["task"] = task
    fields["hotwords"] = "\n".join([fields.get("hotwords", ""), *lists.get(_KEYWORDS, ())])
    if spoken := lists.get(_LANGUAGES, ()):
        if len(spoken) > 1 or fields.get("language"):
            raise InvalidOption("Only one language can be named.", option=_LANGUAGES)
        fields["language"] = spoken[0]
    options, _ = parse_options(fields, model)
    options = dataclasses.replace(
        options,
        # Subtitles are cut between words, and so are better with their times.
        words=words or (style in ("srt", "vtt") and model.word_times),
        logprobs=logprobs or style == "verbose_json",
        no_speech=style == "verbose_json",
    )
    return _Wish(options, style, stream, "segment" in granularities or not granularities, words)


def _choices(lists: Mapping[str, Sequence[str]], name: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    chosen = tuple(lists.get(name, ()))
    for value in chosen:
        if value not in allowed:
            raise InvalidOption(f"{name!r} takes {' or '.join(allowed)}, not {value[:40]!r}.", option=name)
    return chosen


def _check_chunking(fields: Mapping[str, str]) -> None:
    kind = fields.get(_CHUNKING_TYPE, "server_vad")
    text = fields.get(_CHUNKING, "").strip()
    if text.startswith("{"):
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = {}
        kind = str(given.pop("type", None))
        if given:
            name = f"{_CHUNKING}[{next(iter(given))}]"
            reason = _NOT_DONE.get(name, "there is no such setting.")
            raise InvalidOption(f"The option {name[:80]!r} is not supported: {reason}", option=_CHUNKING)
    elif text not in ("", "auto"):
        kind = text
    if kind != "server_vad":
        raise InvalidOption(
            f"The chunking strategy {kind[:40]!r} is not supported: it is auto or server_vad.", option=_CHUNKING
        )


def _names(parts: Parts) -> tuple[str, ...]:
    model = serving_model(parts.engine)
    return tuple(dict.fromkeys((model.name, *parts.model_aliases)))


def _check_model(name: str, parts: Parts) -> None:
    names = _names(parts)
    if name not in names:
        raise UnknownModel(f"The model {name[:80]!r} is not served here; it is {' or '.join(names)}.", option="model")


async def _pieces(items: AsyncGenerator[Any, None], *, logprobs: bool) -> AsyncGenerator[str, None]:
    before, number = "", 0
    async with contextlib.aclosing(items):
        async for item in items:
            if isinstance(item, Transcript):
                yield _event(DoneEvent.build(item, logprobs=logprobs))
            else:
                yield _event(DeltaEvent.build(before, item, logprobs=logprobs))
                yield _event(SegmentEvent.build(number, item))
                before, number = item.text, number + 1


def _event(body: BaseModel) -> str:
    return f"data: {json.dumps(body.model_dump(mode='json'), ensure_ascii=False)}\n\n"


def _failed(error: AsrError) -> str:
    return _event(ErrorReply.build(error.status, error.code, error.message, error.option))


def _json(body: BaseModel) -> JSONResponse:
    return JSONResponse(body.model_dump(mode="json"))
