"""Tokens: which count, which do not, and what is made for a key."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from asr_service.auth import AuthUnusable, Refused
from asr_service.auth.tokens import (
    TokenIssuer,
    TokenVerifier,
    VerifyingKey,
    bound,
    from_pem_file,
    from_secret,
)
from asr_service.callers import Caller, CallerLimits
from tests.unit.auth.signing import SECRET, key_pair, private_pem, public_pem, token

pytestmark = pytest.mark.anyio
PUBLIC = ("RS256", "ES256", "EdDSA")


def all_keys() -> list[VerifyingKey]:
    return [from_secret(SECRET), *(bound(key_pair(name).public_key()) for name in PUBLIC)]


async def refused(verifier: TokenVerifier, given: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await verifier.check(given)
    return caught.value


@pytest.mark.parametrize("algorithm", ["HS256", *PUBLIC])
async def test_a_good_token_of_each_algorithm(algorithm: str) -> None:
    caller = await TokenVerifier(all_keys()).check(token(algorithm, scope="openid transcribe metrics"))

    assert caller == Caller("token:alice", frozenset(("transcribe", "metrics")))


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_a_key_of_somebody_else_is_refused(algorithm: str) -> None:
    given = token(algorithm, key_pair(algorithm, "somebody else"))

    assert (await refused(TokenVerifier(all_keys()), given)).reason == "unknown"


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_a_public_key_is_no_secret(algorithm: str) -> None:
    """HS256 with the public key as its secret: what a verifier that trusts the header's algorithm falls for."""
    pem = public_pem(key_pair(algorithm))
    content = {"sub": "mallory", "exp": int(time.time()) + 60, "scope": "admin"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256"}, content)]
    for secret in (pem, pem.strip()):
        mac = base64.urlsafe_b64encode(hmac.digest(secret, b".".join(parts), hashlib.sha256)).rstrip(b"=")
        given = b".".join((*parts, mac)).decode()
        for keys in (all_keys(), [bound(key_pair(algorithm).public_key())]):
            assert (await refused(TokenVerifier(keys), given)).reason == "unknown"


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "HS384", "HS512", "RS512", "PS256", None, 7], ids=repr
)
async def test_other_algorithms_are_refused(algorithm: Any) -> None:
    good = token().split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()).rstrip(b"=").decode()
    for signature in (good[2], ""):
        given = f"{header}.{good[1]}.{signature}"
        assert (await refused(TokenVerifier(all_keys()), given)).reason == "malformed"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_the_secret_is_for_hs256_only(algorithm: str) -> None:
    assert (await refused(TokenVerifier(all_keys()), token(algorithm, SECRET * 2))).reason == "malformed"


@pytest.mark.parametrize(
    "given", ["", "x", "a.b.c", "....", "é.é.é", "e30.e30.", "A" * 20_000, token() + "x", "[].[].[]"]
)
async def test_what_is_no_token(given: str) -> None:
    assert (await refused(TokenVerifier(all_keys()), given)).reason in ("malformed", "unknown")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": None}, "claims"),
        ({"exp": 1}, "expired"),
        ({"exp": "soon"}, "claims"),
        ({"nbf": int(time.time()) + 600}, "claims"),
        ({"iat": int(time.time()) + 600}, "claims"),
        ({"sub": None}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": "a\nb"}, "claims"),
        ({"sub": "a" * 129}, "claims"),
        ({"aud": "other"}, "claims"),
        ({"aud": None}, "claims"),
        ({"iss": "other"}, "claims"),
        ({"iss": None}, "claims"),
        ({"scope": ["transcribe"]}, "claims"),
        ({"asr_limits": {"concurrent": -1}}, "claims"),
        ({"asr_limits": {"concurent": 1}}, "claims"),
        ({"asr_limits": "none"}, "claims"),
    ],
)
async def test_claims_that_do_not_fit(claims: dict[str, Any], reason: str) -> None:
    verifier = TokenVerifier(all_keys(), issuer="https://id.example", audience="asr")
    right: dict[str, Any] = {"iss": "https://id.example", "aud": ["asr", "mail"]}

    assert (await verifier.check(token(**right))).name == "token:alice"
    assert (await refused(verifier, token(**right | claims))).reason == reason


