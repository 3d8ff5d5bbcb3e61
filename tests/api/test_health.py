"""Probes, metrics, and the life of the parts behind the application."""

import asyncio

import httpx
import pytest

from asr_service.api.app import create_app
from asr_service.errors import ModelUnavailable
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings
from tests.api.conftest import Serve, build
from tests.fakes import WHISPER, FakeDecoder, FakeEngine, FakeListener, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def test_alive_whatever_the_engine_does(serve: Serve) -> None:
    async with serve(FakeEngine(model=None, not_ready="the model is loading")) as client:
        response = await client.get("/livez")

    assert (response.status_code, response.json()) == (200, {"status": "alive"})
    assert response.headers["cache-control"] == "no-store"


async def test_readiness_follows_the_engine(serve: Serve) -> None:
    engine = FakeEngine(model=None, not_ready="the model is loading")
    metrics = Metrics()

    async with serve(engine, metrics=metrics) as client:
        loading = await client.get("/readyz")
        assert metrics.registry.get_sample_value("asr_ready") == 0
        engine.model, engine.not_ready_reason = WHISPER, None
        ready = await client.get("/readyz")
        assert metrics.registry.get_sample_value("asr_ready") == 1
        engine.not_ready_reason = "the engine died and is being restarted"
        restarting = await client.get("/readyz")

    assert (loading.status_code, loading.json()) == (503, {"status": "not ready", "reason": "the model is loading"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "model": "whisper-test"})
    assert restarting.status_code == 503
    assert restarting.json()["reason"] == "the engine died and is being restarted"


async def test_metrics_are_in_prometheus_text_format(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        await settle()
        await client.get("/livez")
        response = await client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=")
    assert 'asr_requests_total{code="ok",method="GET",route="/livez",status="200"} 1.0' in response.text
    assert "\nasr_ready 1.0\n" in response.text
    labels = 'device="cpu",dtype="float32",engine="0",family="whisper",name="whisper-test",slots="4"'
    assert f"asr_model_info{{{labels}}} 1.0" in response.text


async def test_starts_and_stops_engine_and_decoder() -> None:
    engine, decoder = FakeEngine(), FakeDecoder()
    app = build(engine, decoder)

    async with app.router.lifespan_context(app):
        assert engine.events == ["engine started"]
        assert decoder.events == ["decoder started"]

    assert engine.events == ["engine started", "engine closed"]
    assert decoder.events == ["decoder started", "decoder closed"]


async def test_a_decoder_that_cannot_start_ends_the_start_and_the_engine() -> None:
    class BrokenDecoder(FakeDecoder):
        async def start(self) -> None:
            raise OSError("no processes left")

    engine = FakeEngine()
    app = build(engine, BrokenDecoder())

    with pytest.raises(OSError, match="no processes left"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it must not start")

    assert engine.events == ["engine started", "engine closed"]


@pytest.mark.parametrize("error", [ModelUnavailable("There is no such model."), RuntimeError("a bug")])
async def test_the_caller_is_told_that_there_will_be_no_model(error: Exception) -> None:
    engine = FakeEngine(model=None, not_ready="the model is loading")
    engine.load_error = error
    told: asyncio.Queue[Exception] = asyncio.Queue()
    app = create_app(
        Settings(), engine, FakeDecoder(), Metrics(), listener=FakeListener(), on_load_failed=told.put_nowait
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://asr") as client,
    ):
        assert told.empty()
        engine.loaded.set()
        assert await told.get() is error
        assert (await client.get("/livez")).status_code == 200


async def test_unknown_paths_and_methods_are_problems(serve: Serve) -> None:
    async with serve(FakeEngine()) as client:
        missing = await client.get("/nothing")
        wrong = await client.get("/transcribe")

    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    for response in (missing, wrong):
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["request_id"] == response.headers["x-request-id"]
