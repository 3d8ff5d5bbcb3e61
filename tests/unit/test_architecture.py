"""Rules on the source text that neither lint nor the import contracts can express."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "asr_service"
MODULES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py"))
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def parse(module: str) -> ast.Module:
    return ast.parse((SOURCE / module).read_text(encoding="utf-8"))


def environment_uses(tree: ast.AST) -> Iterator[int]:
    """Lines that read or change the environment of the process through `os`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name, lineno=line) if name in ENVIRONMENT:
                yield line
            case ast.ImportFrom(module="os", names=names, lineno=line) if ENVIRONMENT & {n.name for n in names}:
                yield line


def swallowed_errors(tree: ast.AST) -> Iterator[int]:
    """Lines of `except` clauses that name no exception or do nothing about it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            does_nothing = all(
                isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
                for line in node.body
            )
            if node.type is None or does_nothing:
                yield node.lineno


def imported_packages(tree: ast.AST) -> set[str]:
    """Top-level names of all that is imported anywhere in the module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name.partition(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module)):
                names.add(module.partition(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_only_settings_uses_the_environment(module: str) -> None:
    assert module.startswith("settings/") or list(environment_uses(parse(module))) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_error_is_swallowed(module: str) -> None:
    assert list(swallowed_errors(parse(module))) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_owns(module: str) -> None:
    assert ast.get_docstring(parse(module))


def test_the_scheduler_is_pure_policy() -> None:
    assert imported_packages(parse("engine/scheduler.py")) & {"torch", "asyncio", "threading"} == set()


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['A']",
        "import os\nos.getenv('A')",
        "from os import environ",
        "from os import path, getenv",
    ],
)
def test_uses_of_the_environment_are_found(source: str) -> None:
    assert list(environment_uses(ast.parse(source))) != []


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        ("except OSError:\n    pass", True),
        ("except OSError:\n    ...", True),
        ("except:\n    raise", True),
        ("except OSError as error:\n    raise ValueError from error", False),
        ("except OSError:\n    result = None", False),
    ],
)
def test_swallowed_errors_are_found(handler: str, found: bool) -> None:
    assert bool(list(swallowed_errors(ast.parse(f"try:\n    work()\n{handler}")))) is found


def test_imports_are_found_wherever_they_stand() -> None:
    tree = ast.parse("import a.b\nfrom c.d import e\ndef f():\n    import g as h\nfrom . import i")
    assert imported_packages(tree) == {"a", "c", "g"}
