"""The spans of a request: one tree within the caller's trace, with every stage, and without a word."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asr_service.api.app import create_app
from asr_service.domain import WindowResult, WindowTimings
from asr_service.errors import EngineError, UnreadableAudio
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import OpenTelemetry
from asr_service.settings import Settings
from tests.fakes import FakeDecoder, FakeEngine, FakeListener, result
from tests.spans import Seen, check_nesting, kept, paths

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

DOCS = Path(__file__).parents[2] / "docs" / "traces.md"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}


class Service:
    """The application with its spans kept in memory."""

    def __init__(self, sample_ratio: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = OpenTelemetry(SimpleSpanProcessor(self.exporter), sample_ratio=sample_ratio)

    @contextlib.asynccontextmanager
    async def running(self, engine: FakeEngine, decoder: FakeDecoder | None = None) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(
            Settings(), engine, decoder or FakeDecoder(), Metrics(), listener=FakeListener(), tracer=self.tracer
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://asr") as client,
        ):
            yield client

    @property
    def spans(self) -> list[Seen]:
        return kept(self.exporter)

    def named(self, name: str) -> Seen:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
def service() -> Service:
    return Service()


def heard(text: str, *stages_ms: float) -> WindowResult:
    queue, encode, decode, align = stages_ms
    return WindowResult(text, "en", 7, WindowTimings(queue, encode, decode, 6, align_ms=align), None)


async def test_every_stage_is_a_span_below_the_callers(service: Service) -> None:
    engine = FakeEngine([heard("one", 1e-3, 2e-3, 3e-3, 1e-3), heard("two", 1e-3, 2e-3, 3e-3, 0.0)])
    async with service.running(engine, FakeDecoder(2)) as client:
        answer = await client.post("/transcribe", content=b"audio", headers=SAMPLED)

    assert answer.status_code == 200
    check_nesting(service.spans)
    root = service.named("POST /transcribe")
    assert (root.trace, root.parent) == (TRACE, CALLER)
    top, work = "POST /transcribe", "POST /transcribe > transcribe"
    window = f"{work} > window"
    assert sorted(paths(service.spans)) == sorted(
        [top, f"{top} > upload", work, f"{work} > decode", f"{work} > decode > vad", window, window]
        + [f"{window} > {name}" for name in ("prepare", "queue", "encode", "decode_steps") * 2]
        + [f"{window} > align"]
    )
    assert not any(span.failed for span in service.spans)
    assert root.facts == {
        "http.request.method": "POST",
        "http.route": "/transcribe",
        "http.response.status_code": 200,
        "asr.request_id": answer.headers["X-Request-ID"],
    }
    assert service.named("upload").facts["asr.bytes"] == 5
    assert service.named("decode").facts["asr.decode_ms"] == 5.0


async def test_the_engines_stages_follow_each_other_and_end_with_the_window(service: Service) -> None:
    engine = FakeEngine()
    async with service.running(engine) as client:
        asking = asyncio.create_task(client.post("/transcribe", content=b"audio"))
        call = await engine.next_call()
        call.outcome.set_result(heard("text", 1.0, 20.0, 300.0, 4.0))
        # The fake engine claims more time than has passed: what it says is cut to the window's own.
        await asking

    window = service.named("window")
    stages = [service.named(name) for name in ("prepare", "queue", "encode", "decode_steps", "align")]
    assert stages[0].start_ns == window.start_ns
    for before, after in itertools.pairwise(stages):
        assert before.end_ns == after.start_ns
    assert stages[-1].end_ns == window.end_ns
    assert window.facts == {"asr.window": 0, "asr.audio_s": 1.0, "asr.tokens": 7}


async def test_requests_without_a_trace_begin_one(service: Service) -> None:
    async with service.running(FakeEngine([result("a"), result("b")])) as client:
        await client.post("/transcribe", content=b"audio")
        await client.post("/transcribe", content=b"audio", headers={"traceparent": "00-nonsense"})

    roots = [span for span in service.spans if span.name == "POST /transcribe"]
    assert [span.parent for span in roots] == ["", ""]
    assert roots[0].trace != roots[1].trace


async def test_what_the_caller_has_decided_holds(service: Service) -> None:
    async with service.running(FakeEngine([result("a")])) as client:
        await client.post("/transcribe", content=b"audio", headers=UNSAMPLED)
    assert service.spans == []

    never = Service(sample_ratio=0.0)
    async with never.running(FakeEngine([result("a"), result("b")])) as client:
        await client.post("/transcribe", content=b"audio")
        assert never.spans == []
        await client.post("/transcribe", content=b"audio", headers=SAMPLED)
    assert {span.trace for span in never.spans} == {TRACE}


async def test_the_stage_that_failed_is_marked(service: Service) -> None:
    engine = FakeEngine([EngineError("it broke on 'the secret plan'")])
    async with service.running(engine) as client:
        await client.post("/transcribe", content=b"audio")

    check_nesting(service.spans)
    marked = {span.name: span.facts["error.type"] for span in service.spans if span.failed}
    assert marked == {"POST /transcribe": "engine_error", "transcribe": "engine_error", "window": "engine_error"}
    assert "secret" not in str(service.spans)


async def test_a_refusal_is_no_failure_of_ours(service: Service) -> None:
    decoder = FakeDecoder(0, error=UnreadableAudio("no audio in it"))
    async with service.running(FakeEngine(), decoder) as client:
        await client.post("/transcribe", content=b"audio")
        await client.get("/nowhere")

    root = service.named("POST /transcribe")
    assert (root.failed, root.facts["error.type"]) == (False, "unreadable_audio")
    assert service.named("decode").facts["error.type"] == "unreadable_audio"
    assert service.named("GET unmatched").facts["error.type"] == "not_found"


async def test_what_is_cancelled_ends_too(service: Service) -> None:
    decoder = FakeDecoder(1, hang=True)
    engine = FakeEngine()
    async with service.running(engine, decoder) as client:
        asking = asyncio.create_task(client.post("/transcribe", content=b"audio"))
        await engine.next_call()
        await decoder.hanging.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    check_nesting(service.spans)
    assert {span.facts.get("error.type") for span in service.spans if span.name != "upload"} == {"cancelled"}
    assert {span.name for span in service.spans} >= {"POST /transcribe", "transcribe", "decode", "window"}


async def test_several_recordings_are_one_tree(service: Service) -> None:
    async with service.running(FakeEngine([result("a"), result("b")])) as client:
        files = [("file", ("1.wav", b"one")), ("file", ("2.wav", b"two"))]
        await client.post("/transcribe", files=files, headers=SAMPLED)

    check_nesting(service.spans)
    assert [span.name for span in service.spans].count("transcribe") == 2


async def test_streams_are_traced_to_their_end(service: Service) -> None:
    async with service.running(FakeEngine([result("a"), result("b")]), FakeDecoder(2)) as client:
        await client.post("/transcribe", content=b"audio", headers={"Accept": "application/x-ndjson"})

    check_nesting(service.spans)
    assert not any(span.failed for span in service.spans)
    assert [span.name for span in service.spans].count("window") == 2


async def test_nothing_that_was_said_or_sent_is_in_a_span(service: Service) -> None:
    async with service.running(FakeEngine([result("the secret plan")])) as client:
        await client.post(
            "/transcribe?prompt=hidden+names",
            files={"file": ("private.wav", b"private audio")},
            headers={"X-API-Key": "a key", "User-Agent": "a browser"},
        )

    for private in ("secret", "hidden", "private", "a key", "browser"):
        assert private not in str(service.spans)


async def test_probes_are_not_traced(service: Service) -> None:
    async with service.running(FakeEngine()) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            await client.get(path, headers=SAMPLED)

    assert service.spans == []


async def test_spans_and_their_attributes_are_documented(service: Service) -> None:
    engine = FakeEngine([heard("a", 1.0, 1.0, 1.0, 1.0), result("b", guard="loop"), EngineError("broken")])
    async with service.running(engine) as client:
        for _ in range(3):
            await client.post("/transcribe", content=b"audio")

    documented = set(re.findall(r"`([a-z_.]+)`", DOCS.read_text(encoding="utf-8")))
    names = {span.name for span in service.spans} - {"POST /transcribe"}
    assert (names | {name for span in service.spans for name in span.facts}) - documented == set()
