"""How the scripts become commands: plain tracebacks, no shell completion."""

from collections.abc import Callable

import typer


def start(main: Callable[..., None]) -> None:
    """Run `main` with the options that its signature declares."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
