"""API keys: the file with their hashes, changed by commands and read by a running service."""

import json
import os
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from asr_service.auth import AuthUnusable, Refused, key_store
from asr_service.auth.grants import Limits
from asr_service.auth.keys import KeyFile, hash_of, parse
from asr_service.callers import Caller, CallerLimits
from tests.unit.auth.standins import Clock

pytestmark = pytest.mark.anyio
Lines = list[MutableMapping[str, Any]]


def create(path: Path, name: str = "web", expires: datetime | None = None) -> str:
    return key_store.create(path, name, ["transcribe"], Limits(requests_per_minute=5), expires)[0]


def text_of(path: Path) -> str:
    return path.read_text()


def put(path: Path, text: str | None) -> None:
    """Write the file as an editor would, or delete it."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


async def reason(keys: KeyFile, key: str) -> str:
    with pytest.raises(Refused) as caught:
        await keys.check(key)
    return caught.value.reason


async def test_a_key_is_recognised_by_its_hash(path: Path) -> None:
    key = create(path)

    assert (await KeyFile(path).check(key)).caller() == Caller(
        "key:web", frozenset(("transcribe",)), CallerLimits(requests_per_minute=5)
    )
    content = text_of(path)
    assert key[-43:] not in content
    assert hash_of(key) in content


def test_keys_differ_and_have_32_random_bytes(path: Path) -> None:
    keys = {create(path, f"web{number}") for number in range(20)}

    assert len({key[-43:] for key in keys}) == 20
    assert all(len(key) == len("asr_12345678_") + 43 for key in keys)


async def test_what_does_not_count(path: Path) -> None:
    key, other = create(path), create(path, "other")
    keys = KeyFile(path)

    assert await reason(keys, key[:-1] + ("A" if key[-1] != "A" else "B")) == "unknown"
    assert await reason(keys, key[:13] + other[13:]) == "unknown"
    assert await reason(keys, "asr_00000000" + key[12:]) == "unknown"
    for malformed in ("", "asr_", key + "x", key[:-1], key.upper(), f" {key}", key + "\n"):
        assert await reason(keys, malformed) == "malformed"


async def test_a_key_ends_at_its_time(path: Path) -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    key = create(path, expires=end)

    early = KeyFile(path, now=lambda: end - timedelta(seconds=1))
    assert (await early.check(key)).name == "web"
    assert await reason(KeyFile(path, now=lambda: end), key) == "expired"


async def test_a_running_service_sees_changes_within_a_second(path: Path) -> None:
    clock = Clock()
    first = create(path)
    keys = KeyFile(path, clock=clock)
    second = create(path, "second")

    assert await reason(keys, second) == "unknown"
    clock.now += 1
    assert (await keys.check(second)).name == "second"

    key_store.revoke(path, "web")
    assert (await keys.check(first)).name == "web"
    clock.now += 1
    assert await reason(keys, first) == "revoked"
    assert (await keys.check(second)).name == "second"


@pytest.mark.parametrize("broken", ["{", "", None])
async def test_a_broken_file_keeps_the_last_good_keys_and_is_logged_once(path: Path, broken: str | None) -> None:
    clock = Clock()
    key = create(path)
    good = text_of(path)
    keys = KeyFile(path, clock=clock)
    put(path, broken)

    with capture_logs() as lines:
        for _ in range(3):
            clock.now += 1
            assert (await keys.check(key)).name == "web"
    assert [(line["log_level"], str(path) in line["error"]) for line in lines] == [("error", True)]

    put(path, good)
    key_store.revoke(path, "web")
    clock.now += 1
    assert await reason(keys, key) == "revoked"


ENTRY = {
    "id": "0123abcd",
    "name": "web",
    "sha256": "0" * 64,
    "scopes": ["transcribe"],
    "created": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": "x"}, "id"),
        ({"name": "a b"}, "name"),
        ({"sha256": "0"}, "sha256"),
        ({"scopes": ["root"]}, "root"),
        ({"created": "2026-01-01T00:00:00"}, "created"),
        ({"limits": {"concurrent": -1}}, "concurrent"),
        ({"limits": {"concurent": 1}}, "concurent"),
        ({"scope": "transcribe"}, "scope"),
    ],
)
def test_an_entry_that_is_not_right_is_an_error(change: dict[str, Any], sentence: str) -> None:
    assert parse(json.dumps({"version": 1, "keys": [ENTRY]}).encode(), Path("k")).keys[0].name == "web"
    with pytest.raises(AuthUnusable, match=f"k is not a key file: .*{sentence}"):
        parse(json.dumps({"version": 1, "keys": [ENTRY | change]}).encode(), Path("k"))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b'{"version": 2}', json.dumps({"version": 1, "keys": [ENTRY, ENTRY]}).encode()],
    ids=["empty", "list", "bytes", "version", "twice"],
)
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(AuthUnusable, match="k is not a key file: "):
        parse(content, Path("k"))


def test_a_missing_file_ends_the_start(path: Path) -> None:
    with pytest.raises(AuthUnusable, match="asr-service keys create"):
        KeyFile(path)


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:
        create(path)
        path.chmod(0o644)
        create(path, "second")
    finally:
        os.umask(before)

    assert {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == {
        "keys.json": "0o600",
        "keys.json.lock": "0o600",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_keeps_its_owner(path: Path) -> None:
    create(path)
    os.chown(path, 65534, 65533)

    create(path, "second")

    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "keys.json")

    create(path)
    create(path, "second")

    assert path.is_symlink()
    assert [key.name for key in key_store.read(path)] == ["web", "second"]


def test_commands_at_once_do_not_undo_each_other(path: Path) -> None:
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        create(path, f"web{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(key.name for key in key_store.read(path)) == [f"web{number}" for number in range(8)]


def test_a_name_is_free_again_when_its_key_is_revoked(path: Path) -> None:
    create(path)
    with pytest.raises(AuthUnusable, match="There is a key 'web' already"):
        create(path)

    key_store.revoke(path, "web")
    create(path)

    assert [key.revoked is None for key in key_store.read(path)] == [False, True]


def test_keys_are_revoked_by_name_or_id(path: Path) -> None:
    create(path, "a")
    create(path, "b")
    second = key_store.read(path)[1]

    assert key_store.revoke(path, "a").name == "a"
    assert key_store.revoke(path, second.id).name == "b"
    with pytest.raises(AuthUnusable, match="There is no key 'a' to revoke"):
        key_store.revoke(path, "a")


def test_a_file_that_cannot_be_used_is_not_overwritten(path: Path) -> None:
    path.write_text("precious")

    with pytest.raises(AuthUnusable, match="is not a key file"):
        create(path)

    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_one_sentence(path: Path) -> None:
    with pytest.raises(AuthUnusable, match="No such file or directory"):
        create(path / "deeper" / "keys.json")
