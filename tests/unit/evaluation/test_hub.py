"""Datasets of the hub: their names, and rows as files."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from asr_service.evaluation import EvaluationError
from asr_service.evaluation.hub import Dataset, fetch, parse


def row(text: str, **more: Any) -> dict[str, Any]:
    return {"audio": {"bytes": text.encode(), "path": "x.mp3"}, "sentence": text, **more}


def rows(*given: Mapping[str, Any]) -> Any:
    return lambda dataset: iter(given)


@pytest.mark.parametrize(
    ("given", "dataset"),
    [
        ("hf:org/name", Dataset("org/name", None, "test")),
        ("hf:org/name:en_us", Dataset("org/name", "en_us", "test")),
        ("hf:org/name:en_us:dev", Dataset("org/name", "en_us", "dev")),
        ("hf:org/name::dev", Dataset("org/name", None, "dev")),
    ],
)
def test_names(given: str, dataset: Dataset) -> None:
    assert parse(given) == dataset


@pytest.mark.parametrize("given", ["hf:", "hf:a:b:c:d"])
def test_names_of_nothing(given: str) -> None:
    with pytest.raises(EvaluationError, match="write hf:org/name"):
        parse(given)


def test_rows_become_files(tmp_path: Path) -> None:
    items = fetch(parse("hf:a/b:zh_cn"), tmp_path, load=rows(row("one"), row("two", locale="de")))

    assert [item.path.read_bytes() for item in items] == [b"one", b"two"]
    assert [(item.name, item.reference, item.language) for item in items] == [
        ("test/0", "one", "zh"),
        ("test/1", "two", "de"),
    ]


def test_audio_that_lies_on_the_disk_already_is_not_copied(tmp_path: Path) -> None:
    there = {"audio": {"bytes": None, "path": "/data/x.wav"}, "text": "x"}

    (item,) = fetch(parse("hf:a/b"), tmp_path, "en", load=rows(there))

    assert item.path == Path("/data/x.wav")
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_read_than_wanted(tmp_path: Path) -> None:
    seen = []

    def load(dataset: Dataset) -> Iterator[Mapping[str, Any]]:
        for number in range(10):
            seen.append(number)
            yield row("x")

    assert len(fetch(parse("hf:a/b"), tmp_path, "en", 3, load=load)) == 3
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "language", "sentence"),
    [
        ([], "en", "a/b has no recordings in its split 'test'."),
        ([row("x")], "", "a/b, row 0: its language is not given"),
        ([{"text": "x"}], "en", "a/b, row 0: it has none of the columns audio, file."),
        ([{"text": "x", "audio": "x.wav"}], "en", "a/b, row 0: its audio is not an audio column."),
    ],
)
def test_what_is_wrong(tmp_path: Path, given: Iterable[Mapping[str, Any]], language: str, sentence: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        fetch(parse("hf:a/b:default"), tmp_path, language, load=rows(*given))
    assert str(caught.value).startswith(sentence)


@pytest.mark.skipif(find_spec("datasets") is not None, reason="the package is installed")
def test_a_missing_package_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="pip install datasets"):
        fetch(parse("hf:a/b"), tmp_path)
