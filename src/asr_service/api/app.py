"""The HTTP application: routes, errors, and the life of the engine and the decoder behind them.

Owns how the parts are wired to FastAPI and when they start and stop. Builds none of them: they are passed in.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import structlog
from fastapi import FastAPI

import asr_service
from asr_service.admission import Admission
from asr_service.api import health, openai, openapi, problems, transcribe
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
    admission = Admission(
        max_requests=settings.max_queue, max_audio_s=settings.max_queue_audio_s, on_refused=metrics.refused
    )
    metrics.watch_ready(lambda: engine.not_ready_reason is None and not admission.closed)
    metrics.watch_queue(lambda: admission.requests, lambda: admission.audio_s)
    app.state.parts = Parts(
        engine=engine,
        transcriber=transcriber,
        metrics=metrics,
        admission=admission,
        max_upload_bytes=settings.max_upload_bytes,
        model_aliases=settings.other_model_names,
        created=int(time.time()),
        upload_timeout_s=settings.upload_timeout_s,
        request_timeout_s=settings.request_timeout_s,
    )
    app.include_router(transcribe.router)
    app.include_router(openai.router)
    app.include_router(health.router)
    app.add_middleware(RequestContext, metrics=metrics, admission=admission)
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
