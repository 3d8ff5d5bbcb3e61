"""Traces: where the time of one request went, stage by stage, sent to a collector by OpenTelemetry.

Owns what a span is to the rest of the service, how the stages of other processes become spans, and OpenTelemetry,
which nothing else knows and which is imported only when traces are on. Spans hold ids, sizes, times and codes; never
audio or text.

Decode workers and the engine measure durations and send them with their results anyway, so their spans are made here,
in the API process. An SDK of their own would put network and threads into a sandbox and into the engine's loop.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import asr_service
from asr_service.domain import AudioSummary, WindowResult
from asr_service.errors import AsrError
from asr_service.observability.traceparent import Ids, TraceParent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer as OtelTracer

_EXPORT_TIMEOUT_S = 5.0
_SEND_EVERY_S = 2.0
_MAX_UNSENT = 16_384
"""Spans that wait to be sent; more are dropped. An hour of audio has about a thousand."""

Facts = Mapping[str, str | int | float | bool]
_NOTHING: Facts = MappingProxyType({})


class Span(Protocol):
    """A stretch of a request's time. Moments are seconds of `time.monotonic`; by default it is now."""

    @property
    def ids(self) -> Ids | None:
        """Its place in the trace; None while there are no traces."""

    @property
    def began_s(self) -> float:
        """When it began."""

    def begin(self, name: str, facts: Facts = _NOTHING, *, at_s: float | None = None) -> "Span":
        """A stretch within this one, which may begin before now, and after this one has ended."""

    def add(self, facts: Facts) -> None:
        """Note what became known since the beginning."""

    def end(
        self, *, at_s: float | None = None, name: str | None = None, error: str | None = None, our_fault: bool = True
    ) -> None:
        """The first end counts. `error` is a code; `our_fault` tells a failure from a refusal. `name` replaces the
        first one.
        """


class Tracer(Protocol):
    """Follows requests."""

    def request(self, parent: TraceParent | None) -> Span:
        """The span of a whole request, which begins now."""

    async def aclose(self) -> None:
        """Send what has not been sent yet."""


class _NoSpan:
    ids = None
    began_s = 0.0

    def begin(self, name: str, facts: Facts = _NOTHING, *, at_s: float | None = None) -> Span:
        return self

    def add(self, facts: Facts) -> None:
        return

    def end(
        self, *, at_s: float | None = None, name: str | None = None, error: str | None = None, our_fault: bool = True
    ) -> None:
        return


class _NoTraces:
    def request(self, parent: TraceParent | None) -> Span:
        return NO_SPAN

    async def aclose(self) -> None:
        return


NO_SPAN: Span = _NoSpan()
NO_TRACES: Tracer = _NoTraces()


@contextlib.contextmanager
def stage(parent: Span, name: str, facts: Facts = _NOTHING) -> Iterator[Span]:
    """A span around a block, which fails with it."""
    span = parent.begin(name, facts)
    try:
        yield span
    except BaseException as error:
        span.end(error=_code(error))
        raise
    span.end()


def _code(error: BaseException) -> str:
    if isinstance(error, AsrError):
        return error.code
    # A generator that is closed early is one whose consumer was cancelled.
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else type(error).__name__


def end_decoding(span: Span, summary: AudioSummary) -> None:
    """End the span of a recording's decoding, with its voice activity detection within.

    Both take turns in the worker, block by block; the detection is shown as one stretch at the end.
    """
    ended_s = time.monotonic()
    span.add({"asr.audio_s": round(summary.duration_s, 3), "asr.decode_ms": round(summary.decode_ms, 1)})
    vad = span.begin("vad", {"asr.interleaved": True}, at_s=max(span.began_s, ended_s - summary.vad_ms / 1e3))
    vad.end(at_s=ended_s)
    span.end(at_s=ended_s)


def end_window(span: Span, result: WindowResult) -> None:
    """End the span of a window that the engine has transcribed, with the engine's stages within.

    These follow each other without gaps, and the last ends when the result is sent. What lies before the first is
    `prepare`: the way to the engine and the window's features, and whatever an engine did with it before it died.
    """
    ended_s = time.monotonic()
    timings = result.timings
    stages = {
        "queue": timings.queue_ms,
        "encode": timings.encode_ms,
        "decode_steps": timings.decode_ms,
        "align": timings.align_ms,
    }
    at_s = max(span.began_s, ended_s - sum(stages.values()) / 1e3)
    span.begin("prepare", at_s=span.began_s).end(at_s=at_s)
    for name, milliseconds in stages.items():
        if name == "align" and not milliseconds:
            continue
        facts = {"asr.decode_steps": timings.decode_steps} if name == "decode_steps" else _NOTHING
        until_s = min(ended_s, at_s + milliseconds / 1e3)
        span.begin(name, facts, at_s=at_s).end(at_s=until_s)
        at_s = until_s
    span.add({"asr.tokens": result.tokens} | ({"asr.guard": result.guard} if result.guard else {}))
    span.end(at_s=ended_s)


