"""`asr-service keys`: create, list and revoke API keys.

Owns these commands' options and what they print. The context's object is a function that says where the key file is
when --file does not.
"""

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from asr_service.auth import AuthUnusable, key_store
from asr_service.auth.grants import Limits, limits_to_json
from asr_service.auth.keys import NAME_PATTERN, ApiKey
from asr_service.callers import Scope

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_WIDTH = 160
_LIMIT_HELP = "instead of what the service's settings say; 0: no limit."


class KeyScope(StrEnum):
    """What a key is for."""

    TRANSCRIBE = "transcribe"
    METRICS = "metrics"
    ADMIN = "admin"


app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
_FILE = typer.Option("--file", help="The key file (ASR_AUTH__KEYS_FILE).")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who the key is for. Limits and logs go by this name.")],
    scope: Annotated[
        list[KeyScope] | None, typer.Option(help="What the key allows; can be repeated. Default: transcribe.")
    ] = None,
    expires: Annotated[
        str, typer.Option(help="After 12h, 90d or 8w, on a date (2027-01-31, UTC), or never.")
    ] = "never",
    requests_per_minute: Annotated[int | None, typer.Option(min=0, help=f"Requests a minute, {_LIMIT_HELP}")] = None,
    audio_s_per_minute: Annotated[
        int | None, typer.Option(min=0, help=f"Seconds of audio a minute, {_LIMIT_HELP}")
    ] = None,
    audio_s_per_day: Annotated[int | None, typer.Option(min=0, help=f"Seconds of audio a day, {_LIMIT_HELP}")] = None,
    concurrent: Annotated[int | None, typer.Option(min=0, help=f"Requests at once, {_LIMIT_HELP}")] = None,
    file: Annotated[Path | None, _FILE] = None,
) -> None:
    """Make a key and print it, this once. A running service takes it within a second."""
    if not re.fullmatch(NAME_PATTERN, name):
        _fail("A name has 1 to 64 of letters, digits, '.', '_', '@' and '-', and starts with a letter or digit.", 2)
    scopes: list[Scope] = [one.value for one in dict.fromkeys(scope or [KeyScope.TRANSCRIBE])]
    limits = Limits(requests_per_minute, audio_s_per_minute, audio_s_per_day, concurrent)
    try:
        end = expiry(expires, datetime.now(UTC))
    except ValueError as error:
        _fail(f"--expires {error}", code=2)
    try:
        key, entry = key_store.create(_located(context, file), name, scopes, limits, end)
    except AuthUnusable as error:
        _fail(str(error))
    # The key alone goes to stdout, for KEY=$(asr-service keys create …).
    typer.echo(key)
    typer.echo(
        f"Key {entry.name!r}, id {entry.id}, for {', '.join(entry.scopes)}, expires {_day(entry.expires)}. "
        "It is shown this once; the file has its hash only.",
        err=True,
    )


@app.command("list")
def list_keys(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per key.")] = False,
    file: Annotated[Path | None, _FILE] = None,
) -> None:
    """Print all keys, without what one would need to use them."""
    try:
        keys = key_store.read(_located(context, file))
    except AuthUnusable as error:
        _fail(str(error))
    now = datetime.now(UTC)
    if as_json:
        for key in keys:
            typer.echo(json.dumps(_row(key, now)))
    else:
        _print_table([_row(key, now) for key in keys])


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="A key's name or id.")],
    file: Annotated[Path | None, _FILE] = None,
) -> None:
    """Make a key useless, within a second in a running service. Tokens made from it last until they expire."""
    try:
        entry = key_store.revoke(_located(context, file), key)
    except AuthUnusable as error:
        _fail(str(error))
    typer.echo(f"Key {entry.name!r}, id {entry.id}, is revoked.", err=True)


def expiry(text: str, now: datetime) -> datetime | None:
    """When `text` says that a key ends; None for never. Raises ValueError."""
    if text == "never":
        return None
    try:
        if match := re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text):
            return (now + int(match[1]) * _UNITS[match[2]]).replace(microsecond=0)
        end = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} should be a span such as 90d, a date such as 2027-01-31, or never.") from None
    end = end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)
    if end <= now:
        raise ValueError(f"{text!r} lies in the past.")
    return end


def _located(context: typer.Context, file: Path | None) -> Path:
    where: Callable[[], Path | None] = context.obj
    path = file or where()
    if path is None:
        _fail("Which key file? Set ASR_AUTH__KEYS_FILE, or name it with --file.", code=2)
    return path


def _row(key: ApiKey, now: datetime) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(now),
        "scopes": list(key.scopes),
        "created": key.created.isoformat(),
        "expires": key.expires.isoformat() if key.expires else None,
        "limits": limits_to_json(key.limits.as_caller_limits()),
    }


def _print_table(rows: list[dict[str, object]]) -> None:
    table = Table(box=box.SIMPLE, header_style="")
    for title in ("id", "name", "state", "scopes", "created", "expires", "limits"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        scopes, limits = row["scopes"], row["limits"]
        assert isinstance(scopes, list)
        assert isinstance(limits, dict)
        table.add_row(
            str(row["id"]),
            str(row["name"]),
            str(row["state"]),
            "\n".join(scopes),
            str(row["created"])[:10],
            str(row["expires"] or "never")[:10],
            "\n".join(f"{name}={amount}" for name, amount in limits.items()) or "-",
        )
    width = None if sys.stdout.isatty() else _WIDTH
    Console(file=sys.stdout, width=width, highlight=False, markup=False).print(table)


def _day(moment: datetime | None) -> str:
    return moment.isoformat(timespec="minutes") if moment is not None else "never"


def _fail(sentence: str, code: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(code) from None
