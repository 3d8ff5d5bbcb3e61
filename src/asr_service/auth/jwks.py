"""An issuer's public keys by network (JSON Web Key Set, RFC 7517).

Owns when they are fetched: kept for a while, fetched again for a key that is not among them, and when the issuer cannot
be reached, the last ones stay in use. Fetching happens in a thread; the event loop never waits.
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

import jwt
import structlog

from asr_service.auth import KeysUnavailable
from asr_service.auth.tokens import VerifyingKey, bound

MAX_AGE_S = 300.0
MIN_INTERVAL_S = 10.0
"""Between two fetches, so that made-up key ids do not become load for the issuer."""
TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
_MAX_KEYS = 64

_log = structlog.stdlib.get_logger("asr_service.auth")
_Keys = dict[str | None, list[VerifyingKey]]


class FetchFailed(Exception):
    """The key set could not be fetched, or is none."""


class JwksKeys:
    """The keys of a key set, by their ids."""

    def __init__(
        self,
        fetch: Callable[[], bytes],
        *,
        clock: Callable[[], float] = time.monotonic,
        max_age_s: float = MAX_AGE_S,
        min_interval_s: float = MIN_INTERVAL_S,
    ) -> None:
        """`fetch` is called in a thread and returns the document. Raises FetchFailed."""
        self._fetch = fetch
        self._clock = clock
        self._max_age_s = max_age_s
        self._min_interval_s = min_interval_s
        self._keys: _Keys = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None

    async def keys(self, algorithm: str, key_id: str | None) -> Sequence[VerifyingKey]:
        """The keys that a token with this header may be signed by. Raises KeysUnavailable."""
        if self._clock() - self._fetched_at >= self._max_age_s:
            task = self._refresh()
            # While the issuer cannot be reached, nobody waits for it as long as there are keys.
            if task is not None and not (self._failing and self._keys):
                await asyncio.shield(task)
        if not self._found(algorithm, key_id):
            task = self._refresh()
            if task is not None:
                await asyncio.shield(task)
        found = self._found(algorithm, key_id)
        if not found and self._failing:
            raise KeysUnavailable(self._min_interval_s)
        return found

    def start(self) -> None:
        """Fetch already now, so that the first request need not wait."""
        self._refresh()

    async def aclose(self) -> None:
        """Wait for a fetch that is going on: its thread cannot be stopped, but is bounded in time."""
        if self._fetching is not None:
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _found(self, algorithm: str, key_id: str | None) -> list[VerifyingKey]:
        named = self._keys.get(key_id, []) if key_id is not None else [k for ks in self._keys.values() for k in ks]
        return [key for key in named if key.algorithm == algorithm]

    def _refresh(self) -> asyncio.Task[None] | None:
        """The fetch that is going on, or a new one unless the last was just now."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if self._clock() - self._tried_at < self._min_interval_s:
            return None
        self._tried_at = self._clock()
        self._fetching = asyncio.create_task(self._fetch_once())
        return self._fetching

    async def _fetch_once(self) -> None:
        try:
            keys = parse(await asyncio.to_thread(self._fetch))
        except FetchFailed as error:
            self._failing = True
            _log.warning("the issuer's keys could not be fetched", error=str(error), known_keys=_count(self._keys))
            return
        if self._failing or _count(keys) != _count(self._keys) or keys.keys() != self._keys.keys():
            _log.info("the issuer's keys were fetched", keys=_count(keys))
        self._keys, self._failing, self._fetched_at = keys, False, self._clock()


def parse(content: bytes) -> _Keys:
    """The keys that may sign tokens, by id; what serves other purposes is left out. Raises FetchFailed."""
    try:
        entries = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FetchFailed("it is not a JSON Web Key Set") from None
    keys: _Keys = defaultdict(list)
    if isinstance(entries, list):
        for entry in entries[:_MAX_KEYS]:
            key = _verifying_key(entry)
            if key is not None:
                key_id = entry.get("kid")
                keys[key_id if isinstance(key_id, str) else None].append(key)
    if not keys:
        raise FetchFailed("there is no key for signatures in it that can be used")
    return dict(keys)


def _verifying_key(entry: Any) -> VerifyingKey | None:
    # `oct` is a secret, which has no place in a public document, and a private key (`d`) has none either.
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or "d" in entry:
        return None
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        return None
    try:
        key = bound(jwt.PyJWK(entry).key)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return key if entry.get("alg", key.algorithm) == key.algorithm else None


def _count(keys: _Keys) -> int:
    return sum(len(named) for named in keys.values())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from the address that was set, or not at all."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def fetcher(url: str) -> Callable[[], bytes]:
    """A function that fetches the document at `url`, bounded in time and size."""
    opener = urllib.request.build_opener(_NoRedirect)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - settings check it

    def fetch() -> bytes:
        deadline, parts, size = time.monotonic() + TIMEOUT_S, [], 0
        try:
            with opener.open(request, timeout=TIMEOUT_S) as response:
                while part := response.read1(65_536):
                    size += len(part)
                    if size > MAX_BYTES or time.monotonic() > deadline:
                        raise FetchFailed("the answer is too large" if size > MAX_BYTES else "the answer is too slow")
                    parts.append(part)
        except urllib.error.HTTPError as error:
            error.close()
            raise FetchFailed(f"the answer has the status {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise FetchFailed(str(error) or type(error).__name__) from None
        return b"".join(parts)

    return fetch
