"""A model that takes its time: the service is alive all the while, and ready in the end."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from asr_service.api.app import create_app
from asr_service.engine.client import EngineClient
from asr_service.engine.messages import EngineConfig
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings
from tests.fakes import FakeDecoder, FakeListener, nothing_left_behind

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.anyio


async def test_a_model_that_loads_slowly_never_fails_liveness(tmp_path: Path) -> None:
    """A real process loads for as long as nobody opens the pipe that it waits at."""
    os.mkfifo(tmp_path / "go")
    engine = EngineClient(
        EngineConfig("slow", cache_dir=str(tmp_path)),
        {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        module="tests.unit.engine.scripted_process",
    )
    failures: list[Exception] = []
    app = create_app(
        Settings(), engine, FakeDecoder(), Metrics(), listener=FakeListener(), on_load_failed=failures.append
    )
    async with (
        nothing_left_behind(),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://asr") as client,
    ):
        # Returns as soon as the process waits at the other end, which is in the middle of its loading.
        pipe = await asyncio.to_thread(os.open, tmp_path / "go", os.O_WRONLY)
        try:
            for _ in range(20):
                assert (await client.get("/livez")).status_code == 200
                ready = await client.get("/readyz")
                assert (ready.status_code, ready.json()["reason"]) == (503, "the model is loading")
            refused = await client.post("/transcribe", content=b"RIFF")
            assert (refused.status_code, refused.json()["code"]) == (503, "engine_not_ready")
        finally:
            os.close(pipe)
        await engine.wait_ready()
        assert (await client.get("/readyz")).status_code == 200
    assert failures == []
