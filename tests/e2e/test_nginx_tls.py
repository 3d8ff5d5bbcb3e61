"""TLS of the shipped nginx against Mozilla's intermediate profile, and the certificate for development."""

import ssl
import stat
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.e2e.proxy import DEPLOY, Certificates, Proxy, needs_nginx

pytestmark = [pytest.mark.e2e, needs_nginx]

SSLYZE = "sslyze==6.3.1"
INTERMEDIATE = {
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
}


def s_client(front: Proxy, *options: str) -> str:
    """The protocol and cipher that openssl's client agrees on with nginx, or "" if they do not agree."""
    run = subprocess.run(
        ["openssl", "s_client", "-brief", "-connect", f"127.0.0.1:{front.https_port}", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    facts = dict(line.split(": ", 1) for line in run.stderr.splitlines() if ": " in line)
    return f"{facts['Protocol version']} {facts['Ciphersuite']}" if "Ciphersuite" in facts else ""


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_protocols_are_refused(front: Proxy, version: str) -> None:
    assert s_client(front, version, "-cipher", "ALL@SECLEVEL=0") == ""
    assert s_client(front, "-tls1_2").startswith("TLSv1.2 ")
    assert s_client(front).startswith("TLSv1.3 ")


def test_only_ciphers_of_the_profile_are_spoken(front: Proxy) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    every = {cipher["name"] for cipher in context.get_ciphers() if not cipher["name"].startswith("TLS_")}
    others = ":".join(sorted(every - INTERMEDIATE))
    assert len(every - INTERMEDIATE) > 50
    assert s_client(front, "-tls1_2", "-cipher", f"{others}:@SECLEVEL=0") == ""
    # The certificate has an elliptic key, so that half of the profile is there to be spoken.
    for name in INTERMEDIATE:
        agreed = s_client(front, "-tls1_2", "-cipher", name)
        assert agreed == (f"TLSv1.2 {name}" if "ECDSA" in name else "")


@pytest.mark.parametrize(("curve", "spoken"), [("X25519", True), ("P-256", True), ("P-384", True), ("P-521", False)])
def test_only_curves_of_the_profile_are_spoken(front: Proxy, curve: str, spoken: bool) -> None:
    assert bool(s_client(front, "-groups", curve)) is spoken


def test_the_certificate_for_development_overwrites_nothing(certificates: Certificates) -> None:
    before = {path.name: path.read_bytes() for path in certificates.folder.iterdir()}
    assert before.keys() == {"ca.pem", "fullchain.pem", "privkey.pem"}
    assert stat.S_IMODE((certificates.folder / "privkey.pem").stat().st_mode) == 0o600
    run = subprocess.run(
        [DEPLOY / "make-dev-cert.sh", certificates.folder], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr == (
        f"{certificates.folder}/fullchain.pem is there already: remove it first, or choose another folder.\n"
    )
    assert {path.name: path.read_bytes() for path in certificates.folder.iterdir()} == before


def test_the_certificate_for_development_names_what_it_is_asked_for(tmp_path: Path) -> None:
    subprocess.run([DEPLOY / "make-dev-cert.sh", tmp_path, "asr.example"], check=True, capture_output=True, timeout=30)
    shown = ["openssl", "x509", "-in", str(tmp_path / "fullchain.pem"), "-noout", "-ext", "subjectAltName"]
    names = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:asr.example" in names


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sslyze_finds_nothing_against_the_intermediate_profile(front: Proxy, tmp_path: Path) -> None:
    """In an environment of its own: sslyze wants an older `cryptography` than the service runs with."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", SSLYZE], check=True, timeout=500)
    authority = ["--certinfo_ca_file", str(front.certificates.folder / "ca.pem")]
    run = subprocess.run(
        [python, "-m", "sslyze", "--mozilla_config", "intermediate", *authority, f"localhost:{front.https_port}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sys.stdout.write(run.stdout)
    assert run.returncode == 0, run.stdout
    assert "OK - Compliant." in run.stdout
