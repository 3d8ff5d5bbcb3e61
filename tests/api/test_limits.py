"""What callers see of their limits. The counting itself is tested in tests/unit/quotas."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest

from asr_service.observability.metrics import Metrics
from tests.api.conftest import Serve, build
from tests.fakes import FakeDecoder, FakeEngine, result, settle

pytestmark = pytest.mark.anyio

AUDIO: dict[str, Any] = {"content": b"sound", "headers": {"Content-Type": "audio/wav"}}


def answers(count: int) -> FakeEngine:
    return FakeEngine([result("hi")] * count)


async def test_without_limits_nothing_is_said_of_them(serve: Serve) -> None:
    async with serve(answers(1)) as client:
        reply = await client.post("/transcribe", **AUDIO)
    assert reply.status_code == 200
    assert not [name for name in reply.headers if name.startswith("ratelimit")]


async def test_every_answer_says_where_the_caller_stands(serve: Serve) -> None:
    limits = {"requests_per_minute": 3, "audio_s_per_minute": 10, "audio_s_per_day": 100, "concurrent": 2}
    async with serve(answers(1), FakeDecoder(1), rate_limit=limits) as client:
        reply = await client.post("/transcribe", **AUDIO)
        broken = await client.post("/transcribe", content=b"", headers={"Content-Type": "audio/wav"})
    assert reply.headers["RateLimit-Policy"] == (
        '"concurrent";q=2;qu="concurrent-requests", "audio_minute";q=10;qu="audio-seconds";w=60, '
        '"audio_day";q=100;qu="audio-seconds";w=86400, "requests";q=3;w=60'
    )
    assert reply.headers["RateLimit"] == (
        '"concurrent";r=1, "audio_minute";r=9;t=60, "audio_day";r=99;t=86400, "requests";r=2;t=60'
    )
    assert broken.status_code == 400
    assert '"requests";r=1;' in broken.headers["RateLimit"]


async def test_too_many_requests(serve: Serve) -> None:
    metrics, engine = Metrics(), answers(2)
    async with serve(engine, metrics=metrics, rate_limit={"requests_per_minute": 2}) as client:
        for _ in range(2):
            assert (await client.post("/transcribe", **AUDIO)).status_code == 200
        reply = await client.post("/transcribe", **AUDIO)
        assert reply.status_code == 429
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.json()["code"] == "rate_limited"
        assert 58 <= int(reply.headers["Retry-After"]) <= 60
        assert '"requests";r=0;t=' in reply.headers["RateLimit"]
        assert reply.headers["RateLimit-Policy"] == '"requests";q=2;w=60'
        assert (await client.get("/livez")).status_code == 200
    assert metrics.registry.get_sample_value("asr_rate_limited_total", {"limit": "requests"}) == 1
    assert len(engine.calls) == 2


async def test_who_is_over_a_limit_is_told_before_the_upload(serve: Serve) -> None:
    asked: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        asked.append("body")
        yield b"sound"

    async with serve(answers(1), rate_limit={"requests_per_minute": 1}) as client:
        await client.post("/transcribe", **AUDIO)
        reply = await client.post("/transcribe", content=body(), headers={"Content-Type": "audio/wav"})
    assert (reply.status_code, asked) == (429, [])


async def test_audio_over_the_limit_does_not_get_its_text(serve: Serve) -> None:
    metrics = Metrics()
    async with serve(answers(9), FakeDecoder(3), metrics, rate_limit={"audio_s_per_minute": 5}) as client:
        assert (await client.post("/transcribe", **AUDIO)).status_code == 200
        refused = await client.post("/transcribe", **AUDIO)
        assert refused.status_code == 429
        assert "2 s are left" in refused.json()["detail"]
        assert 58 <= int(refused.headers["Retry-After"]) <= 60
        assert '"audio_minute";r=2;' in refused.headers["RateLimit"]
    assert metrics.registry.get_sample_value("asr_rate_limited_total", {"limit": "audio_minute"}) == 1


async def test_audio_that_can_never_fit_is_too_long(serve: Serve) -> None:
    async with serve(answers(6), FakeDecoder(6), rate_limit={"audio_s_per_day": 5}) as client:
        reply = await client.post("/transcribe", **AUDIO)
    assert (reply.status_code, reply.json()["code"]) == (413, "audio_too_long")
    assert "Retry-After" not in reply.headers
    assert "5 s of audio a day" in reply.json()["detail"]


async def test_one_of_several_files_may_be_over_the_limit(serve: Serve) -> None:
    files = [("file", ("a.wav", b"one")), ("file", ("b.wav", b"two"))]
    async with serve(answers(6), FakeDecoder(3), rate_limit={"audio_s_per_minute": 5}) as client:
        reply = await client.post("/transcribe", files=files)
    assert reply.status_code == 200
    assert sorted(entry.get("code", "ok") for entry in reply.json()["results"]) == ["ok", "rate_limited"]


async def test_a_stream_is_charged_too(serve: Serve) -> None:
    headers = {"Content-Type": "audio/wav", "Accept": "application/x-ndjson"}
    async with serve(answers(9), FakeDecoder(3), rate_limit={"audio_s_per_minute": 5}) as client:
        first = await client.post("/transcribe", content=b"sound", headers=headers)
        second = await client.post("/transcribe", content=b"sound", headers=headers)
    assert [json.loads(line)["type"] for line in first.text.splitlines()][-1] == "transcript"
    codes = [json.loads(line).get("code") for line in second.text.splitlines()] if second.status_code == 200 else []
    assert second.status_code == 429 or codes[-1] == "rate_limited"
    assert "RateLimit" in first.headers


async def test_requests_at_once(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine, rate_limit={"concurrent": 1}) as client:
        first = asyncio.create_task(client.post("/transcribe", **AUDIO))
        call = await engine.next_call()
        refused = await client.post("/transcribe", **AUDIO)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.headers["RateLimit"] == '"concurrent";r=0'
        call.finish("hi")
        assert (await first).status_code == 200
        second = asyncio.create_task(client.post("/transcribe", **AUDIO))
        (await engine.next_call()).finish("ho")
        assert (await second).status_code == 200


async def test_who_leaves_gives_the_place_back(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine, rate_limit={"concurrent": 1}) as client:
        first = asyncio.create_task(client.post("/transcribe", **AUDIO))
        await engine.next_call()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        await settle()
        second = asyncio.create_task(client.post("/transcribe", **AUDIO))
        (await engine.next_call()).finish("ho")
        assert (await second).status_code == 200


async def test_a_full_service_uses_nothing_of_the_limits(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine, max_queue=1, rate_limit={"requests_per_minute": 2}) as client:
        first = asyncio.create_task(client.post("/transcribe", **AUDIO))
        call = await engine.next_call()
        assert (await client.post("/transcribe", **AUDIO)).status_code == 503
        call.finish("hi")
        await first
        second = asyncio.create_task(client.post("/transcribe", **AUDIO))
        (await engine.next_call()).finish("ho")
        assert (await second).headers["RateLimit"].startswith('"requests";r=0;')


async def test_the_openai_client_knows_the_refusal(no_leaks: None) -> None:
    app = build(answers(1), FakeDecoder(), rate_limit={"requests_per_minute": 1})
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http,
        openai.AsyncOpenAI(base_url="http://asr/v1", api_key="none", http_client=http, max_retries=0) as client,
    ):
        await client.audio.transcriptions.create(file=b"sound", model="whisper-1")
        with pytest.raises(openai.RateLimitError) as caught:
            await client.audio.transcriptions.create(file=b"sound", model="whisper-1")
    assert caught.value.code == "rate_limited"
    assert int(caught.value.response.headers["Retry-After"]) >= 58


async def test_models_can_be_listed_however_often(serve: Serve) -> None:
    async with serve(answers(1), rate_limit={"requests_per_minute": 1}) as client:
        for _ in range(3):
            assert (await client.get("/v1/models")).status_code == 200


async def test_without_redis_the_store_is_up(serve: Serve) -> None:
    metrics = Metrics()
    async with serve(answers(1), metrics=metrics):
        assert metrics.registry.get_sample_value("asr_rate_limit_store_up") == 1
