"""Every dependency is pinned, and its reason is written down."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def canonical(requirement: str) -> str:
    """The normalised name of the package that a requirement asks for."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in entries}


DEPENDENCIES = sorted(
    {
        canonical(requirement)
        for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for requirement in group
    }
)


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_a_dependency_has_an_exact_version(name: str) -> None:
    assert name in pins()


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_a_dependency_has_a_documented_reason(name: str) -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{re.escape(name)}` \| \S", reasons, re.MULTILINE)


def test_pins_hold_on_every_platform() -> None:
    """A local version such as `+cpu` exists in one registry only."""
    assert [name for name, version in pins().items() if not re.fullmatch(r"[0-9][0-9a-z.]*", version)] == []


@pytest.mark.parametrize("extra", ["eval", "otel", "ui"])
def test_development_has_what_extras_need(extra: str) -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(extras[extra]) <= set(extras["dev"])
