"""Key sets by network: a real server that rotates its keys, fails and comes back."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from asr_service.auth import KeysUnavailable, Refused
from asr_service.auth.jwks import MAX_BYTES, FetchFailed, JwksKeys, fetcher, parse
from asr_service.auth.tokens import TokenVerifier
from tests.fakes import settle
from tests.unit.auth.signing import SECRET, jwk, jwks, key_pair, token
from tests.unit.auth.standins import Clock, Issuer, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with serving(Issuer()) as issuer:
        yield issuer


class Verifier:
    """A verifier on a key set, and a clock for both."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        self.jwks = JwksKeys(fetcher(url), clock=self.clock, max_age_s=300, min_interval_s=10)
        self._tokens = TokenVerifier([], self.jwks)

    async def name(self, given: str) -> str:
        return (await self._tokens.check(given)).name

    async def fails(self, given: str, error: type[Exception] = Refused) -> None:
        with pytest.raises(error):
            await self._tokens.check(given)


def signed(algorithm: str, key_id: str | None, which: str = "") -> str:
    headers = {"kid": key_id} if key_id is not None else None
    return token(algorithm, key_pair(algorithm, which), headers)


async def test_keys_are_fetched_once(issuer: Issuer) -> None:
    issuer.content = jwks(jwk("RS256", "one"), jwk("ES256", "two"), jwk("EdDSA", "three"))
    verifier = Verifier(issuer.url)

    names = [
        await verifier.name(signed(*pair)) for pair in (("RS256", "one"), ("ES256", "two"), ("EdDSA", "three")) * 2
    ]

    assert names == ["token:alice"] * 6
    assert issuer.requests == 1


async def test_requests_at_once_wait_for_one_fetch(issuer: Issuer) -> None:
    verifier = Verifier(issuer.url)

    await asyncio.gather(*(verifier.name(signed("RS256", "one")) for _ in range(10)))

    assert issuer.requests == 1


async def test_a_new_key_is_fetched_when_it_is_first_used(issuer: Issuer) -> None:
    verifier = Verifier(issuer.url)
    await verifier.name(signed("RS256", "one"))
    issuer.content = jwks(jwk("RS256", "two", "new"))
    verifier.clock.now += 10

    assert await verifier.name(signed("RS256", "two", "new")) == "token:alice"
    await verifier.fails(signed("RS256", "one"))
    assert issuer.requests == 2


async def test_made_up_key_ids_are_no_load_for_the_issuer(issuer: Issuer) -> None:
    verifier = Verifier(issuer.url)

    for number in range(50):
        await verifier.fails(signed("RS256", f"made up {number}"))
        verifier.clock.now += 1

    assert issuer.requests == 5


async def test_an_old_set_is_fetched_again_so_that_keys_can_be_withdrawn(issuer: Issuer) -> None:
    verifier = Verifier(issuer.url)
    await verifier.name(signed("RS256", "one"))
    issuer.content = jwks(jwk("RS256", "two", "new"))

    verifier.clock.now += 299
    await verifier.name(signed("RS256", "one"))
    verifier.clock.now += 1
    await verifier.fails(signed("RS256", "one"))


async def test_an_outage_is_ridden_out_with_the_last_good_keys(issuer: Issuer) -> None:
    verifier = Verifier(issuer.url)
    await verifier.name(signed("RS256", "one"))
    issuer.status = 500

    with capture_logs() as lines:
        for _ in range(5):
            verifier.clock.now += 300
            assert await verifier.name(signed("RS256", "one")) == "token:alice"
            await _idle(verifier)
    assert {line["error"] for line in lines} == {"the answer has the status 500"}
    # What cannot be known is no fault of the caller.
    verifier.clock.now += 300
    await verifier.fails(signed("RS256", "two", "new"), KeysUnavailable)

    issuer.status, issuer.content = 200, jwks(jwk("RS256", "two", "new"))
    verifier.clock.now += 300
    assert await verifier.name(signed("RS256", "two", "new")) == "token:alice"
    await verifier.fails(signed("RS256", "one"))


