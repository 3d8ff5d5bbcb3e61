"""The command `asr-service probe`.

Owns its options, what it prints (one line of JSON), and exit codes: 0 well, 1 not well, 2 wrong usage.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from asr_service.probe.check import Bounds, check
from asr_service.probe.http import Target, target

_DEFAULT = Bounds()


def main(arguments: Sequence[str]) -> None:
    """Run the command with `arguments`, without loading any other command of the service."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(probe)
    alone(args=list(arguments), prog_name="asr-service probe")


def probe(
    url: Annotated[str, typer.Argument(help="Address of the service, or of the proxy in front of it.")] = (
        "http://127.0.0.1:8000"
    ),
    ready_only: Annotated[
        bool, typer.Option("--ready-only", help="Only ask /readyz: cheap, for checks every few seconds.")
    ] = False,
    api_key: Annotated[
        str, typer.Option(envvar="PROBE_API_KEY", help="API key or token; others can read it in the process list.")
    ] = "",
    api_key_file: Annotated[Path | None, typer.Option(help="File that holds the API key or token.")] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds until the probe gives up, altogether.")
    ] = _DEFAULT.timeout_s,
    max_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds that the transcription may take.")
    ] = _DEFAULT.transcription_s,
    max_error_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the words that may be wrong.")
    ] = _DEFAULT.error_rate,
    ca_file: Annotated[Path | None, typer.Option(help="PEM file of the authority to trust, for https.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Trust any certificate.")] = False,
) -> None:
    """Check a service that runs: is it ready, does it understand a sentence, in time? Exit code 0 or 1."""
    asked = _target(url, api_key, api_key_file, ca_file, insecure=insecure)
    report = check(asked, Bounds(timeout, max_seconds, max_error_rate), ready_only=ready_only)
    typer.echo(json.dumps(dataclasses.asdict(report)))
    if not report.ok:
        raise typer.Exit(1)


def _target(url: str, api_key: str, api_key_file: Path | None, ca_file: Path | None, *, insecure: bool) -> Target:
    if insecure and ca_file is not None:
        _misused("--insecure trusts any certificate, so that --ca-file has no meaning: leave one of them out.")
    if api_key_file is not None:
        try:
            api_key = api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            _misused(f"{api_key_file}: {reason}.")
    try:
        return target(url, api_key, ca_file=ca_file, insecure=insecure)
    except ValueError as error:
        _misused(str(error))


def _misused(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(2) from None