class TracesUnavailable(Exception):
    """Traces are wanted, but cannot be had; the message says what to do."""


def otlp(
    endpoint: str, *, sample_ratio: float, headers: Mapping[str, str], timeout_s: float = _EXPORT_TIMEOUT_S
) -> Tracer:
    """Traces that are sent to the OTLP/HTTP collector at `endpoint` (its whole address), with `headers`.

    `sample_ratio`: the share of requests that are recorded, of those whose caller has not decided. `timeout_s`: for
    sending, second tries included. Raises TracesUnavailable.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracesUnavailable(
            "ASR_TRACES__ENDPOINT is set, but traces need packages that are not installed: install "
            "'asr-service[otel]', or unset it."
        ) from error
    exporter = OTLPSpanExporter(
        endpoint=endpoint, headers=dict(headers), timeout=timeout_s, compression=Compression.Gzip
    )
    return OpenTelemetry(
        BatchSpanProcessor(
            exporter,
            max_queue_size=_MAX_UNSENT,
            schedule_delay_millis=_SEND_EVERY_S * 1e3,
            max_export_batch_size=512,
            export_timeout_millis=timeout_s * 1e3,
        ),
        sample_ratio=sample_ratio,
    )


class OpenTelemetry:
    """A `Tracer` whose spans go to an OpenTelemetry processor. Nothing global is touched."""

    def __init__(self, processor: "SpanProcessor", *, sample_ratio: float = 1.0) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        self._provider = TracerProvider(
            # What a caller has decided for its trace holds, so that no trace has holes.
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource(
                {
                    "service.name": "asr-service",
                    "service.version": asr_service.__version__,
                    "service.instance.id": str(uuid.uuid4()),
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("asr_service", asr_service.__version__)

    def request(self, parent: TraceParent | None) -> Span:
        from opentelemetry import trace
        from opentelemetry.context import Context

        context = Context()
        if parent is not None:
            caller = trace.SpanContext(
                int(parent.ids.trace_id, 16),
                int(parent.ids.span_id, 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if parent.sampled else trace.TraceFlags.DEFAULT),
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(caller), context)
        # One reading of both clocks for a whole request: its stages stay in order when the system's clock is set.
        now_s = time.monotonic()
        epoch_ns = time.time_ns() - round(now_s * 1e9)
        span = self._tracer.start_span("request", context, trace.SpanKind.SERVER, start_time=_wall_ns(epoch_ns, now_s))
        return _Recorded(self._tracer, span, epoch_ns, now_s)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._provider.shutdown)


class _Recorded:
    """A span of OpenTelemetry; of a trace that is not sampled, nothing but its ids."""

    def __init__(self, tracer: "OtelTracer", span: "OtelSpan", epoch_ns: int, began_s: float) -> None:
        from opentelemetry.trace import format_span_id, format_trace_id

        self._tracer = tracer
        self._span = span
        self._epoch_ns = epoch_ns
        self._began_s = began_s
        self._ended = False
        place = span.get_span_context()
        self._sampled = place.trace_flags.sampled
        self._ids = Ids(format_trace_id(place.trace_id), format_span_id(place.span_id))

    @property
    def ids(self) -> Ids:
        return self._ids

    @property
    def began_s(self) -> float:
        return self._began_s

    def begin(self, name: str, facts: Facts = _NOTHING, *, at_s: float | None = None) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        if not self._sampled:
            return NO_SPAN
        context = set_span_in_context(self._span, Context())
        began_s = time.monotonic() if at_s is None else at_s
        began_ns = _wall_ns(self._epoch_ns, began_s)
        span = self._tracer.start_span(name, context, attributes=facts, start_time=began_ns)
        return _Recorded(self._tracer, span, self._epoch_ns, began_s)

    def add(self, facts: Facts) -> None:
        self._span.set_attributes(facts)

    def end(
        self, *, at_s: float | None = None, name: str | None = None, error: str | None = None, our_fault: bool = True
    ) -> None:
        from opentelemetry.trace import Status, StatusCode

        if self._ended:
            return
        self._ended = True
        if name is not None:
            self._span.update_name(name)
        if error is not None:
            self._span.set_attribute("error.type", error)
            if our_fault:
                self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_wall_ns(self._epoch_ns, time.monotonic() if at_s is None else at_s))


def _wall_ns(epoch_ns: int, at_s: float) -> int:
    return epoch_ns + round(at_s * 1e9)
