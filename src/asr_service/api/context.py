"""What is known about a request while it is handled.

Owns the record that handlers fill and that the outermost layer logs and counts from.
"""

from dataclasses import dataclass, field

from starlette.types import Scope

from asr_service.callers import Caller
from asr_service.observability.traces import NO_SPAN, Span


@dataclass(slots=True)
class RequestRecord:
    """Facts about one request. Handlers add what they learn; `facts` must hold no audio and no text."""

    request_id: str
    code: str = "ok"
    error: str | None = None
    caller: Caller | None = None
    facts: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    """Fields that the answer will have, whatever it is."""
    span: Span = NO_SPAN
    """The request in its trace."""


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that `scope` belongs to."""
    record: RequestRecord = scope["state"]["record"]
    return record
