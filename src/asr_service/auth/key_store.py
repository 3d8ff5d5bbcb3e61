"""Changing the key file: a new key, a revoked one.

Owns that the file is whole at any moment, readable by its owner only, and that two commands at once do not undo each
other.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from asr_service.auth import AuthUnusable
from asr_service.auth.grants import Limits
from asr_service.auth.keys import ApiKey, KeyDocument, hash_of, new_key, parse
from asr_service.callers import Scope

_OWNER_ONLY = 0o600


def create(
    path: Path, name: str, scopes: Sequence[Scope], limits: Limits, expires: datetime | None
) -> tuple[str, ApiKey]:
    """Add a key to the file, which is made if there is none. Returns the key, which is kept nowhere, and its entry.

    Raises AuthUnusable when the name is taken by a key that is not revoked, or the file cannot be used.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    with _changing(path) as document:
        if any(key.name == name and key.revoked is None for key in document.keys):
            raise AuthUnusable(f"There is a key {name!r} already: revoke it first, or choose another name.")
        taken = {key.id for key in document.keys}
        secret, key_id = new_key()
        while key_id in taken:
            secret, key_id = new_key()
        entry = ApiKey(key_id, name, hash_of(secret), tuple(scopes), now, expires, None, limits)
        _write(path, msgspec.structs.replace(document, keys=(*document.keys, entry)))
    return secret, entry


def revoke(path: Path, name_or_id: str) -> ApiKey:
    """Mark a key as revoked and return its entry. Raises AuthUnusable when no valid key has this name or id."""
    now = datetime.now(UTC).replace(microsecond=0)
    with _changing(path) as document:
        valid = [key for key in document.keys if key.revoked is None]
        found = [key for key in valid if key.id == name_or_id] or [key for key in valid if key.name == name_or_id]
        if not found:
            raise AuthUnusable(f"There is no key {name_or_id!r} to revoke; `asr-service keys list` lists all.")
        revoked = msgspec.structs.replace(found[0], revoked=now)
        keys = tuple(revoked if key.id == revoked.id else key for key in document.keys)
        _write(path, msgspec.structs.replace(document, keys=keys))
    return revoked


def read(path: Path) -> tuple[ApiKey, ...]:
    """All keys of the file. Raises AuthUnusable."""
    try:
        return parse(path.read_bytes(), path).keys
    except OSError as error:
        raise AuthUnusable(f"{path}: {error.strerror}.") from None


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[KeyDocument]:
    """The file's content, while nobody else changes it."""
    try:
        # A file beside it: the key file itself is replaced, and a lock on it would be left on the old one.
        lock = os.open(f"{_real(path)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
    except OSError as error:
        raise AuthUnusable(f"{path} cannot be changed: {error.strerror}.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            document = parse(path.read_bytes(), path)
        except FileNotFoundError:
            document = KeyDocument()
        except OSError as error:
            raise AuthUnusable(f"{path}: {error.strerror}.") from None
        yield document
    finally:
        os.close(lock)


def _write(path: Path, document: KeyDocument) -> None:
    target = _real(path)
    content = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                os.fchmod(file.fileno(), _OWNER_ONLY)
                _keep_owner(file.fileno(), target)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise AuthUnusable(f"{path} cannot be written: {error.strerror}.") from None


def _keep_owner(descriptor: int, target: Path) -> None:
    """The administrator's command must not lock out the service's user."""
    with contextlib.suppress(FileNotFoundError):
        before, now = target.stat(), os.fstat(descriptor)
        if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)


def _real(path: Path) -> Path:
    # Through a symbolic link the file behind it is replaced, not the link.
    return path.resolve()
