"""Key pairs and tokens for tests, made once."""

import functools
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SECRET = "kP3xV9sLq0ZtB7nYw2RfH5cJm8DgA1uE4iToXyWb"


def key_pair(algorithm: str, which: str = "") -> Any:
    """A private key for an algorithm; another one for each `which`."""
    return _made(algorithm, which)


@functools.cache
def _made(algorithm: str, which: str) -> Any:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(algorithm)


def public_pem(private: Any) -> bytes:
    pem: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def private_pem(private: PrivateKeyTypes) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def jwk(algorithm: str, key_id: str | None = None, which: str = "", **others: Any) -> dict[str, Any]:
    """The public key as a JWK."""
    implementation = jwt.get_algorithm_by_name(algorithm)
    entry: dict[str, Any] = json.loads(implementation.to_jwk(key_pair(algorithm, which).public_key()))
    return entry | ({"kid": key_id} if key_id is not None else {}) | others


def jwks(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def token(algorithm: str = "HS256", key: Any = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that is good unless `claims` say otherwise; a claim that is None is left out."""
    content = {"sub": "alice", "exp": int(time.time()) + 60, "scope": "transcribe"} | claims
    content = {name: value for name, value in content.items() if value is not None}
    if key is None and algorithm != "none":
        key = SECRET if algorithm == "HS256" else key_pair(algorithm)
    return jwt.encode(content, key, algorithm=algorithm, headers=headers)
