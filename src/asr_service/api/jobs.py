"""What all transcription routes share: from an accepted upload to transcripts, at once or as a stream.

Owns admission, the accounting of what was transcribed, the order of several files, and that work ends when the client
leaves. Must not know how audio is transcribed, nor the shape of any reply.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from asr_service.admission import Ticket
from asr_service.api import uploads
from asr_service.api.context import RequestRecord, record_of
from asr_service.api.deadline import Deadline
from asr_service.api.limits import LimitedRequest, limited
from asr_service.api.parts import Parts
from asr_service.api.problems import loggable
from asr_service.domain import AudioSummary, ModelInfo, Segment, Transcript, WindowOptions
from asr_service.errors import AsrError, DeadlineExceeded, EngineNotReady
from asr_service.observability.traces import stage
from asr_service.service import NOT_READY_RETRY_S, Engine

_LAST_WORDS_S = 2.0
"""Time to send an error at the end of a stream."""
_Result = TypeVar("_Result")
Item = Segment | Transcript


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request with its upload."""

    upload: uploads.Upload
    record: RequestRecord
    _parts: Parts
    _ticket: Ticket
    _limits: LimitedRequest
    _deadline: Deadline

    async def items(
        self, recording: uploads.Recording, options: WindowOptions, *, live: bool = False
    ) -> AsyncGenerator[Item, None]:
        """Each segment of a recording as soon as it and all before it are done, lastly the whole. Raises AsrError.

        `live`: somebody reads along, so the first segment is hurried.
        """
        done_s = 0.0

        async def decoded(summary: AudioSummary) -> None:
            self._ticket.decoded(summary.duration_s)
            _note_decoding(self.record, summary)
            await self._limits.charge(summary.duration_s)

        with stage(self.record.span, "transcribe") as span:
            stream = self._parts.transcriber.stream(
                recording.file, options, self.record.request_id, live=live, on_decoded=decoded, span=span
            )
            async with contextlib.aclosing(self._deadline.items(stream)) as items:
                async for item in items:
                    end_s = item.duration_s if isinstance(item, Transcript) else item.end_s
                    self._ticket.transcribed(max(0.0, end_s - done_s))
                    done_s = max(done_s, end_s)
                    if isinstance(item, Transcript):
                        self._parts.metrics.transcribed(item)
                        _note(self.record, item)
                        span.end()
                    yield item

    async def all_items(
        self, options: WindowOptions, *, live: bool = False
    ) -> AsyncGenerator[tuple[int, Item | AsrError], None]:
        """The items of all recordings, with the number of theirs: file by file in order, though all are worked on.

        The error of a single recording is raised; with several, it stands in for what is left of its own.
        """
        recordings = self.upload.recordings
        if len(recordings) == 1:
            async with contextlib.aclosing(self.items(recordings[0], options, live=live)) as items:
                async for item in items:
                    yield 0, item
            return
        queues: list[asyncio.Queue[Item | AsrError | None]] = [asyncio.Queue() for _ in recordings]
        tasks = [
            asyncio.create_task(self._fill(queue, self.items(recording, options, live=live)))
            for queue, recording in zip(queues, recordings, strict=True)
        ]
        try:
            for number, (queue, task) in enumerate(zip(queues, tasks, strict=True)):
                while (entry := await queue.get()) is not None:
                    yield number, entry
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    async def _fill(queue: "asyncio.Queue[Item | AsrError | None]", items: AsyncGenerator[Item, None]) -> None:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    queue.put_nowait(item)
        except AsrError as error:
            queue.put_nowait(error)
        finally:
            queue.put_nowait(None)


@contextlib.asynccontextmanager
async def accept(request: Request, parts: Parts, *, fields: Collection[str], max_files: int = 1) -> AsyncIterator[Job]:
    """Admit a request, receive its upload, and hold both until the block ends. Raises AsrError."""
    record = record_of(request.scope)
    async with contextlib.AsyncExitStack() as stack:
        # Before the caller's own limits: who is refused because others fill the service has used up nothing.
        ticket = stack.enter_context(parts.admission.enter())
        limits = await stack.enter_async_context(limited(record, parts.quotas))
        stack.enter_context(parts.metrics.transcribing())
        started = time.perf_counter()
        receiving = uploads.receive(
            request,
            max_bytes=parts.max_upload_bytes,
            timeout_s=parts.upload_timeout_s,
            fields=fields,
            max_files=max_files,
        )
        with stage(record.span, "upload") as span:
            upload = await stack.enter_async_context(receiving)
            span.add({"asr.bytes": upload.size_bytes})
        upload_s = time.perf_counter() - started
        parts.metrics.upload_ended(upload_s)
        record.facts |= {
            "model": serving_model(parts.engine).name,
            "files": len(upload.recordings),
            "bytes": upload.size_bytes,
            "upload_ms": round(upload_s * 1000, 1),
        }
        deadline = Deadline(parts.request_timeout_s)
        # The items end at the deadline itself. A little later the sending ends too, should nobody read it.
        await stack.enter_async_context(deadline.enforced(spare_s=min(_LAST_WORDS_S, parts.request_timeout_s)))
        yield Job(upload, record, parts, ticket, limits, deadline)


