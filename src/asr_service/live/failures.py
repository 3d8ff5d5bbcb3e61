"""What can end a live session before its time, as sentences for the person who started it.

Owns these sentences. Knows no event and no audio.
"""

import contextlib
import json
import os
import ssl

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

_SHOWN_CHARACTERS = 500


class LiveFailed(Exception):
    """The session has failed; the message is a sentence, or two, on why and what to do."""


def printable(text: str) -> str:
    """Text of others without what could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def unreachable(url: str, error: OSError | InvalidHandshake) -> LiveFailed:
    """There is no connection. `url`: what was asked for."""
    if isinstance(error, InvalidStatus):
        return _refused(url, error)
    if isinstance(error, InvalidHandshake):
        return LiveFailed(f"What answers at {url} is no WebSocket: --url should be the address of asr-service.")
    if isinstance(error, ssl.SSLCertVerificationError):
        return LiveFailed(f"The certificate of {url} is not trusted: {error.verify_message}.")
    advice = "`asr-service serve` starts the service, --url says where it is"
    return LiveFailed(f"{url} cannot be reached: {_reason(error)}; {advice}.")


def broken_off(closed: ConnectionClosed) -> LiveFailed:
    """The connection has ended, and the service has not said why."""
    reason = closed.rcvd.reason if closed.rcvd is not None else ""
    why = f": {printable(reason[:_SHOWN_CHARACTERS])}" if reason else ""
    return LiveFailed(f"The service has ended the connection before its last answer{why}. Start again when it is back.")


def refused_by(code: str, message: str) -> LiveFailed:
    """The service has said what is wrong, in an `error` event."""
    advice = {
        "shutting_down": "",
        "engine_not_ready": "Start again when the model is loaded.",
        "overloaded": "Try again later.",
        "rate_limited": "Try again later.",
        "session_expired": "Start again.",
    }.get(code, "")
    return LiveFailed(" ".join(part for part in (printable(message[:_SHOWN_CHARACTERS]), advice) if part))


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        # asyncio's own words name the address once more.
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__


def _refused(url: str, error: InvalidStatus) -> LiveFailed:
    status, headers = error.response.status_code, error.response.headers
    if 300 <= status < 400:
        where = printable(headers.get("location", "somewhere else")[:_SHOWN_CHARACTERS])
        return LiveFailed(f"{url} leads to {where}: give that address with --url.")
    said = _detail(error.response.body)
    advice = {
        401: " Give a key with --api-key-file or LIVE_API_KEY.",
        403: " Use a key with the scope `transcribe`.",
        404: " Is this the address of asr-service?",
    }.get(status, "")
    return LiveFailed(f"The service has refused the connection ({status}){f': {said}' if said else ''}.{advice}")


def _detail(body: bytes | bytearray | None) -> str:
    problem = None
    with contextlib.suppress(ValueError):
        problem = json.loads(body or b"")
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return printable(str(detail)[:_SHOWN_CHARACTERS]).rstrip(".") if detail else ""
