"""`asr-service keys`: what the commands print and refuse."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asr_service.auth import key_store
from asr_service.auth.command import app, expiry
from asr_service.auth.keys import KeyFile

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Shell:
    """Runs commands on a key file that is set."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, arguments, obj=lambda: self.path)
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "keys.json")


@pytest.mark.anyio
async def test_create_prints_the_key_alone_to_stdout(shell: Shell) -> None:
    code, out, err = shell("create", "web", "--scope", "metrics", "--scope", "transcribe", "--concurrent", "2")

    assert code == 0
    assert shell.path is not None
    entry = await KeyFile(shell.path).check(out.removesuffix("\n"))
    assert (entry.scopes, entry.limits.concurrent, entry.limits.requests_per_minute) == (
        ("metrics", "transcribe"),
        2,
        None,
    )
    assert entry.id in err
    assert "for metrics, transcribe, expires never" in err
    assert out.strip() not in err


def test_without_a_scope_a_key_is_for_transcribing(shell: Shell) -> None:
    shell("create", "web")

    assert shell.path is not None
    assert key_store.read(shell.path)[0].scopes == ("transcribe",)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("create", "a b"), "A name has 1 to 64 of letters"),
        (("create", "web", "--expires", "tomorrow"), "--expires 'tomorrow' should be a span such as 90d"),
        (("create", "web", "--expires", "2020-01-01"), "--expires '2020-01-01' lies in the past."),
        (("create", "web", "--concurrent", "-1"), "greater than or equal to 0"),
        (("create", "web", "--scope", "root"), "--scope"),
    ],
)
def test_wrong_usage_makes_no_file(shell: Shell, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = shell(*arguments)

    assert (code, out) == (2, "")
    assert sentence in err
    assert shell.path is not None
    assert not shell.path.exists()


def test_a_name_that_is_taken_is_one_sentence_and_exit_code_1(shell: Shell) -> None:
    shell("create", "web")

    assert shell("create", "web") == (
        1,
        "",
        "There is a key 'web' already: revoke it first, or choose another name.\n",
    )


def test_keys_are_listed_without_their_hashes(shell: Shell) -> None:
    shell("create", "web", "--requests-per-minute", "5", "--expires", "90d")
    shell("create", "ops", "--scope", "admin")
    shell("revoke", "ops")

    _, table, _ = shell("list")
    _, lines, _ = shell("list", "--json")

    rows = [json.loads(line) for line in lines.splitlines()]
    assert [(row["name"], row["state"], row["scopes"], row["limits"]) for row in rows] == [
        ("web", "active", ["transcribe"], {"requests_per_minute": 5}),
        ("ops", "revoked", ["admin"], {}),
    ]
    assert shell.path is not None
    for key, row in zip(key_store.read(shell.path), rows, strict=True):
        assert key.sha256 not in table + lines
        line = next(line for line in table.splitlines() if key.id in line)
        assert line.split()[1:3] == [row["name"], row["state"]]


def test_revoke_says_which(shell: Shell) -> None:
    shell("create", "web")

    code, out, err = shell("revoke", "web")

    assert (code, out) == (0, "")
    assert err.startswith("Key 'web', id ")
    assert shell("revoke", "web")[0] == 1


@pytest.mark.parametrize("command", [("create", "web"), ("list",), ("revoke", "web")])
def test_the_file_has_to_be_named(command: tuple[str, ...], tmp_path: Path) -> None:
    assert Shell(None)(*command) == (2, "", "Which key file? Set ASR_AUTH__KEYS_FILE, or name it with --file.\n")

    code, _, err = Shell(None)("list", "--file", str(tmp_path / "no.json"))
    assert (code, err) == (1, f"{tmp_path}/no.json: No such file or directory.\n")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("never", None),
        ("12h", NOW + timedelta(hours=12)),
        ("90d", NOW + timedelta(days=90)),
        ("8w", NOW + timedelta(weeks=8)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T10:00+02:00", datetime(2027, 1, 31, 10, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_expiry(text: str, end: datetime | None) -> None:
    assert expiry(text, NOW) == end


@pytest.mark.parametrize("text", ["", "0d", "1y", "-1d", "99999w9", "2026-11-22T12:00", "2026-13-01", "90 d"])
def test_no_expiry(text: str) -> None:
    with pytest.raises(ValueError, match=r"should be a span|lies in the past"):
        expiry(text, NOW)
