"""The application with a fake engine and decoder, driven over ASGI without a socket."""

import asyncio
import contextlib
import os
import socket
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
from asr_service.protocol import Protocol
from asr_service.server import Server, configuration
from asr_service.settings import Settings
from tests.fakes import FakeDecoder, FakeEngine, FakeListener, nothing_left_behind

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
    listener: FakeListener | None = None,
    page: Page | None = None,
    **others: Any,
) -> FastAPI:
    """The application; uploads of more than `max_upload_mb` MiB are refused. `others` are settings too."""
    settings = Settings(max_upload_mb=max_upload_mb, **others)
    return create_app(
        settings,
        engine,
        decoder,
        metrics or Metrics(),
        listener=listener or FakeListener(),
        page=page or Page(simple_page),
    )


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


@contextlib.asynccontextmanager
async def serving(
    engine: FakeEngine, decoder: FakeDecoder | None = None, protocol: type[Protocol] = Protocol, **others: Any
) -> AsyncIterator[tuple[int, FastAPI]]:
    """The application on a port of its own, as the service serves it. `others`: as for `build`."""
    app = build(engine, decoder or FakeDecoder(), **others)
    server = Server(configuration(app, http=protocol), app.state.parts.admission, 1.0)
    # With the protocol named, as the service has it: asyncio sends small pieces at once only then.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1], app
        finally:
            server.should_exit = True
            await running
