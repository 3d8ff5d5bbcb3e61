"""Bearer tokens (JWT): checked and issued.

Owns which algorithm goes with which key, and which claims a token must have. Where an issuer's keys come from by
network is `jwks`'s business.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from asr_service.auth import AuthUnusable, Refused
from asr_service.auth.grants import Limits, known_scopes, limits_to_json
from asr_service.callers import Caller

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
MIN_RSA_BITS = 2048
LIMITS_CLAIM = "asr_limits"
"""Limits of the token's own, as in the key file: {"requests_per_minute": 10}."""
CALLER_CLAIM = "asr_caller"
"""In tokens of our own: the name of the key that they were made from, with which they share its limits."""
_MAX_TOKEN_CHARS = 16_384
_MAX_NAME_CHARS = 128
_MAX_DETAIL_CHARS = 120


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key and the one algorithm that it may be used with, whatever a token says.

    `own`: made from our secret, so that its tokens may name the key that they stand for.
    """

    key: Any
    algorithm: str
    own: bool = False


class KeySource(Protocol):
    """Where keys come from that can change while the service runs."""

    async def keys(self, algorithm: str, key_id: str | None) -> Sequence[VerifyingKey]:
        """The keys that a token with this header may be signed by. Raises KeysUnavailable."""


def bound(public_key: object) -> VerifyingKey:
    """`public_key` with the algorithm of its kind. Raises ValueError for kinds that are not allowed."""
    match public_key:
        case rsa.RSAPublicKey():
            if public_key.key_size < MIN_RSA_BITS:
                raise ValueError(f"an RSA key should have at least {MIN_RSA_BITS} bits, not {public_key.key_size}")
            return VerifyingKey(public_key, "RS256")
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return VerifyingKey(public_key, "ES256")
        case ed25519.Ed25519PublicKey():
            return VerifyingKey(public_key, "EdDSA")
    raise ValueError("it is neither an RSA, a P-256 nor an Ed25519 key")


def from_secret(secret: str) -> VerifyingKey:
    """The key of tokens that this service, or whoever shares its secret, has signed."""
    return VerifyingKey(secret.encode(), "HS256", own=True)


def from_pem_file(path: Path) -> VerifyingKey:
    """The public key in a PEM file. Raises AuthUnusable."""
    try:
        return bound(load_pem_public_key(path.read_bytes()))
    except OSError as error:
        raise AuthUnusable(f"{path}: {error.strerror}.") from None
    except UnsupportedAlgorithm:
        raise AuthUnusable(f"{path} has no public key that can be used: it is of an unknown kind.") from None
    except ValueError as error:
        # The library's own sentence is about its internals, and may quote the file.
        reason = str(error) if str(error).startswith(("an RSA", "it is neither")) else "it is not PEM of a public key"
        raise AuthUnusable(f"{path} has no public key that can be used: {reason}.") from None


class TokenVerifier:
    """Checks tokens against fixed keys, and those of a source if there is one."""

    def __init__(
        self,
        keys: Collection[VerifyingKey],
        source: KeySource | None = None,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_s: int = 0,
    ) -> None:
        self._keys = tuple(keys)
        self._source = source
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s

    async def check(self, token: str) -> Caller:
        """Who the token speaks for. Raises Refused, KeysUnavailable."""
        if len(token) > _MAX_TOKEN_CHARS:
            raise Refused("malformed", "a token longer than any that is issued")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise Refused("malformed", f"not a token: {type(error).__name__}") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise Refused("malformed", "the token's algorithm is not allowed")
        candidates = [key for key in self._keys if key.algorithm == algorithm]
        if self._source is not None and algorithm != "HS256":
            candidates += await self._source.keys(algorithm, key_id)
        for key in candidates:
            try:
                return self._caller(self._claims(token, key), own=key.own)
            except jwt.InvalidSignatureError:
                continue
        raise Refused("unknown", "no key that is trusted has signed the token")

    def _claims(self, token: str, key: VerifyingKey) -> dict[str, Any]:
        """What the token says. Raises InvalidSignatureError, and Refused when only the signature is right."""
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={"require": ["exp", "sub"]},
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.ExpiredSignatureError:
            raise Refused("expired", "the token has expired") from None
        except jwt.InvalidTokenError as error:
            raise Refused("claims", f"the token's claims: {str(error)[:_MAX_DETAIL_CHARS]}") from None

    def _caller(self, claims: dict[str, Any], *, own: bool) -> Caller:
        subject, scope = claims["sub"], claims.get("scope", "")
        if not _is_name(subject):
            raise Refused("claims", "the token's claim sub is empty, too long or unprintable")
        if not isinstance(scope, str):
            raise Refused("claims", "the token's claim scope is not a string")
        try:
            limits = msgspec.convert(claims.get(LIMITS_CLAIM, {}), Limits)
        except msgspec.ValidationError as error:
            raise Refused("claims", f"the token's claim {LIMITS_CLAIM}: {error}") from None
        name = f"token:{subject}"
        if own and CALLER_CLAIM in claims:
            name = claims[CALLER_CLAIM]
            if not _is_name(name):
                raise Refused("claims", f"the token's claim {CALLER_CLAIM} is not a name")
        return Caller(name, known_scopes(scope.split()), limits.as_caller_limits())


class TokenIssuer:
    """Makes short-lived tokens for callers that were recognised by a key."""

    def __init__(self, secret: str, *, lifetime_s: int, issuer: str | None = None, audience: str | None = None) -> None:
        self.lifetime_s = lifetime_s
        self._secret = secret.encode()
        self._fixed = {name: value for name, value in (("iss", issuer), ("aud", audience)) if value is not None}

    def issue(self, caller: Caller, scopes: Collection[str], until: datetime | None = None) -> tuple[str, int]:
        """A token that stands for `caller` with `scopes`, and for how many seconds: never past `until`."""
        now = datetime.now(UTC).replace(microsecond=0)
        end = now + timedelta(seconds=self.lifetime_s)
        if until is not None:
            end = min(end, until)
        claims: dict[str, Any] = {
            **self._fixed,
            "sub": caller.name,
            CALLER_CLAIM: caller.name,
            "iat": now,
            "nbf": now,
            "exp": end,
            "scope": " ".join(sorted(scopes)),
        }
        if limits := limits_to_json(caller.limits):
            claims[LIMITS_CLAIM] = limits
        return jwt.encode(claims, self._secret, algorithm="HS256"), max(0, int((end - now).total_seconds()))


def _is_name(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _MAX_NAME_CHARS and text.isprintable()
