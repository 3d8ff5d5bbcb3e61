"""Settings as logs may show them: what was changed, with secrets masked.

Owns which values are secret. Knows no setting by name.
"""

import types
import typing
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

MASK = "***"
_ADDRESSES = ("redis://", "rediss://")


def leaves(tree: type[BaseModel], prefix: str, delimiter: str) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Each setting's variable, the path of its field, and whether it is a secret."""
    for name, field in tree.model_fields.items():
        variable = prefix + name.upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for inner, path, secret in leaves(field.annotation, variable + delimiter, delimiter):
                yield inner, (name, *path), secret
        else:
            yield variable, (name,), SecretStr in _members(field.annotation)


def _members(annotation: object) -> tuple[object, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def value_at(settings: BaseModel, path: tuple[str, ...]) -> object:
    """The value of the field at `path`."""
    value: object = settings
    for name in path:
        value = getattr(value, name)
    return value


def masked(value: object) -> object:
    """A value as a log may show it: of a secret nothing, of an address all but its password and its query."""
    if isinstance(value, SecretStr):
        # What merely looks like an address may be a secret all the same.
        text = value.get_secret_value()
        return (masked_url(text) if text.startswith(_ADDRESSES) else None) or MASK
    if isinstance(value, str):
        return masked_url(value) or value
    return value if isinstance(value, bool | int | float | None) else str(value)


def masked_url(text: str) -> str | None:
    """An address without what may be secret in it; None when it is none."""
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        # Such as [ without ]: an address that nobody can tell the parts of.
        return MASK
    if not parts.scheme or not host:
        return None
    place = parts.netloc.rpartition("@")[2]
    who = f"{MASK}@" if "@" in parts.netloc else ""
    return f"{parts.scheme}://{who}{place}{parts.path}{f'?{MASK}' if parts.query else ''}"


def texts_of(secret: SecretStr) -> Iterator[str]:
    """What must appear in no log: the secret itself and, of an address, its password as written and as meant."""
    text = secret.get_secret_value()
    yield text
    try:
        password = urlsplit(text).password
    except ValueError:
        return
    if password:
        yield password
        yield unquote(password)
