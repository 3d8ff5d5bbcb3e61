"""Forms and options that are small to send and would be large to keep."""

import pytest

from tests.api.conftest import Serve
from tests.fakes import FakeDecoder, FakeEngine

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

FORM = {"Content-Type": "multipart/form-data; boundary=b"}
OPENAI = "/v1/audio/transcriptions"


def part(name: str, value: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (part("include[]", b"logprobs") * 10_000, "invalid_option", "more than 256 times"),
        (part("include[]", b"x" * 60_000) * 10, "invalid_option", "more than 262144 characters together"),
        (b"--b\r\n" + b"A: b\r\n" * 1000 + b"\r\nx\r\n", "invalid_input", "cannot be read"),
        (b"--b\r\nA: " + b"b" * 10_000 + b"\r\n\r\nx\r\n", "invalid_input", "cannot be read"),
        (b"--b\r\n" + b"A" * 10_000 + b": b\r\n\r\nx\r\n", "invalid_input", "cannot be read"),
        (part("chunking_strategy", b'{"a":' + b"[" * 60_000), "invalid_option", "chunking strategy"),
        (part("chunking_strategy", b'{"type":' + b"9" * 60_000 + b"}"), "invalid_option", "chunking strategy"),
        (part("model", b"x" * 60_000), "model_not_found", "is not served here"),
    ],
    ids=["many fields", "long fields", "many headers", "long header", "long header name", "nested", "number", "name"],
)
async def test_a_form_that_grows_is_refused(serve: Serve, body: bytes, code: str, words: str) -> None:
    decoder = FakeDecoder()
    form = (
        body + part("file", b"x") + (b"" if code == "model_not_found" else part("model", b"whisper-1")) + b"--b--\r\n"
    )
    async with serve(FakeEngine([]), decoder) as client:
        response = await client.post(OPENAI, content=form, headers=FORM)

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404 if code == "model_not_found" else 400, code)
    assert words in error["message"]
    assert len(response.content) < 2000
    assert decoder.uploads == []


async def test_a_query_that_grows_is_refused(serve: Serve) -> None:
    async with serve(FakeEngine([])) as client:
        response = await client.post(OPENAI + "?" + "include[]=logprobs&" * 300, content=b"x")

    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_option")
