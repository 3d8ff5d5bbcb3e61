"""What the audit of the dependencies makes of the answers of advisory databases."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit.py"
FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": [], "description": ""}],
}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


def report(*answers: str) -> tuple[int, str]:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result: tuple[int, str] = module.report(zip(("pypi", "osv"), answers, strict=True))
    return result


def answer(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


@pytest.mark.parametrize(
    ("first", "second", "status", "words"),
    [
        (answer(FINE, UNKNOWN), "", 0, "1 of 2 pinned packages checked with pypi: none known"),
        (answer(FINE, BAD), "", 1, "b 2: PYSEC-1, fixed in 3"),
        (answer(UNKNOWN), answer(BAD), 1, "checked with osv"),
        ("Traceback", answer(FINE), 0, "1 of 1 pinned packages checked with osv"),
        (answer(UNKNOWN), "", 0, "NOT AUDITED"),
        ("", "", 0, "NOT AUDITED"),
        ("[]", "{}", 0, "NOT AUDITED"),
    ],
)
def test_only_a_known_vulnerability_fails(first: str, second: str, status: int, words: str) -> None:
    assert report(first, second)[0] == status
    assert words in report(first, second)[1]