def serving_model(engine: Engine) -> ModelInfo:
    """The loaded model. Raises EngineNotReady until there is one; a restarting engine keeps it, and requests wait."""
    if engine.model is None:
        reason = engine.not_ready_reason or "the model is loading"
        raise EngineNotReady(f"Not ready yet: {reason}.", retry_after_s=NOT_READY_RETRY_S)
    return engine.model


async def last(items: AsyncGenerator[Item, None]) -> Transcript:
    """The transcript at the end of a recording's items."""
    async with contextlib.aclosing(items):
        async for item in items:
            if isinstance(item, Transcript):
                return item
    raise AssertionError("a stream ends with a transcript or an error")


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
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


class LiveResponse(StreamingResponse):
    """Pieces of text sent as they come, and what they need closed when the last is sent or the client has left."""

    def __init__(self, pieces: AsyncIterator[str], media_type: str, needed: contextlib.AsyncExitStack) -> None:
        # Proxies must hand each piece on at once.
        super().__init__(
            self._until_end(pieces),
            media_type=media_type,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._needed = needed
        self._ended = False

    async def _until_end(self, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
        async for piece in pieces:
            yield piece
        self._ended = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._needed:
                await super().__call__(scope, receive, send)
                if not self._ended:
                    raise ClientDisconnect
        except DeadlineExceeded as error:
            # Even the last piece could not be sent: the client is there, but does not read.
            raise ClientDisconnect from error


async def live(
    request: Request,
    pieces: AsyncGenerator[str, None],
    on_error: Callable[[AsrError], str],
    media_type: str,
    needed: contextlib.AsyncExitStack,
) -> LiveResponse:
    """A streamed answer of rendered pieces, which takes over what they need, `pieces` included.

    Waits for the first piece, so that an error before it is still an error of its own status. A later one becomes the
    last piece, by `on_error`.
    """
    record = record_of(request.scope)
    await needed.enter_async_context(contextlib.aclosing(pieces))
    first = await unless_disconnected(request.receive, _next(pieces))

    async def all_pieces() -> AsyncIterator[str]:
        yield first
        try:
            async for piece in pieces:
                yield piece
        except AsrError as error:
            record.code, record.error = error.code, loggable(error.message)
            yield on_error(error)

    return LiveResponse(all_pieces(), media_type, needed.pop_all())


async def _next(pieces: AsyncGenerator[str, None]) -> str:
    return await anext(pieces)


def _note_decoding(record: RequestRecord, summary: AudioSummary) -> None:
    _sum_up(record, "audio_s", round(summary.duration_s, 3))
    _keep_largest(record, {"decode_ms": summary.decode_ms, "vad_ms": summary.vad_ms})


def _note(record: RequestRecord, transcript: Transcript) -> None:
    timings = transcript.timings
    _sum_up(record, "segments", len(transcript.segments))
    stages = {
        "queue_ms": timings.queue_ms,
        "encode_ms": timings.encode_ms,
        "first_token_ms": timings.first_token_ms,
        "decode_steps_ms": timings.decode_steps_ms,
        "align_ms": timings.align_ms,
        "total_ms": timings.total_ms,
    }
    _keep_largest(record, {name: value for name, value in stages.items() if value is not None})


def _sum_up(record: RequestRecord, name: str, value: float) -> None:
    """Of several recordings a request has its audio and segments together …"""
    record.facts[name] = _noted(record, name) + value


def _keep_largest(record: RequestRecord, values_ms: Mapping[str, float]) -> None:
    """… and of each stage the longest, since they are worked on at the same time."""
    for name, value in values_ms.items():
        record.facts[name] = round(max(value, _noted(record, name)), 1)


def _noted(record: RequestRecord, name: str) -> float:
    before = record.facts.get(name, 0)
    assert isinstance(before, int | float)
    return before
