"""How bodies become files: both shapes, every limit, and what is refused."""

from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import Serve
from tests.fakes import FakeDecoder, FakeEngine, result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

MIB = 1024 * 1024
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def part(name: str, value: bytes, extra: str = "") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), extra.encode(), value)


END = b"--b--\r\n"


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
async def test_a_form_may_arrive_in_pieces_of_any_size(serve: Serve, size: int) -> None:
    engine, decoder = FakeEngine([result("x")]), FakeDecoder()
    audio = bytes(range(256)) * 4 + b"\r\n--b\r--b-\r\n"
    body = part("language", b"en") + part("file", audio, '; filename="a\\"b.wav"') + part("prompt", "Grüße".encode())

    async with serve(engine, decoder) as client:
        response = await client.post("/transcribe", content=in_pieces(body + END, size), headers=FORM)

    assert response.status_code == 200, response.text
    assert decoder.uploads == [audio]
    assert (engine.calls[0].options.language, engine.calls[0].options.prompt) == ("en", "Grüße")


@pytest.mark.parametrize("form", [True, False])
async def test_large_files_arrive_unchanged(serve: Serve, form: bool) -> None:
    decoder = FakeDecoder()
    audio = bytes(range(251)) * 14_000

    async with serve(FakeEngine([result("x")]), decoder, max_upload_mb=4) as client:
        body = part("file", audio) + END if form else audio
        response = await client.post(
            "/transcribe", content=in_pieces(body, 65_536), headers=FORM if form else {"Content-Type": "audio/wav"}
        )

    assert response.status_code == 200, response.text
    assert decoder.uploads == [audio]


async def test_a_declared_size_is_refused_before_the_body_is_read(serve: Serve) -> None:
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x"

    async with serve(FakeEngine([])) as client:
        response = await client.post("/transcribe", content=body(), headers={"Content-Length": str(MIB + 1)})

    assert response.status_code == 413
    assert response.json()["code"] == "upload_too_large"
    assert "larger than 1 MiB" in response.json()["detail"]
    assert read == []


async def test_a_bad_option_in_the_query_does_not_cost_the_upload(serve: Serve) -> None:
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x"

    async with serve(FakeEngine([])) as client:
        response = await client.post("/transcribe?language=klingon", content=body())

    assert (response.status_code, response.json()["code"]) == (422, "invalid_option")
    assert read == []


@pytest.mark.parametrize("headers", [FORM, {"Content-Type": "audio/wav"}])
async def test_an_undeclared_size_is_refused_at_the_byte(serve: Serve, headers: dict[str, str]) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", b"x")[:-2]
        while sent < 100 * MIB:
            sent += 65_536
            yield b"x" * 65_536

    decoder = FakeDecoder()
    async with serve(FakeEngine([]), decoder) as client:
        response = await client.post("/transcribe", content=body(), headers=headers)

    assert response.status_code == 413
    assert response.json()["code"] == "upload_too_large"
    assert sent <= MIB + 65_536
    assert decoder.uploads == []


async def test_the_limit_itself_is_accepted(serve: Serve) -> None:
    decoder = FakeDecoder()
    async with serve(FakeEngine([result("x")]), decoder) as client:
        response = await client.post("/transcribe", content=b"x" * MIB)

    assert response.status_code == 200
    assert len(decoder.uploads[0]) == MIB


@pytest.mark.parametrize(
    ("body", "status", "code", "detail"),
    [
        (END, 400, "missing_audio", "no part named 'file'"),
        (part("language", b"en") + END, 400, "missing_audio", "no part named 'file'"),
        (part("file", b"", '; filename="a.wav"') + END, 400, "missing_audio", "holds no audio"),
        (part("file", b"a") * 65 + END, 422, "invalid_option", "at most 64 files"),
        (part("file", b"a") + part("file", b"", '; filename="b.wav"') + END, 400, "missing_audio", "'b.wav' holds no"),
        (part("files", b"a") + END, 422, "invalid_option", "no option 'files'"),
        (part("lang", b"en") + part("file", b"a") + END, 422, "invalid_option", "no option 'lang'"),
        (part("prompt", b"a") + part("prompt", b"b") + END, 422, "invalid_option", "'prompt' is given twice"),
        (part("prompt", b"\xff\xfe") + part("file", b"a") + END, 422, "invalid_option", "not UTF-8"),
        (part("prompt", b"x" * 70_000) + END, 422, "invalid_option", "longer than 65536 bytes"),
        (part("language", b"xx") + part("file", b"a") + END, 422, "invalid_option", "language 'xx'"),
        (part("file", b"abc"), 400, "invalid_input", "closing boundary"),
        (part("file", b"abc")[:20], 400, "invalid_input", "closing boundary"),
        (b"no form at all" + END, 400, "invalid_input", "cannot be read"),
        (b"--b\r\nbad header\r\n\r\nx\r\n" + END, 400, "invalid_input", "cannot be read"),
        (b"--b\r\nContent-Type: audio/wav\r\n\r\nx\r\n" + END, 422, "invalid_option", "no option ''"),
        (b"", 400, "invalid_input", "closing boundary"),
    ],
)
async def test_bad_forms_are_refused(serve: Serve, body: bytes, status: int, code: str, detail: str) -> None:
    decoder = FakeDecoder()
    async with serve(FakeEngine([]), decoder) as client:
        response = await client.post("/transcribe", content=body, headers=FORM)

    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert detail in response.json()["detail"]
    assert decoder.uploads == []


@pytest.mark.parametrize(
    ("headers", "status", "code", "detail"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_upload", "multipart/form-data"),
        ({"Content-Type": "application/json"}, 415, "unsupported_upload", "'application/json'"),
        ({"Content-Type": "multipart/mixed; boundary=b"}, 415, "unsupported_upload", "'multipart/mixed'"),
        ({"Content-Type": "multipart/form-data"}, 400, "invalid_input", "no boundary"),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 300}, 400, "invalid_input", "cannot be read"),
        ({"Content-Type": "audio/wav", "Content-Encoding": "gzip"}, 415, "unsupported_upload", "Content-Encoding"),
    ],
)
async def test_bad_headers_are_refused(
    serve: Serve, headers: dict[str, str], status: int, code: str, detail: str
) -> None:
    async with serve(FakeEngine([])) as client:
        response = await client.post("/transcribe", content=b"abc", headers=headers)

    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert detail in response.json()["detail"]


async def test_an_empty_raw_body_is_refused(serve: Serve) -> None:
    async with serve(FakeEngine([])) as client:
        response = await client.post("/transcribe", headers={"Content-Type": "audio/wav"})

    assert (response.status_code, response.json()["code"]) == (400, "missing_audio")
