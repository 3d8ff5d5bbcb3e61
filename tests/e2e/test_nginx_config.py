"""The configuration that deploy/nginx/render.sh writes: valid, documented, and nothing else's end."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import INSIDE
from tests.e2e.proxy import DEPLOY, Certificates, free_port, needs_nginx, proxy, render, variables
from tests.e2e.replica import replica
from tests.e2e.service import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, needs_nginx]


async def test_the_log_names_requests_and_tells_nothing_of_their_content(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with replica("a") as behind:
        with proxy(tmp_path / "nginx", certificates, [behind.address]) as front:
            async with front.client() as client:
                headers = {"X-Request-ID": "mine", "Authorization": "Bearer secret"}
                await client.post("/transcribe?prompt=secret", content=b"secret", headers=headers)
                other = await client.get("/livez", headers={"User-Agent": 'a"\\b', "X-Script": "drop"})
            front.stop()
    first, second = front.log()
    assert (first["request_id"], first["path"], first["status"]) == ("mine", "/transcribe", 200)
    assert (first["client"], first["method"], first["upstream"]) == (INSIDE, "POST", behind.address)
    assert "secret" not in (front.folder / "access.log").read_text()
    assert (second["request_id"], second["status"]) == (other.headers["x-request-id"], 502)
    assert second["user_agent"] == 'a"\\b'


def test_the_shipped_configuration_is_valid_as_it_comes(certificates: Certificates, tmp_path: Path) -> None:
    given = variables(tmp_path, certificates, free_port(), free_port())
    given |= {"PROXY_UPSTREAMS": "10.0.0.1:8000 [::1]:8000 unix:/run/asr.sock", "PROXY_SERVER_NAMES": "a.example *.b.c"}
    assert render(tmp_path, given).returncode == 0
    run = subprocess.run(
        ["nginx", "-t", "-e", tmp_path / "error.log", "-c", tmp_path / "etc" / "nginx.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "warn" not in run.stderr
    assert re.search(r"\$\{[A-Z]", "".join(path.read_text() for path in (tmp_path / "etc").rglob("*.conf"))) is None


@pytest.mark.parametrize(("version", "new"), [("1.22.1", False), ("1.25.0", False), ("1.25.1", True), ("1.31.0", True)])
def test_http2_is_turned_on_in_the_way_of_the_nginx_at_hand(
    certificates: Certificates, tmp_path: Path, version: str, new: bool
) -> None:
    pretender = tmp_path / "bin" / "nginx"
    pretender.parent.mkdir()
    pretender.write_text(f"#!/bin/sh\necho 'nginx version: nginx/{version}' >&2\n")
    pretender.chmod(0o755)
    given = variables(tmp_path, certificates, 80, 443)
    assert render(tmp_path, given | {"PATH": f"{pretender.parent}:{given['PATH']}"}).returncode == 0
    listen = (tmp_path / "etc" / "asr-service" / "listen-https.conf").read_text()
    assert ("http2 on;" in listen, " ssl http2 " in listen) == (new, not new)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PROXY_SERVER_NAMES", "a; return 200"),
        ("ASR_MAX_UPLOAD_MB", "1m; #"),
        ("PROXY_UPSTREAMS", "a:80;"),
        ("PROXY_INTERNAL_NETWORKS", "all;allow"),
        ("PROXY_CERTIFICATE", "/a|b"),
        ("PROXY_ACME_ROOT", "/a\nb"),
    ],
)
def test_what_could_end_a_directive_is_refused(
    certificates: Certificates, tmp_path: Path, variable: str, value: str
) -> None:
    run = render(tmp_path, variables(tmp_path, certificates, 80, 443) | {variable: value})
    assert run.returncode == 2
    assert "cannot be used" in run.stderr or "is no address" in run.stderr
    assert not (tmp_path / "etc").exists()


def test_somebody_elses_configuration_is_kept(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nginx.conf").write_text("events {}")
    for _ in range(2):
        assert render(tmp_path, variables(tmp_path, certificates, 80, 443)).returncode == 0
    assert (tmp_path / "etc" / "nginx.conf.before-asr-service").read_text() == "events {}"


def test_every_variable_of_the_configuration_is_documented() -> None:
    script = (DEPLOY / "render.sh").read_text()
    documented = (ROOT / "docs" / "deployment.md").read_text()
    names = set(re.findall(r"\b(?:PROXY|ASR)_[A-Z_]+\b", script)) - {"ASR_"}
    assert len(names) > 15
    assert {name for name in names if f"`{name}`" not in documented} == set()
    assert set(re.findall(r"`(PROXY_[A-Z_]+)`", documented)) <= names
