"""Spans as tests look at them, whichever way they came."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id


@dataclass(frozen=True)
class Seen:
    """A span that was sent. `parent` is empty for the first of a trace."""

    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    failed: bool
    facts: Mapping[str, Any]

    @property
    def ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


def kept(exporter: InMemorySpanExporter) -> list[Seen]:
    """What an exporter in memory holds."""
    seen = []
    for span in exporter.get_finished_spans():
        assert span.context is not None
        assert span.start_time is not None
        assert span.end_time is not None
        seen.append(
            Seen(
                span.name,
                format_trace_id(span.context.trace_id),
                format_span_id(span.context.span_id),
                "" if span.parent is None else format_span_id(span.parent.span_id),
                span.start_time,
                span.end_time,
                span.status.status_code is StatusCode.ERROR,
                dict(span.attributes or {}),
            )
        )
    return seen


def paths(spans: Iterable[Seen]) -> list[str]:
    """Each span as its name after those of all that it is within, in the order of their beginnings."""
    by_id = {span.id: span for span in spans}

    def path(span: Seen) -> str:
        return f"{path(by_id[span.parent])} > {span.name}" if span.parent in by_id else span.name

    return [path(span) for span in sorted(by_id.values(), key=lambda span: (span.start_ns, -span.end_ns))]


def check_nesting(spans: Iterable[Seen]) -> None:
    """Every span lies within the one that it belongs to; all belong to one trace."""
    by_id = {span.id: span for span in spans}
    assert len({span.trace for span in by_id.values()}) == 1
    for span in by_id.values():
        assert span.start_ns <= span.end_ns
        if outer := by_id.get(span.parent):
            assert outer.start_ns <= span.start_ns, (outer, span)
            assert span.end_ns <= outer.end_ns, (outer, span)
