"""One HTTP request after the other to one address, and nothing that a probe must not do.

Owns addresses, TLS and the time limit. Follows no redirects and uses no proxy of the environment: the answer must come
from the address that was asked, and a key must not travel further.
"""

import contextlib
import http.client
import json
import re
import signal
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from asr_service import __version__

_ANSWER_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask. `base` is the path before the service's own, without a slash at its end."""

    host: str
    port: int | None
    base: str = ""
    tls: ssl.SSLContext | None = None
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `body` is empty where it is no JSON object."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def target(url: str, api_key: str = "", *, ca_file: Path | None = None, insecure: bool = False) -> Target:
    """Check `url`, the service's base address, and the rest. Raises ValueError with a sentence on what is wrong.

    `insecure` takes any certificate, `ca_file` those signed by an authority in that PEM file.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no address: {error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} should be the service's address, such as http://127.0.0.1:8000.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("The address should hold no user name, no query and no fragment.")
    if not re.fullmatch(r"[!-~]*", api_key):
        raise ValueError("An API key has neither spaces nor characters beyond ASCII.")
    tls = _tls(ca_file, insecure) if parts.scheme == "https" else None
    return Target(parts.hostname, port, parts.path.rstrip("/"), tls, api_key)


def request(asked: Target, method: str, path: str, request_id: str, body: bytes | None = None) -> Answer:
    """Send one request. Raises OSError or http.client.HTTPException when there is no answer."""
    headers = {"Accept": "application/json", "User-Agent": f"asr-service-probe/{__version__}", "Connection": "close"}
    headers["X-Request-ID"] = request_id
    if asked.api_key:
        headers["Authorization"] = f"Bearer {asked.api_key}"
    if body is not None:
        headers["Content-Type"] = "audio/flac"
    connection = (
        http.client.HTTPConnection(asked.host, asked.port)
        if asked.tls is None
        else http.client.HTTPSConnection(asked.host, asked.port, context=asked.tls)
    )
    with contextlib.closing(connection):
        connection.request(method, asked.base + path, body, headers)
        with connection.getresponse() as response:
            content = response.read(_ANSWER_LIMIT_BYTES)
            lower = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, lower, _json_object(content))


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Raises TimeoutError in the block after `limit_s` seconds, whatever it waits for. In the main thread only.

    A socket's own timeout begins anew with every byte, and would let a service that trickles go on for ever.
    """

    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"there was no answer within {limit_s:g} s")

    handler = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def _tls(ca_file: Path | None, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ValueError(f"{ca_file}: {error.strerror or 'it is not PEM of certificates'}.") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _json_object(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
