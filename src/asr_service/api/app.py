"""The HTTP application: routes, errors, and the life of the engine and the decoder behind them.

Owns how the parts are wired to FastAPI and when they start and stop. Builds none of them: they are passed in.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog
from fastapi import FastAPI

import asr_service
from asr_service.api import health, openapi, problems, transcribe
from asr_service.api.middleware import RequestContext
from asr_service.api.parts import Parts
from asr_service.observability.metrics import Metrics
from asr_service.service import Decoder, Engine, Transcriber
from asr_service.settings import Settings

_log = structlog.stdlib.get_logger("asr_service")


def create_app(
    settings: Settings,
    engine: Engine,
    decoder: Decoder,
    metrics: Metrics,
    *,
    on_load_failed: Callable[[Exception], None] = lambda error: None,
) -> FastAPI:
    """The service on `engine` and `decoder`, which it starts and stops with its own lifespan.

    `on_load_failed` is told why there will be no model (ModelUnavailable, or whatever went wrong); end the server then.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            # The engine first: its model loads while the decode workers start.
            stack.push_async_callback(engine.aclose)
            await engine.start()
            stack.push_async_callback(decoder.aclose)
            await decoder.start()
            loading = asyncio.create_task(_announce(engine, metrics, on_load_failed))
            try:
                yield
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)

    app = FastAPI(
        title="asr-service",
        version=asr_service.__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    transcriber = Transcriber(engine, decoder, windows_in_flight=settings.windows_in_flight, on_guard=metrics.guard_hit)
    metrics.watch_ready(lambda: engine.not_ready_reason is None)
    app.state.parts = Parts(engine, transcriber, metrics, settings.max_upload_bytes)
    app.include_router(transcribe.router)
    app.include_router(health.router)
    app.add_middleware(RequestContext, metrics=metrics)
    problems.install(app)
    openapi.install(app)
    return app


async def _announce(engine: Engine, metrics: Metrics, on_load_failed: Callable[[Exception], None]) -> None:
    try:
        await engine.wait_ready()
    except Exception as error:  # noqa: BLE001 - whatever it is, there will be no model: the caller ends the service
        on_load_failed(error)
        return
    model = engine.model
    assert model is not None, "an engine that is ready has a model"
    metrics.model_loaded(model)
    _log.info(
        "ready",
        model=model.name,
        device=model.device,
        dtype=model.dtype,
        slots=model.slots,
        load_s=round(model.load_s, 1),
    )
