"""Traces on their way out: to a collector, to one that is not there, and without the packages for them."""

import logging
import socket
import sys
import time

import pytest

from asr_service.observability import traces
from tests.collector import collector

pytestmark = pytest.mark.anyio


async def test_spans_reach_the_collector_with_its_credentials_at_the_latest_at_the_end() -> None:
    with collector() as kept:
        tracer = traces.otlp(f"{kept.url}/v1/traces", sample_ratio=1.0, headers={"x-token": "abc"})
        span = tracer.request(None)
        span.begin("stage", {"asr.bytes": 5}).end()
        span.end(name="POST /transcribe", error="engine_error")
        await tracer.aclose()

        stage, root = kept.spans_until("POST")
    assert kept.headers[0]["x-token"] == "abc"
    assert kept.resources[0]["service.name"] == "asr-service"
    assert (stage.parent, stage.facts, stage.failed) == (root.id, {"asr.bytes": 5}, False)
    assert (root.failed, root.facts) == (True, {"error.type": "engine_error"})
    assert abs(root.start_ns - time.time_ns()) < 60e9


async def test_a_collector_that_is_not_there_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tracer = traces.otlp(f"http://127.0.0.1:{port}/v1/traces", sample_ratio=1.0, headers={}, timeout_s=0.2)
    tracer.request(None).end()

    began = time.monotonic()
    with caplog.at_level(logging.ERROR):
        await tracer.aclose()

    assert time.monotonic() - began < 5
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_the_first_end_of_a_span_counts() -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    span = traces.OpenTelemetry(SimpleSpanProcessor(exporter)).request(None)
    span.end(at_s=span.began_s + 1)
    span.end(error="late")

    (ended,) = exporter.get_finished_spans()
    assert ended.start_time is not None
    assert ended.end_time == pytest.approx(ended.start_time + 10**9, abs=1000)
    assert not ended.attributes


def test_without_the_packages_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)

    with pytest.raises(traces.TracesUnavailable, match=r"install 'asr-service\[otel\]'"):
        traces.otlp("http://localhost:4318/v1/traces", sample_ratio=1.0, headers={})


async def test_without_traces_all_is_nothing() -> None:
    span = traces.NO_TRACES.request(None)

    assert span.begin("stage") is span
    assert span.ids is None
    with pytest.raises(RuntimeError, match="as it was"), traces.stage(span, "stage"):
        raise RuntimeError("as it was")
    await traces.NO_TRACES.aclose()