async def test_an_audience_is_refused_where_none_is_expected() -> None:
    assert (await refused(TokenVerifier(all_keys()), token(aud="somewhere"))).reason == "claims"


async def test_clocks_may_differ_by_the_leeway() -> None:
    late = token(exp=int(time.time()) - 10)

    assert (await TokenVerifier(all_keys(), leeway_s=30).check(late)).name == "token:alice"
    assert (await refused(TokenVerifier(all_keys(), leeway_s=0), late)).reason == "expired"


async def test_limits_come_with_the_token() -> None:
    caller = await TokenVerifier(all_keys()).check(token(asr_limits={"requests_per_minute": 3, "concurrent": 0}))

    assert caller.limits == CallerLimits(requests_per_minute=3, concurrent=0)


async def test_only_tokens_of_our_own_name_a_key() -> None:
    verifier = TokenVerifier(all_keys())

    assert (await verifier.check(token(asr_caller="key:web"))).name == "key:web"
    assert (await verifier.check(token("RS256", asr_caller="key:web"))).name == "token:alice"
    assert (await refused(verifier, token(asr_caller=["key:web"]))).reason == "claims"


async def test_a_source_is_asked_with_the_header() -> None:
    asked = []

    class Source:
        async def keys(self, algorithm: str, key_id: str | None) -> Sequence[VerifyingKey]:
            asked.append((algorithm, key_id))
            return [bound(key_pair("ES256").public_key())]

    verifier = TokenVerifier([from_secret(SECRET)], Source())
    await verifier.check(token("ES256", headers={"kid": "one"}))
    await verifier.check(token())

    assert asked == [("ES256", "one")]


async def test_what_is_issued_counts() -> None:
    issuer = TokenIssuer(SECRET, lifetime_s=60, issuer="us", audience="asr")
    caller = Caller("key:web", frozenset(("transcribe", "metrics")), CallerLimits(audio_s_per_day=9))

    given, lifetime_s = issuer.issue(caller, ["transcribe"])

    assert lifetime_s == 60
    seen = await TokenVerifier([from_secret(SECRET)], issuer="us", audience="asr").check(given)
    assert seen == Caller("key:web", frozenset(("transcribe",)), CallerLimits(audio_s_per_day=9))


def test_a_token_does_not_outlive_its_key() -> None:
    end = datetime.now(UTC) + timedelta(seconds=20)

    given, lifetime_s = TokenIssuer(SECRET, lifetime_s=60).issue(Caller("key:web", frozenset()), [], end)

    assert lifetime_s in (19, 20)
    assert jwt.decode(given, SECRET, algorithms=["HS256"])["exp"] == int(end.timestamp())


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_public_key_comes_from_a_file(algorithm: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(public_pem(key_pair(algorithm)))

    assert from_pem_file(tmp_path / "key.pem").algorithm == algorithm


WEAK = public_pem(rsa.generate_private_key(65537, 1024))
UNFIT = [
    (b"", "it is not PEM of a public key"),
    (b"-----BEGIN PUBLIC KEY-----\nxxxx\n-----END PUBLIC KEY-----\n", "it is not PEM of a public key"),
    (private_pem(key_pair("ES256")), "it is not PEM of a public key"),
    (WEAK, "an RSA key should have at least 2048 bits, not 1024"),
    (public_pem(ec.generate_private_key(ec.SECP384R1())), "it is neither an RSA, a P-256 nor an Ed25519 key"),
    (public_pem(ec.generate_private_key(ec.SECP256K1())), "it is neither an RSA, a P-256 nor an Ed25519 key"),
    (public_pem(ed448.Ed448PrivateKey.generate()), "it is neither an RSA, a P-256 nor an Ed25519 key"),
]


@pytest.mark.parametrize(("content", "reason"), UNFIT)
def test_files_without_a_fit_key_are_one_sentence(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)

    with pytest.raises(AuthUnusable) as caught:
        from_pem_file(path)

    assert str(caught.value) == f"{path} has no public key that can be used: {reason}."


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AuthUnusable, match="No such file or directory"):
        from_pem_file(tmp_path / "no.pem")
