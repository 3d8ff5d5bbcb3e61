"""What is known about a request while it is handled.

Owns the record that handlers fill and that the outermost layer logs and counts from.
"""

from dataclasses import dataclass, field

from starlette.types import Scope


@dataclass(slots=True)
class RequestRecord:
    """Facts about one request. Handlers add what they learn; `facts` must hold no audio and no text."""

    request_id: str
    code: str = "ok"
    error: str | None = None
    facts: dict[str, object] = field(default_factory=dict)


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that `scope` belongs to."""
    record: RequestRecord = scope["state"]["record"]
    return record
