"""W3C Trace Context: within which trace a caller asks. https://www.w3.org/TR/trace-context/

Owns how the header `traceparent` is read. Knows neither spans nor where they go.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

HEADER = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class Ids:
    """A place in a trace: 32 and 16 small hexadecimal digits, neither all zeros."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The caller's span, and whether its trace is recorded."""

    ids: Ids
    sampled: bool


def parse(values: Sequence[str]) -> TraceParent | None:
    """The caller's span from all the fields `traceparent` of a request.

    None when there is no such field, more than one, or one that breaks the rules (section 3.2): a trace begins here
    then. Of versions to come, which may be longer, the known part is read.
    """
    match = _FORM.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(Ids(trace_id, span_id), bool(int(flags, 16) & _SAMPLED))
