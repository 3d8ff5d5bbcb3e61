"""Probes and metrics.

Owns what "alive" and "ready" mean over HTTP: alive says that this process answers, whatever the engine does; ready
says that the engine serves windows right now.
"""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse

from asr_service.api.auth import METRICS
from asr_service.api.openapi import problem_responses
from asr_service.api.parts import PartsDep
from asr_service.api.schemas import LiveReply, NotReadyReply, ReadyReply
from asr_service.errors import EngineCrashed, EngineNotReady, Overloaded, ShuttingDown, Unavailable

router = APIRouter(tags=["operations"])
# Reading the metrics takes no model and no place in the queue.
_NEVER = (Unavailable, Overloaded, ShuttingDown, EngineNotReady, EngineCrashed)


@router.get("/livez", summary="Is the process alive?")
async def livez(response: Response) -> LiveReply:
    """Always 200, at once. For liveness probes: it does not depend on the engine, so a busy or loading engine does not
    get the service killed.
    """
    response.headers["Cache-Control"] = "no-store"
    return LiveReply()


@router.get(
    "/readyz",
    summary="Can it transcribe now?",
    response_model=ReadyReply,
    responses={
        503: {
            "model": NotReadyReply,
            "description": "The model is loading, the engine is restarting or keeps dying, or the service is "
            "shutting down.",
        }
    },
)
async def readyz(parts: PartsDep) -> JSONResponse:
    """200 when the engine has loaded and warmed up its model and is alive, else 503 with the reason. For readiness
    probes and load balancers.
    """
    reason, model = parts.engine.not_ready_reason, parts.engine.model
    if parts.admission.closed:
        reason = "the service is shutting down"
    reply: ReadyReply | NotReadyReply
    if reason is not None or model is None:
        reply, status = NotReadyReply(reason=reason or "the model is loading"), 503
    else:
        reply, status = ReadyReply(model=model.name), 200
    return JSONResponse(reply.model_dump(), status, {"Cache-Control": "no-store"})


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    dependencies=METRICS,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problem_responses(401, 403, 429, 503, without=_NEVER),
    },
)
async def metrics(parts: PartsDep) -> Response:
    """All metrics in Prometheus' text format; `docs/metrics.md` describes them."""
    return Response(parts.metrics.render(), media_type=CONTENT_TYPE_LATEST)
