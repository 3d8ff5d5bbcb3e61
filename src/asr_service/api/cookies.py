"""The cookie of the web page: how it is named, set and deleted, and for which requests it counts as a credential.

Owns the rule that keeps other sites from using it. Must not know whether what it holds is valid: that is the gate's
business.
"""

import re
from typing import Literal
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

PAGE = "/ui"
LOGIN = f"{PAGE}/login"
_NAME = "asr_credential"
_SAFE_NAME = f"__Host-{_NAME}"
"""With this prefix browsers take the cookie over HTTPS only, and from this very host only: no sibling can plant one."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
MAX_CREDENTIAL_CHARACTERS = 3800
"""Browsers drop a cookie of more than 4,096 bytes without a word."""
_SAME_SITE: Literal["strict"] = "strict"
_CREDENTIAL = re.compile(r"[A-Za-z0-9._~+/=-]+")


def fits(credential: str) -> bool:
    """Whether a credential can be kept in the cookie, as every API key and every usual token can."""
    return len(credential) <= MAX_CREDENTIAL_CHARACTERS and _CREDENTIAL.fullmatch(credential) is not None


def credentials(connection: HTTPConnection) -> set[str]:
    """What the cookie adds to the credentials of a request: several, if somebody has set several.

    A browser sends it whatever page makes the request. So it counts under /ui, where there is nothing to gain for
    another site, and elsewhere only when the browser says that the page itself asks. Never for a login, which brings a
    credential of its own.
    """
    path = connection.scope["path"]
    under_page = path == PAGE or path.startswith(f"{PAGE}/")
    if path == LOGIN or not (under_page or from_own_page(connection)):
        return set()
    return _values(connection)


def is_sent(connection: HTTPConnection) -> bool:
    """Whether the browser has a cookie at all."""
    return bool(_values(connection))


def from_own_page(connection: HTTPConnection) -> bool:
    """Whether the header Origin names the host and port that the request is for: a page of this service asks."""
    origins, hosts = connection.headers.getlist("origin"), connection.headers.getlist("host")
    if len(origins) != 1 or len(hosts) != 1:
        return False
    try:
        origin, host = urlsplit(origins[0]), urlsplit(f"//{hosts[0]}")
        port = _DEFAULT_PORTS.get(origin.scheme)
        if port is None or not origin.hostname or f"{origin.scheme}://{origin.netloc}" != origins[0]:
            return False
        if origin.username is not None or host.netloc != hosts[0] or host.username is not None:
            return False
        # TLS may end at a proxy, so the scheme that counts for the default is the one that the browser sees.
        return (origin.hostname, origin.port or port) == (host.hostname, host.port or port)
    except ValueError:
        return False


def set_on(response: Response, connection: HTTPConnection, credential: str) -> None:
    """Keep `credential` in the browser until it is closed: nothing is kept here, so every replica knows it."""
    assert fits(credential)
    response.set_cookie(
        _name(connection), credential, path="/", secure=_secure(connection), httponly=True, samesite=_SAME_SITE
    )


def delete_on(response: Response, connection: HTTPConnection) -> None:
    """Have the browser forget the cookie."""
    response.delete_cookie(_name(connection), path="/", secure=_secure(connection), httponly=True, samesite=_SAME_SITE)


def _secure(connection: HTTPConnection) -> bool:
    return connection.scope["scheme"] in ("https", "wss")


def _name(connection: HTTPConnection) -> str:
    return _SAFE_NAME if _secure(connection) else _NAME


def _values(connection: HTTPConnection) -> set[str]:
    """All values under the cookie's name. Starlette's own reading would silently take the last one."""
    name = _name(connection)
    found: set[str] = set()
    for header in connection.headers.getlist("cookie"):
        for pair in header.split(";"):
            key, _, value = pair.strip().partition("=")
            if key.strip() == name and value.strip():
                # Quotes are what `set_cookie` puts around characters such as "/" and "=".
                found.add(value.strip().strip('"'))
    return found
