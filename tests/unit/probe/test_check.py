"""What a probe finds, against a server that answers as it is told."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asr_service.probe.check import EXPECTED, SAMPLE, Bounds, Report, check, error_rate
from asr_service.probe.http import target

READY = (200, {"status": "ready", "model": "whisper-base"})
WELL = (200, {"text": EXPECTED})


@dataclass
class Stub:
    """`answers`: status and body (JSON, or bytes as they are) by path; an event instead is waited for first."""

    url: str = ""
    answers: dict[str, tuple[int, object]] = field(default_factory=lambda: {"/readyz": READY, "/transcribe": WELL})
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)
    silent_on: str = ""

    def probe(self, *, ready_only: bool = False, api_key: str = "", **bounds: float) -> Report:
        return check(target(self.url, api_key), Bounds(**bounds), ready_only=ready_only)


@pytest.fixture
def stub() -> Iterator[Stub]:
    told = Stub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            told.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if path == told.silent_on:
                # A byte now and nothing then: what a socket's own timeout would wait for anew.
                self.wfile.write(b"H")
                told.let_go.wait()
                return
            status, content = told.answers[path]
            self.send_response(status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        do_GET = do_POST = handle_any

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests look at `seen`."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        told.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield told
        told.let_go.set()
        server.shutdown()
        thread.join()


def test_a_service_that_understands_is_well(stub: Stub) -> None:
    stub.answers["/transcribe"] = (
        200,
        {"text": "Good morning, please open the window and let the fresh air into the room"},
    )
    stub.headers["X-Request-ID"] = "abc"

    report = stub.probe(api_key="asr_key")

    assert (report.ok, report.status, report.ready, report.error) == (True, 200, True, None)
    assert (report.word_error_rate, report.request_id) == (0.0, "abc")
    assert 0 <= report.seconds < 5
    (ready, transcribe) = stub.seen
    assert (ready[0], ready[1]) == ("GET", "/readyz")
    assert (transcribe[0], transcribe[1], transcribe[3]) == ("POST", "/transcribe?language=en", SAMPLE.read_bytes())
    assert transcribe[2]["content-type"] == "audio/flac"
    assert transcribe[2]["authorization"] == "Bearer asr_key"
    assert transcribe[2]["x-request-id"].startswith("probe-")


def test_readiness_alone_sends_no_recording(stub: Stub) -> None:
    report = stub.probe(ready_only=True)

    assert (report.ok, report.ready, report.text, report.expected) == (True, True, None, None)
    assert [path for _, path, _, _ in stub.seen] == ["/readyz"]


@pytest.mark.parametrize("ready_only", [False, True])
def test_a_service_that_is_not_ready_is_asked_for_nothing_more(stub: Stub, ready_only: bool) -> None:
    stub.answers["/readyz"] = (503, {"status": "not ready", "reason": "the model is loading"})

    report = stub.probe(ready_only=ready_only)

    assert (report.ok, report.status, report.ready) == (False, 503, False)
    assert report.error == "It is not ready: the model is loading."
    assert len(stub.seen) == 1


def test_where_a_proxy_hides_readiness_the_transcription_counts(stub: Stub) -> None:
    stub.answers["/readyz"] = (403, {"detail": "Not from where you are."})

    assert (stub.probe().ok, stub.probe().ready) == (True, None)
    alone = stub.probe(ready_only=True)
    assert (alone.ok, alone.error) == (False, "It answered 403: Not from where you are.")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, {"detail": "No key.", "code": "unauthenticated"}), "It answered 401: No key."),
        ((503, {"code": "overloaded"}), "It answered 503: overloaded."),
        ((500, b"<html>"), "It answered 500."),
        ((200, b"<html>"), "The answer is not a transcript: is this address that of asr-service?"),
        ((200, ["text"]), "The answer is not a transcript: is this address that of asr-service?"),
        ((200, {"text": None}), "The answer is not a transcript: is this address that of asr-service?"),
        ((200, {"text": ""}), "The text is wrong in 100% of its words (20% may be)."),
        ((200, {"text": EXPECTED * 2}), "The text is wrong in 100% of its words (20% may be)."),
    ],
)
def test_what_is_wrong_is_a_sentence(stub: Stub, answer: tuple[int, object], error: str) -> None:
    stub.answers["/transcribe"] = answer

    report = stub.probe()

    assert (report.ok, report.status, report.error) == (False, answer[0], error)


def test_bounds_are_the_callers(stub: Stub) -> None:
    stub.answers["/transcribe"] = (200, {"text": EXPECTED.replace("window", "widow")})

    assert stub.probe().ok
    assert stub.probe(error_rate=0.05).error == "The text is wrong in 7% of its words (5% may be)."
    late = stub.probe(transcription_s=0.0)
    assert late.error == f"It took {late.seconds:g} s (0 s may be)."
    assert late.word_error_rate == pytest.approx(1 / 14, abs=0.001)


@pytest.mark.parametrize("path", ["/readyz", "/transcribe"])
def test_silence_ends_at_the_limit(stub: Stub, path: str) -> None:
    stub.silent_on = path

    report = stub.probe(timeout_s=0.2)

    assert (report.ok, report.status) == (False, None)
    assert report.error == "It cannot be reached: there was no answer within 0.2 s."
    assert report.seconds < 5


def test_a_redirect_is_not_followed(stub: Stub) -> None:
    stub.answers["/readyz"] = (308, b"")
    stub.headers["Location"] = "https://elsewhere.example/readyz"

    report = stub.probe(api_key="secret")

    assert (report.ok, report.error) == (False, "It leads to https://elsewhere.example/readyz: probe that address.")
    assert len(stub.seen) == 1


def test_a_service_that_is_not_there(stub: Stub) -> None:
    report = check(target("http://127.0.0.1:1"), Bounds())

    assert (report.ok, report.status, report.ready) == (False, None, None)
    assert report.error == "It cannot be reached: Connection refused."


def test_something_else_than_http(stub: Stub) -> None:
    stub.answers["/readyz"] = (200, b"")
    stub.headers["Transfer-Encoding"] = "chunked"

    assert not stub.probe().ok


def test_paths_before_the_services_own(stub: Stub) -> None:
    stub.answers = {"/asr/readyz": READY, "/asr/transcribe": WELL}
    stub.url += "/asr/"

    assert stub.probe().ok


@pytest.mark.parametrize(
    ("expected", "text", "rate"),
    [
        ("one two three", "One, two; THREE.", 0),
        ("one two three", "one three", 1 / 3),
        ("one two three", "one too three", 1 / 3),
        ("one two three", "one two and three", 1 / 3),
        ("one two three", "", 1),
        ("one two three", "two one three four", 1),
    ],
)
def test_word_errors(expected: str, text: str, rate: float) -> None:
    assert error_rate(expected, text) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("127.0.0.1:8000", "should be the service's address"),
        ("ftp://host", "should be the service's address"),
        ("http://", "should be the service's address"),
        ("http://host:port", "is no address"),
        ("http://user:password@host", "no user name"),
        ("http://host/?language=en", "no query"),
    ],
)
def test_addresses_that_cannot_be_asked(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        target(url)


def test_keys_that_no_header_can_carry() -> None:
    with pytest.raises(ValueError, match="An API key has neither spaces"):
        target("http://host", "key\r\nX: y")


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(target("http://host", "secret"))


def test_the_sample_is_small() -> None:
    assert SAMPLE.read_bytes()[:4] == b"fLaC"
    assert SAMPLE.stat().st_size <= 100_000


@pytest.mark.parametrize("content", ["", "no certificate"])
def test_authorities_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "ca.pem").write_text(content)

    with pytest.raises(ValueError, match=r"ca\.pem"):
        target("https://host", ca_file=tmp_path / "ca.pem")
