"""nginx with the shipped configuration, run as whoever runs the tests, in a folder and on ports of its own."""

import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.service import ROOT

DEPLOY = ROOT / "deploy" / "nginx"
SECURITY_HEADERS = {
    "strict-transport-security": "max-age=63072000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
"""Of every answer."""
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None or shutil.which("openssl") is None,
    reason="nginx or openssl is not installed (Debian: apt-get install nginx openssl)",
)


@dataclass(frozen=True)
class Certificates:
    """What deploy/nginx/make-dev-cert.sh makes."""

    folder: Path

    def trusted(self) -> ssl.SSLContext:
        """A client's context that trusts them."""
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))


@dataclass(frozen=True)
class Proxy:
    folder: Path
    http_port: int
    https_port: int
    certificates: Certificates
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.https_port}"

    def client(self, address: str = "127.0.0.1", *, http2: bool = False) -> httpx.AsyncClient:
        """A client that calls from an address of its own."""
        transport = httpx.AsyncHTTPTransport(
            verify=self.certificates.trusted(), local_address=address, http1=not http2, http2=http2
        )
        return httpx.AsyncClient(base_url=self.url, transport=transport, timeout=250)

    def stop(self) -> None:
        """End it, when its last line is logged."""
        self.process.send_signal(signal.SIGQUIT)
        assert self.process.wait(30) == 0

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def errors(self) -> str:
        return (self.folder / "error.log").read_text()


def variables(folder: Path, certificates: Certificates, http_port: int, https_port: int) -> dict[str, str]:
    """What render.sh needs for a proxy in `folder`."""
    given = {
        "PATH": os.environ["PATH"],
        "PROXY_ADDRESSES": "127.0.0.1",
        "PROXY_HTTP_PORT": str(http_port),
        "PROXY_HTTPS_PORT": str(https_port),
        "PROXY_CERTIFICATE": str(certificates.folder / "fullchain.pem"),
        "PROXY_CERTIFICATE_KEY": str(certificates.folder / "privkey.pem"),
        "PROXY_PID": str(folder / "nginx.pid"),
        "PROXY_LOG_DIR": str(folder),
        "PROXY_STATE_DIR": str(folder),
        "PROXY_ACME_ROOT": str(folder / "acme"),
        "PROXY_UI_PASSWORDS": str(folder / "passwords"),
    }
    if os.geteuid() == 0:
        # The folder is root's alone.
        given["PROXY_USER"] = pwd.getpwuid(0).pw_name
    return given


def render(folder: Path, given: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run deploy/nginx/render.sh, for a configuration in `folder`/etc."""
    return subprocess.run(
        [DEPLOY / "render.sh", folder / "etc"], env=given, capture_output=True, text=True, timeout=30, check=False
    )


@contextmanager
def proxy(folder: Path, certificates: Certificates, upstreams: Sequence[str], **settings: str) -> Iterator[Proxy]:
    """nginx in front of `upstreams` (host:port), with variables of render.sh."""
    folder.mkdir(parents=True)
    # nginx takes over open sockets that the variable NGINX names: no port is guessed, and who is early waits.
    with socket.create_server(("127.0.0.1", 0)) as plain, socket.create_server(("127.0.0.1", 0)) as tls:
        for listener in (plain, tls):
            listener.setblocking(False)  # As nginx leaves its own: a worker must not wait in accept().
        ports = plain.getsockname()[1], tls.getsockname()[1]
        given = variables(folder, certificates, *ports) | {"PROXY_UPSTREAMS": " ".join(upstreams)} | settings
        rendered = render(folder, given)
        assert rendered.returncode == 0, rendered.stderr
        descriptors = (plain.fileno(), tls.fileno())
        process = subprocess.Popen(
            ["nginx", "-e", folder / "error.log", "-c", folder / "etc" / "nginx.conf"],
            env={"PATH": os.environ["PATH"], "NGINX": "".join(f"{number};" for number in descriptors)},
            pass_fds=descriptors,
        )
    try:
        yield Proxy(folder, *ports, certificates, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def expect_error(response: httpx.Response, status: int, code: str) -> None:
    """An answer of nginx's own, in the shape of the service's errors, or of OpenAI's."""
    assert response.status_code == status
    body = response.json()
    request_id = response.headers["x-request-id"]
    if response.request.url.path.startswith("/v1/"):
        assert response.headers["content-type"] == "application/json"
        assert body["error"].keys() == {"message", "type", "param", "code"}
        kinds = {True: "server_error", False: "rate_limit_error" if status == 429 else "invalid_request_error"}
        assert (body["error"]["code"], body["error"]["type"]) == (code, kinds[status >= 500])
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert body["type"] == f"urn:asr-service:problem:{code}"
        assert (body["status"], body["code"], body["request_id"]) == (status, code, request_id)
        assert body["title"]
        assert body["detail"].endswith(".")
    assert SECURITY_HEADERS.items() <= dict(response.headers).items()
    assert response.headers["server"] == "nginx"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
