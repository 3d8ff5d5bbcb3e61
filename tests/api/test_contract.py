"""The OpenAPI document is kept: whatever is sent, answers have the statuses, types and schemas that it promises."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis.strategies as st
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from asr_service.domain import WindowResult
from tests.api.conftest import build
from tests.fakes import FakeDecoder, FakeEngine, result

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


class Always(list[WindowResult | Exception]):
    """Answers without end."""

    def pop(self, index: Any = -1) -> WindowResult:
        return result("Yes.")


def engine() -> FakeEngine:
    fake = FakeEngine([])
    fake._answers = Always()
    return fake


@schemathesis.serializer("audio/*", "video/*")
def as_they_are(context: schemathesis.SerializationContext, value: Any) -> Any:
    """Bodies of any media type are bytes here."""
    return value if isinstance(value, bytes) else str(value).encode()


APP = build(engine(), FakeDecoder(1))
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_answers_are_as_the_document_says(case: "schemathesis.Case[Any]") -> None:
    case.call_and_validate(checks=CHECKS)


VALUES: dict[str, list[str]] = {
    "model": ["whisper-1", "whisper-test", "other", ""],
    "language": ["en", "german", "auto", "", "klingon"],
    "prompt": ["", "Names.", "é" * 4_001],
    "temperature": ["0", "1", "0.5", "-1", "inf", ""],
    "response_format": ["json", "text", "srt", "vtt", "verbose_json", "diarized_json", ""],
    "stream": ["true", "false", "maybe"],
    "timestamps": ["vad", "model", "words"],
    "hotwords": ["a,b", "\n", "x" * 65],
    "chunking_strategy": ["auto", "server_vad", '{"type":"server_vad"}', "{", "[]"],
    "task": ["transcribe", "translate"],
    "words": ["true", "0"],
    "timestamp_granularities[]": ["word", "segment", "x"],
    "include[]": ["logprobs", "x"],
    "languages[]": ["en", "xx"],
}
ACCEPTED = ["*/*", "application/json", "text/event-stream", "application/x-ndjson"]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    path=st.sampled_from(["/transcribe", "/v1/audio/transcriptions", "/v1/audio/translations"]),
    fields=st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(0, 10), max_size=6),
    files=st.integers(0, 3),
    accept=st.sampled_from(ACCEPTED),
)
def test_any_combination_of_options_is_answered_or_refused_by_name(
    runner: asyncio.Runner, path: str, fields: dict[str, int], files: int, accept: str
) -> None:
    data = {name: VALUES[name][number % len(VALUES[name])] for name, number in fields.items()}

    async def call() -> httpx.Response:
        app = build(engine(), FakeDecoder(2))
        transport = httpx.ASGITransport(app)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://asr"))
            parts = [("file", (f"{number}.wav", b"audio")) for number in range(files)]
            return await client.post(path, data=data, files=parts or {"none": b""}, headers={"Accept": accept})

    response = runner.run(call())
    assert response.status_code in (200, 400, 404, 422), response.text
    if response.status_code != 200:
        body = response.json()
        assert body["error"]["message"] if path.startswith("/v1") else body["detail"]
    elif data.get("response_format", "json") in ("text", "srt", "vtt"):
        assert "Yes." in response.text
    else:
        assert "Yes." in response.text
        assert response.headers["content-type"].startswith(("application/", "text/event"))
