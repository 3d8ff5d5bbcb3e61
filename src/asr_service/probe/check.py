"""What it means that a service is well: it is ready, and it understands a sentence in time.

Owns the sample and its text, the order of the questions, and the sentences on what is wrong.
"""

import http.client
import re
import ssl
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_service.probe.http import Answer, Target, request, within

SAMPLE = Path(__file__).with_name("sample.flac")
"""4.5 s of synthetic speech; docs/probe.md tells how it was made."""
EXPECTED = "Good morning. Please open the window and let the fresh air into the room."

_SHOWN_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Bounds:
    """What still counts as well. `error_rate`: word errors per word of the sample, from 0 to 1."""

    timeout_s: float = 30.0
    transcription_s: float = 15.0
    error_rate: float = 0.2


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `error` is a sentence, and None where all is well.

    `ready` is None where /readyz cannot be asked; `text` and `word_error_rate` are None where nothing was transcribed.
    `seconds` is the time of the last request, `status` its HTTP status; None without an answer.
    """

    ok: bool = False
    status: int | None = None
    ready: bool | None = None
    text: str | None = None
    expected: str | None = None
    word_error_rate: float | None = None
    seconds: float = 0.0
    request_id: str = field(default_factory=lambda: f"probe-{uuid.uuid4().hex}")
    error: str | None = None


def check(asked: Target, bounds: Bounds, *, ready_only: bool = False) -> Report:
    """Ask whether the service is ready and, unless `ready_only`, let it transcribe the sample. Main thread only."""
    report = Report(expected=None if ready_only else EXPECTED)
    started = time.monotonic()
    try:
        with within(bounds.timeout_s):
            report = _readiness(asked, report, ready_only)
            if ready_only or report.error is not None:
                return replace(report, seconds=_since(started))
            started = time.monotonic()
            answer = request(asked, "POST", "/transcribe?language=en", report.request_id, SAMPLE.read_bytes())
    except (OSError, http.client.HTTPException) as error:
        return replace(report, status=None, seconds=_since(started), error=_unreachable(error))
    report = replace(report, status=answer.status, seconds=_since(started))
    return _judge(replace(report, request_id=answer.headers.get("x-request-id", report.request_id)), answer, bounds)


def error_rate(expected: str, text: str) -> float:
    """Word errors (substitutions, deletions, insertions) per word of `expected`, without regard to case and marks."""
    reference, heard = _words(expected), _words(text)
    row = list(range(len(heard) + 1))
    for count, word in enumerate(reference, 1):
        above, row = row, [count]
        for place, other in enumerate(heard, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (word != other)))
    return row[-1] / len(reference)


def _readiness(asked: Target, report: Report, ready_only: bool) -> Report:
    answer = request(asked, "GET", "/readyz", report.request_id)
    report = replace(report, status=answer.status)
    if answer.status == 200:
        return replace(report, ok=ready_only, ready=True)
    if answer.status == 503:
        reason = answer.body.get("reason") or _detail(answer.body)
        return replace(report, ready=False, error=f"It is not ready{_because(reason)}.")
    # A proxy may keep this path to itself: then only a transcription can tell.
    return replace(report, error=_refusal(answer) if ready_only or 300 <= answer.status < 400 else None)


def _judge(report: Report, answer: Answer, bounds: Bounds) -> Report:
    text = answer.body.get("text")
    if answer.status != 200:
        return replace(report, error=_refusal(answer))
    if not isinstance(text, str):
        return replace(report, error="The answer is not a transcript: is this address that of asr-service?")
    rate = error_rate(EXPECTED, text)
    report = replace(report, text=text[:_SHOWN_CHARACTERS], word_error_rate=round(rate, 3))
    if rate > bounds.error_rate:
        return replace(report, error=f"The text is wrong in {rate:.0%} of its words ({bounds.error_rate:.0%} may be).")
    if report.seconds > bounds.transcription_s:
        return replace(report, error=f"It took {report.seconds:g} s ({bounds.transcription_s:g} s may be).")
    return replace(report, ok=True)


def _refusal(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        where = answer.headers.get("location", "somewhere else")
        return f"It leads to {where[:_SHOWN_CHARACTERS]}: probe that address."
    return f"It answered {answer.status}{_because(_detail(answer.body))}."


def _detail(body: Mapping[str, Any]) -> object:
    return body.get("detail") or body.get("code")


def _because(reason: object) -> str:
    return f": {str(reason)[:_SHOWN_CHARACTERS].rstrip('.')}" if reason else ""


def _unreachable(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Its certificate is not trusted: {error.verify_message}."
    known = error.strerror if isinstance(error, OSError) else None
    return f"It cannot be reached: {known or str(error) or type(error).__name__}."


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
