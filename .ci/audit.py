"""Asks the public advisory databases about every pinned dependency: `make audit`.

A known vulnerability ends it with 1. Where no database can be asked it says so and ends with 0: a build without a way
to the internet is not a vulnerable one.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv" / "audit"
AUDITOR = "pip-audit==2.10.1"
SERVICES = ("pypi", "osv")
LIMIT_S = 300


def report(answers: Iterable[tuple[str, str]]) -> tuple[int, str]:
    """Exit status and message from what the services, by name, answered; the first that knows anything counts."""
    for service, answer in answers:
        try:
            dependencies: list[dict[str, Any]] = json.loads(answer)["dependencies"]
        except (ValueError, KeyError, TypeError):
            continue
        known = [dependency for dependency in dependencies if "vulns" in dependency]
        if not known:
            continue
        found = [
            f"{dependency['name']} {dependency['version']}: {vulnerability['id']}, "
            f"fixed in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
            for dependency in known
            for vulnerability in dependency["vulns"]
        ]
        checked = f"{len(known)} of {len(dependencies)} pinned packages checked with {service}"
        return (
            (1, "\n".join([f"{checked}; known vulnerabilities:", *found])) if found else (0, f"{checked}: none known")
        )
    return 0, "NOT AUDITED: no advisory database can be reached from here"


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def main() -> int:
    """Audit constraints.txt with an auditor in an environment of its own."""
    python = HOME / "bin" / "python"
    if not python.exists():
        venv.create(HOME, with_pip=True)
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", AUDITOR)
    options = ("--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--format", "json", "--timeout", "15")
    status, message = report(
        (service, _run(str(python), "-m", "pip_audit", *options, "--vulnerability-service", service))
        for service in SERVICES
    )
    print(message)  # noqa: T201 - this is what it is for
    return status


if __name__ == "__main__":
    sys.exit(main())
