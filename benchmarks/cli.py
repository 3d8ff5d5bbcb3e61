"""How the scripts become commands: plain tracebacks, no completion, and nothing left running when they are ended."""

import signal
from collections.abc import Callable

import typer


def start(main: Callable[..., None]) -> None:
    """Run `main` with the options that its signature declares."""
    # asyncio turns an interrupt, but not a termination, into a cancellation that stops all servers first.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
