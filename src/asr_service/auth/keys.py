"""API keys: what one looks like, the file that holds their hashes, and checking against it.

Owns the format of the key file and that a running service notices its changes. Making and revoking keys is
`key_store`'s business.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from asr_service.auth import AuthUnusable, Refused
from asr_service.auth.grants import Limits
from asr_service.callers import Caller, Scope

PREFIX = "asr_"
FORMAT_VERSION = 1
_SECRET_BYTES = 32
_RELOAD_INTERVAL_S = 1.0
# The id in it tells which key leaked, and finds the entry without comparing anything secret.
_KEY = re.compile(PREFIX + r"([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_NO_HASH = "0" * 64

_log = structlog.stdlib.get_logger("asr_service.auth")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry of the key file. The key itself is not in it: `sha256` is its hash, in hexadecimal digits."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    revoked: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    limits: Limits = Limits()

    def state(self, now: datetime) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"

    def caller(self) -> Caller:
        return Caller(f"key:{self.name}", frozenset(self.scopes), self.limits.as_caller_limits())


class KeyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key file as a whole."""

    version: Annotated[int, msgspec.Meta(ge=FORMAT_VERSION, le=FORMAT_VERSION)] = FORMAT_VERSION
    keys: tuple[ApiKey, ...] = ()


def new_key() -> tuple[str, str]:
    """A new key and its id."""
    key_id = secrets.token_hex(4)
    return f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}", key_id


def hash_of(key: str) -> str:
    """What the key file holds of a key. A plain hash is enough: nobody guesses 32 random bytes."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse(content: bytes, path: Path) -> KeyDocument:
    """The key file's content. Raises AuthUnusable, without quoting the file."""
    try:
        document = msgspec.json.decode(content, type=KeyDocument)
    except msgspec.MsgspecError as error:
        raise AuthUnusable(f"{path} is not a key file: {error}.") from None
    except UnicodeDecodeError:
        raise AuthUnusable(f"{path} is not a key file: it is not UTF-8 text.") from None
    if len({key.id for key in document.keys}) < len(document.keys):
        raise AuthUnusable(f"{path} is not a key file: two keys have the same id.")
    return document


class KeyFile:
    """The keys of a file, read again when it changes. A file that cannot be used keeps what was read before."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Reads the file. Raises AuthUnusable when it is not there or cannot be used."""
        self._path = path
        self._clock = clock
        self._now = now
        self._seen: tuple[int, ...] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._load()
        self._next_look = clock() + _RELOAD_INTERVAL_S

    async def check(self, key: str) -> ApiKey:
        """The entry of `key`. Raises Refused."""
        if self._clock() >= self._next_look:
            # Set first, so that requests that come meanwhile do not look too.
            self._next_look = self._clock() + _RELOAD_INTERVAL_S
            await asyncio.to_thread(self._reload)
        match = _KEY.fullmatch(key)
        if match is None:
            raise Refused("malformed", "not the form of an API key")
        entry = self._keys.get(match[1])
        matches = hmac.compare_digest(hash_of(key), entry.sha256 if entry else _NO_HASH)
        if entry is None or not matches:
            raise Refused("unknown", "no such API key")
        state = entry.state(self._now())
        if state == "revoked":
            raise Refused("revoked", f"the API key {entry.name!r} ({entry.id}) is revoked")
        if state == "expired":
            raise Refused("expired", f"the API key {entry.name!r} ({entry.id}) has expired")
        return entry

    def _reload(self) -> None:
        try:
            changed = self._load()
        except AuthUnusable as error:
            _log.error("key file cannot be used, the keys known before stay valid", error=str(error))
        else:
            if changed:
                _log.info("key file read again", path=str(self._path), keys=len(self._keys))

    def _load(self) -> bool:
        """Read the file if it is another than before. A broken one is looked at once, until it changes again."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return False
            content = self._path.read_bytes()
        except OSError as error:
            if self._seen == ():
                return False
            self._seen = ()
            raise AuthUnusable(
                f"{self._path}: {error.strerror}. `asr-service keys create` makes the file with its first key."
            ) from None
        self._seen = seen
        self._keys = {key.id: key for key in parse(content, self._path).keys}
        return True