async def test_nobody_waits_for_an_issuer_that_is_known_to_be_gone() -> None:
    answers, asked = threading.Semaphore(0), threading.Semaphore(0)
    contents: list[bytes | FetchFailed] = [jwks(jwk("RS256", "one")), FetchFailed("gone"), FetchFailed("gone")]

    def fetch() -> bytes:
        asked.release()
        assert answers.acquire(timeout=30)
        content = contents.pop(0)
        if isinstance(content, FetchFailed):
            raise content
        return content

    clock = Clock()
    source = JwksKeys(fetch, clock=clock, max_age_s=300, min_interval_s=10)
    answers.release(2)
    assert len(await source.keys("RS256", "one")) == 1
    clock.now += 300
    assert len(await source.keys("RS256", "one")) == 1
    clock.now += 300

    # The third fetch hangs, and this does not.
    assert len(await source.keys("RS256", "one")) == 1
    await asyncio.to_thread(lambda: [asked.acquire(timeout=30) for _ in range(3)])
    answers.release()
    await source.aclose()


async def test_the_loop_goes_on_while_keys_are_fetched() -> None:
    answer = threading.Event()

    def fetch() -> bytes:
        assert answer.wait(30)
        return jwks(jwk("RS256", "one"))

    source = JwksKeys(fetch)
    waiting = asyncio.create_task(source.keys("RS256", "one"))
    await settle()
    assert not waiting.done()
    answer.set()
    assert len(await waiting) == 1


async def test_without_any_key_nothing_can_be_said(issuer: Issuer) -> None:
    issuer.status = 503
    verifier = Verifier(issuer.url)

    with capture_logs():
        for _ in range(3):
            await verifier.fails(signed("RS256", "one"), KeysUnavailable)
    assert issuer.requests == 1

    issuer.status = 200
    verifier.clock.now += 10
    assert await verifier.name(signed("RS256", "one")) == "token:alice"


async def test_tokens_without_a_key_id_are_tried_on_all_keys(issuer: Issuer) -> None:
    issuer.content = jwks(jwk("RS256", "one"), jwk("RS256", "two", "new"), jwk("ES256"))
    verifier = Verifier(issuer.url)

    assert await verifier.name(signed("RS256", None, "new")) == "token:alice"
    assert await verifier.name(signed("ES256", None)) == "token:alice"
    await verifier.fails(signed("RS256", None, "somebody else"))


async def test_a_key_is_used_with_its_own_algorithm_only(issuer: Issuer) -> None:
    issuer.content = jwks(jwk("RS256", "one"), {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"})
    verifier = Verifier(issuer.url)

    await verifier.fails(token("HS256", SECRET, {"kid": "one"}))
    await verifier.fails(token("HS256", "secret" * 8, {"kid": "secret"}))
    await verifier.fails(signed("ES256", "one"))


@pytest.mark.parametrize(
    "entry",
    [
        jwk("RS256", use="enc"),
        jwk("RS256", alg="RS512"),
        jwk("RS256", alg="PS256"),
        jwk("RS256", alg="HS256"),
        jwk("RS256", key_ops=["encrypt"]),
        jwk("RS256", d="AQAB"),
        jwk("ES256", crv="P-384"),
        jwk("ES256", x="AAAA"),
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "RSA"},
        {},
        "key",
    ],
    ids=["enc", "RS512", "PS256", "HS256", "ops", "private", "curve", "point", "secret", "bare", "empty", "text"],
)
def test_keys_for_other_purposes_are_left_out(entry: Any) -> None:
    assert list(parse(jwks(entry, jwk("EdDSA", "good")))) == ["good"]
    with pytest.raises(FetchFailed, match="no key for signatures"):
        parse(jwks(entry))


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b'{"keys": 1}', b"[" * 100_000, b"\xff"], ids=repr)
def test_what_is_no_key_set(content: bytes) -> None:
    with pytest.raises(FetchFailed):
        parse(content)


@pytest.mark.parametrize(
    ("status", "headers", "content", "sentence"),
    [
        (404, {}, b"", "status 404"),
        (302, {"Location": "/elsewhere"}, b"", "status 302"),
        (200, {}, b" " * (MAX_BYTES + 1), "too large"),
    ],
    ids=["missing", "redirect", "large"],
)
def test_answers_that_are_not_taken(
    issuer: Issuer, status: int, headers: dict[str, str], content: bytes, sentence: str
) -> None:
    issuer.status, issuer.headers, issuer.content = status, headers, content

    with pytest.raises(FetchFailed, match=sentence):
        fetcher(issuer.url)()
    assert issuer.requests == 1


def test_an_issuer_that_is_not_there() -> None:
    with serving(Issuer()) as issuer:
        url = issuer.url
    with pytest.raises(FetchFailed, match="refused"):
        fetcher(url)()


async def _idle(verifier: Verifier) -> None:
    """Until a fetch in the background is over."""
    fetching = verifier.jwks._fetching
    assert fetching is not None
    await fetching
