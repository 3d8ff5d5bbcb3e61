"""The application with a fake engine and decoder, driven over ASGI without a socket."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from asr_service.api.app import create_app
from asr_service.api.ui.page import Page, Rendered
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings
from tests.fakes import FakeDecoder, FakeEngine, nothing_left_behind

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def log_lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged, as dictionaries."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
async def no_leaks(
    log_lines: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[None]:
    """No open file, task or temporary file may be left by a test. Uploads go to a folder of the test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with nothing_left_behind():
        yield
    assert os.listdir(tmp_path) == []


async def simple_page() -> Rendered:
    """A page that takes no time to render."""
    return Rendered.build("<!DOCTYPE html><script>start()</script>", "body { margin: 0 }")


def build(
    engine: FakeEngine,
    decoder: FakeDecoder,
    metrics: Metrics | None = None,
    max_upload_mb: int = 1,
    page: Page | None = None,
    **others: Any,
) -> FastAPI:
    """The application; uploads of more than `max_upload_mb` MiB are refused. `others` are settings too."""
    settings = Settings(max_upload_mb=max_upload_mb, **others)
    return create_app(settings, engine, decoder, metrics or Metrics(), page=page or Page(simple_page))


@pytest.fixture
def serve(no_leaks: None) -> Serve:
    """A client of the application: `async with serve(engine, decoder) as client`."""

    @contextlib.asynccontextmanager
    async def running(
        engine: FakeEngine,
        decoder: FakeDecoder | None = None,
        metrics: Metrics | None = None,
        max_upload_mb: int = 1,
        **others: Any,
    ) -> AsyncIterator[httpx.AsyncClient]:
        app = build(engine, decoder or FakeDecoder(), metrics, max_upload_mb, **others)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://asr") as client,
        ):
            yield client

    return running
