"""Manifests: which recordings to evaluate, what is said in them, and in which language.

Owns the two file formats (TSV with a header, JSON Lines), the names of columns, and what is wrong with a manifest.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_service.errors import InvalidOption
from asr_service.evaluation import EvaluationError
from asr_service.text import languages

AUDIO_COLUMNS = ("audio", "file", "path")
REFERENCE_COLUMNS = ("reference", "text", "transcript", "transcription", "sentence")
LANGUAGE_COLUMNS = ("language", "lang", "locale")
_MOST_PROBLEMS = 5


class BadRow(Exception):
    """What is wrong with one row, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Item:
    """A recording and what is said in it. `name`: the audio as the manifest has it. `language`: a code of ours."""

    name: str
    path: Path
    reference: str
    language: str


def read(path: Path, language: str = "", limit: int | None = None) -> list[Item]:
    """The first `limit` recordings of a manifest; `language` is that of rows that name none. Paths are relative to it.

    Raises EvaluationError.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise EvaluationError(f"{path} is not text in UTF-8.") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    rows = _json_rows(numbered) if numbered and numbered[0][1].lstrip().startswith("{") else _table_rows(path, numbered)
    return _items(path, rows, language, limit)


def column(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The value of the first of the columns `names` that the row has. Raises BadRow."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise BadRow(f"it has none of the columns {', '.join(names)}")


def text(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """The same, for text. Raises BadRow."""
    value = column(row, names)
    if not isinstance(value, str):
        raise BadRow(f"{value!r} should be text")
    return value


def language_code(row: Mapping[str, Any], otherwise: str) -> str:
    """The code of the row's language; `otherwise` is that of rows without one. Raises BadRow."""
    named = any(row.get(name) for name in LANGUAGE_COLUMNS)
    wanted = text({name: row[name] for name in LANGUAGE_COLUMNS if row.get(name)}, LANGUAGE_COLUMNS) if named else ""
    try:
        code = languages.resolve(wanted or otherwise, languages.CODES)
    except InvalidOption:
        raise BadRow(f"the language {wanted or otherwise!r} is not known") from None
    if code is None:
        raise BadRow("its language is not given: add a column `language`, or use --language")
    return code


def _json_rows(lines: list[tuple[int, str]]) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    for number, line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            yield number, BadRow("it is not JSON")
            continue
        yield number, row if isinstance(row, dict) else BadRow("it is not a JSON object")


def _table_rows(path: Path, lines: list[tuple[int, str]]) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    if not lines:
        return
    header = [name.strip().lower() for name in lines[0][1].split("\t")]
    if not set(header) & set(AUDIO_COLUMNS) or not set(header) & set(REFERENCE_COLUMNS):
        raise EvaluationError(
            f"{path}: the first line must name the columns, separated by tabs: "
            f"one of {', '.join(AUDIO_COLUMNS)}; one of {', '.join(REFERENCE_COLUMNS)}; and `language` if it varies."
        )
    for number, line in lines[1:]:
        fields = line.split("\t")
        if len(fields) == len(header):
            yield number, dict(zip(header, map(str.strip, fields), strict=True))
        else:
            yield number, BadRow(f"it has {len(fields)} columns, the header has {len(header)}")


def _items(
    path: Path, rows: Iterator[tuple[int, Mapping[str, Any] | BadRow]], language: str, limit: int | None
) -> list[Item]:
    items: list[Item] = []
    problems: list[str] = []
    for number, row in rows:
        if limit is not None and len(items) >= limit:
            break
        try:
            items.append(_item(path.parent, row, language))
        except BadRow as problem:
            problems.append(f"{path}, line {number}: {problem}.")
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        raise EvaluationError("\n".join(problems[:_MOST_PROBLEMS] + ([f"… and {more} more."] if more > 0 else [])))
    if not items:
        raise EvaluationError(f"{path} names no recordings.")
    return items


def _item(folder: Path, row: Mapping[str, Any] | BadRow, language: str) -> Item:
    if isinstance(row, BadRow):
        raise row
    name = text(row, AUDIO_COLUMNS)
    audio = folder / Path(name).expanduser()
    if not audio.is_file():
        raise BadRow(f"there is no file {audio}")
    return Item(name, audio, text(row, REFERENCE_COLUMNS), language_code(row, language))
