"""The HTTP application: routes, errors, and the life of the engine and the decoder behind them.

Owns how the parts are wired to FastAPI and when they start and stop. Builds none of them: they are passed in.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI

import asr_service
from asr_service.admission import Admission
from asr_service.api import auth, docs, headers, health, openai, openapi, problems, realtime, transcribe
from asr_service.api.middleware import RequestContext
from asr_service.api.parts import Parts, SessionLimits
from asr_service.api.ui import routes as ui
from asr_service.api.ui.page import Page, render_in_child
from asr_service.callers import CallerLimits
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import NO_TRACES, Tracer
from asr_service.quotas.callers import Quotas
from asr_service.quotas.logins import FailedLogins
from asr_service.quotas.memory import MemoryStore
from asr_service.quotas.outage import OutageProofStore
from asr_service.quotas.stores import Store
from asr_service.realtime.surroundings import Listener
from asr_service.service import Decoder, Engine, Transcriber
from asr_service.settings import Settings, decoder_environment

if TYPE_CHECKING:
    from asr_service.auth.authenticator import Authenticator

_log = structlog.stdlib.get_logger("asr_service")


def create_app(
    settings: Settings,
    engine: Engine,
    decoder: Decoder,
    metrics: Metrics,
    *,
    listener: Listener,
    tracer: Tracer = NO_TRACES,
    page: Page | None = None,
    on_load_failed: Callable[[Exception], None] = lambda error: None,
) -> FastAPI:
    """The service on `engine`, `decoder` and `listener`, which it starts and stops with its own lifespan. It closes
    `tracer` too.

    Raises AuthUnusable when the files that callers are checked by cannot be used.

    `on_load_failed` is told why there will be no model (ModelUnavailable, or whatever went wrong); end the server then.
    `page`: the web page, where it is not the usual one; it is closed too.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            # The first to come, and so the last to go: it hears of all that the others do.
            stack.push_async_callback(tracer.aclose)
            stack.push_async_callback(web_page.aclose)
            if authenticator is not None:
                stack.push_async_callback(authenticator.aclose)
                authenticator.start()
            stack.push_async_callback(store.aclose)
            await store.start()
            # The engine first: its model loads while the decode workers start.
            stack.push_async_callback(engine.aclose)
            await engine.start()
            stack.push_async_callback(decoder.aclose)
            await decoder.start()
            stack.push_async_callback(listener.aclose)
            loading = asyncio.create_task(_announce(engine, metrics, on_load_failed))
            try:
                yield
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)

    # It needs as little of the environment as a decode worker.
    web_page = page or Page(functools.partial(render_in_child, decoder_environment()))
    authenticator = _authenticator(settings)
    store = _limit_store(settings, metrics)
    app = FastAPI(
        title="asr-service",
        version=asr_service.__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        # Served by `docs`; Swagger UI would come from somebody else's server otherwise.
        docs_url=None,
        redoc_url=None,
        # A redirect would repeat whatever host the request named, and a proxy's rules for a path must mean that path.
        redirect_slashes=False,
        # FastAPI's own spans know nothing of the stages, and its logs hold what callers wrote.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    transcriber = Transcriber(
        engine,
        decoder,
        windows_in_flight=settings.windows_in_flight,
        on_guard=metrics.guard_hit,
        on_unaligned=metrics.words_unaligned,
    )
    app.state.parts = parts = _parts(settings, engine, listener, transcriber, metrics, store)
    failed_logins = FailedLogins(settings.rate_limit.failed_logins_per_minute, store, on_limited=metrics.rate_limited)
    app.state.gate = auth.Gate(authenticator, metrics, failed_logins)
    _add_routes(app, web_page if settings.ui else None)
    app.add_middleware(RequestContext, metrics=metrics, admission=parts.admission, tracer=tracer)
    headers.install(app, settings.allowed_origins)
    problems.install(app)
    openapi.install(app)
    return app


def _parts(
    settings: Settings, engine: Engine, listener: Listener, transcriber: Transcriber, metrics: Metrics, store: Store
) -> Parts:
    """What handlers work with; `metrics` watch it from now on."""
    admission = Admission(
        max_requests=settings.max_queue,
        max_audio_s=settings.max_queue_audio_s,
        max_sessions=settings.realtime.max_sessions,
        on_refused=metrics.refused,
    )
    metrics.watch_ready(lambda: engine.not_ready_reason is None and not admission.closed)
    metrics.watch_queue(lambda: admission.requests, lambda: admission.audio_s, lambda: transcriber.oldest_wait_s)
    limits = settings.rate_limit
    return Parts(
        engine=engine,
        transcriber=transcriber,
        metrics=metrics,
        admission=admission,
        quotas=Quotas(
            CallerLimits(
                requests_per_minute=limits.requests_per_minute,
                audio_s_per_minute=limits.audio_s_per_minute,
                audio_s_per_day=limits.audio_s_per_day,
                concurrent=limits.concurrent,
            ),
            store,
            on_limited=metrics.rate_limited,
        ),
        max_upload_bytes=settings.max_upload_bytes,
        model_aliases=settings.other_model_names,
        created=int(time.time()),
        upload_timeout_s=settings.upload_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        listener=listener,
        session_limits=SessionLimits(settings.realtime.idle_timeout_s, settings.realtime.session_timeout_s),
        allowed_origins=settings.allowed_origins,
    )


def _add_routes(app: FastAPI, page: Page | None) -> None:
    app.include_router(auth.router)
    app.include_router(transcribe.router)
    app.include_router(openai.router)
    app.include_router(realtime.router)
    app.include_router(health.router)
    app.include_router(docs.router)
    if page is not None:
        ui.install(app, page)


def _authenticator(settings: Settings) -> "Authenticator | None":
    """What callers are checked by, if they are. Raises AuthUnusable."""
    if settings.auth.mode == "none":
        return None
    # Cryptography, like Redis below, takes memory and time at the start: only where it is used.
    from asr_service.auth.authenticator import AuthConfig, Authenticator

    jwt = settings.auth.jwt
    return Authenticator(
        AuthConfig(
            keys_file=settings.auth.keys_file,
            secret=jwt.secret.get_secret_value() if jwt.secret is not None else None,
            public_key_file=jwt.public_key_file,
            jwks_url=jwt.jwks_url,
            issuer=jwt.issuer,
            audience=jwt.audience,
            leeway_s=jwt.leeway_s,
            lifetime_s=jwt.lifetime_s,
        )
    )


def _limit_store(settings: Settings, metrics: Metrics) -> Store:
    """Where limits are counted."""
    if settings.redis_url is None:
        return MemoryStore()
    from asr_service.quotas.shared import RedisStore

    store = OutageProofStore(
        RedisStore(settings.redis_url.get_secret_value()),
        MemoryStore(),
        on_failure=settings.rate_limit.on_store_failure,
        on_failed=metrics.limit_store_failed,
    )
    metrics.watch_limit_store(lambda: store.up)
    return store


async def _announce(engine: Engine, metrics: Metrics, on_load_failed: Callable[[Exception], None]) -> None:
    try:
        await engine.wait_ready()
    except Exception as error:  # noqa: BLE001 - whatever it is, there will be no model: the caller ends the service
        on_load_failed(error)
        return
    model = engine.model
    assert model is not None, "an engine that is ready has a model"
    metrics.engine().model_loaded(model)
    _log.info(
        "ready",
        model=model.name,
        device=model.device,
        dtype=model.dtype,
        slots=model.slots,
        load_s=round(model.load_s, 1),
    )
