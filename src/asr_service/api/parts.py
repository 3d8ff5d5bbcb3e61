"""What the handlers work with, put together once by `create_app`.

Owns nothing but the bundle and the way handlers get at it.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from asr_service.admission import Admission
from asr_service.observability.metrics import Metrics
from asr_service.quotas.callers import Quotas
from asr_service.realtime.surroundings import Listener
from asr_service.service import Engine, Transcriber


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a live session may say nothing, and how long it may last."""

    idle_timeout_s: float
    session_timeout_s: float


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running service that handlers need."""

    engine: Engine
    transcriber: Transcriber
    metrics: Metrics
    admission: Admission
    quotas: Quotas
    max_upload_bytes: int
    model_aliases: tuple[str, ...]
    created: int
    upload_timeout_s: float
    request_timeout_s: float
    listener: Listener
    session_limits: SessionLimits
    allowed_origins: tuple[str, ...]


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(_parts)]
