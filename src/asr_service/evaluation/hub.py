"""Recordings of a Hugging Face dataset, named `hf:org/name[:config[:split]]`.

Owns how such a name is read and how rows become files; the package `datasets` does the rest. Audio is taken as it was
uploaded and decoded by the service like any other.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asr_service.errors import InvalidOption
from asr_service.evaluation import EvaluationError
from asr_service.evaluation.manifest import REFERENCE_COLUMNS, BadRow, Item, column, language_code, text
from asr_service.text import languages

PREFIX = "hf:"
_AUDIO_COLUMNS = ("audio", "file")
_DEFAULT_SPLIT = "test"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset on the hub. `config` None: its default one."""

    name: str
    config: str | None
    split: str


Load = Callable[[Dataset], Iterable[Mapping[str, Any]]]


def parse(given: str) -> Dataset:
    """The dataset that `hf:org/name[:config[:split]]` names; without a split, `test`. Raises EvaluationError."""
    name, *rest = given.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 2:
        raise EvaluationError(f"{given!r} names no dataset; write hf:org/name, hf:org/name:config or with :split.")
    config, split = [*rest, "", ""][:2]
    return Dataset(name, config or None, split or _DEFAULT_SPLIT)


def fetch(
    dataset: Dataset, folder: Path, language: str = "", limit: int | None = None, *, load: Load | None = None
) -> list[Item]:
    """Write the first `limit` recordings into `folder`. Rows without a language have `language`, or the config's one.

    Raises EvaluationError.
    """
    rows = (load or _load)(dataset)
    fallback = language or _language_of(dataset.config)
    items = []
    for index, row in enumerate(itertools.islice(rows, limit)):
        try:
            items.append(_item(row, f"{dataset.split}/{index}", folder / f"{index:07}", fallback))
        except BadRow as problem:
            raise EvaluationError(f"{dataset.name}, row {index}: {problem}.") from None
    if not items:
        raise EvaluationError(f"{dataset.name} has no recordings in its split {dataset.split!r}.")
    return items


def _item(row: Mapping[str, Any], name: str, path: Path, language: str) -> Item:
    audio = column(row, _AUDIO_COLUMNS)
    if not isinstance(audio, Mapping):
        raise BadRow("its audio is not an audio column")
    item = Item(name, Path(audio["path"] or path), text(row, REFERENCE_COLUMNS), language_code(row, language))
    if audio["bytes"] is None:
        return item
    path.write_bytes(audio["bytes"])
    return Item(name, path, item.reference, item.language)


def _language_of(config: str | None) -> str:
    """Many multilingual datasets name their configs after languages: `en_us`, `zh-CN`, `german`."""
    try:
        return languages.resolve(config or "", languages.CODES) or ""
    except InvalidOption:
        return ""


def _load(dataset: Dataset) -> Iterable[Mapping[str, Any]]:
    if find_spec("datasets") is None:
        raise EvaluationError("Datasets of the hub need one more package: pip install datasets.")
    import datasets

    try:
        # A stream: with a limit, only what is used is downloaded.
        rows = datasets.load_dataset(dataset.name, dataset.config, split=dataset.split, streaming=True)
        features = rows.features or {}
        for name in _AUDIO_COLUMNS:
            if name in features:
                rows = rows.cast_column(name, datasets.Audio(decode=False))
        yield from rows
    except (datasets.exceptions.DatasetsError, ImportError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EvaluationError(f"The dataset {dataset.name} cannot be read: {reason}") from None
