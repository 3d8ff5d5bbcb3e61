"""The shell scripts, read by shellcheck."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = [ROOT / ".ci" / "run"] + [
    script for folder in ("deploy", "docker", "examples") for script in sorted((ROOT / folder).rglob("*.sh"))
]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="not installed (Debian: apt-get install shellcheck)")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")
