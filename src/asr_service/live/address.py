"""Where the service is, and with which key it is asked.

Owns checks of what the command is given, and the address of the WebSocket that follows from it.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


@dataclass(frozen=True, slots=True)
class Address:
    """`url` is that of the WebSocket, `api_key` may be empty."""

    url: str
    api_key: str = field(default="", repr=False)


def address(url: str, api_key: str = "") -> Address:
    """Check the service's base address and the key. Raises ValueError with a sentence on what is wrong."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no address: {error}.") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"{url!r} should be the service's address, such as http://127.0.0.1:8000.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("The address should hold no user name, no query and no fragment.")
    if not re.fullmatch(r"[!-~]*", url):
        raise ValueError(f"{url!r} should have neither spaces nor characters beyond ASCII.")
    if not re.fullmatch(r"[!-~]*", api_key):
        raise ValueError("An API key has neither spaces nor characters beyond ASCII.")
    # OpenAI's clients are given the address with /v1, others perhaps that of the WebSocket itself.
    base = parts.path.rstrip("/").removesuffix("/realtime").removesuffix("/v1")
    return Address(f"{_SCHEMES[parts.scheme]}://{parts.netloc}{base}/v1/realtime", api_key)
