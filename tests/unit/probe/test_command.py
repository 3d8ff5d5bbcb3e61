"""The command: its one line, its exit codes, and what it does not load."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.proxy import DEPLOY, needs_nginx

READY = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"status": "ready" }'


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`asr-service probe`, as the installed command starts it."""
    return subprocess.run(
        [sys.executable, "-c", "from asr_service.entry import main; main()", "probe", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "tls"
    subprocess.run([DEPLOY / "make-dev-cert.sh", folder], check=True, capture_output=True, timeout=30)
    return folder


@pytest.fixture
def secure_url(certificates: Path) -> Iterator[str]:
    """A server with TLS that says once that it is ready."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "fullchain.pem", certificates / "privkey.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(65536)
                        secured.sendall(READY)
                except OSError as error:
                    refusals.append(error)

        refusals: list[OSError] = []
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}"
        thread.join()


def test_failure_is_one_line_of_json_and_exit_code_1() -> None:
    done = run("--ready-only", "http://127.0.0.1:1")

    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (1, "", 1)
    line = json.loads(done.stdout)
    assert line["ok"] is False
    assert line["error"] == "It cannot be reached: Connection refused."
    assert line.keys() == {
        *("ok", "status", "ready", "text", "expected", "word_error_rate", "seconds", "request_id", "error")
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nonsense",), "'nonsense' should be the service's address, such as http://127.0.0.1:8000.\n"),
        (("--api-key-file", "no-such"), "no-such: No such file or directory.\n"),
        (("--ca-file", "no-such", "https://localhost"), "no-such: No such file or directory.\n"),
        (("--insecure", "--ca-file", "a"), "--insecure trusts any certificate, so that --ca-file has no meaning: "),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], sentence: str) -> None:
    done = run(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)


@needs_nginx
def test_certificates_are_checked(certificates: Path, secure_url: str) -> None:
    done = run("--ready-only", secure_url)

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"].startswith("Its certificate is not trusted: ")


@needs_nginx
@pytest.mark.parametrize("way", ["ca-file", "insecure"])
def test_an_authority_of_ones_own(certificates: Path, secure_url: str, way: str) -> None:
    option = ("--ca-file", str(certificates / "ca.pem")) if way == "ca-file" else ("--insecure",)

    done = run("--ready-only", *option, secure_url)

    assert (done.returncode, json.loads(done.stdout)["ready"]) == (0, True)


def test_a_probe_loads_little() -> None:
    code = (
        "import sys, asr_service.entry, asr_service.probe.command\n"
        "print(*{'torch', 'numpy', 'pydantic', 'fastapi', 'uvicorn', 'structlog'} & sys.modules.keys())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_the_other_commands_are_where_they_were() -> None:
    code = "from asr_service.entry import main; main()"

    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert all(name in done.stdout for name in ("serve", "transcribe", "evaluate", "keys", "probe", "live"))
