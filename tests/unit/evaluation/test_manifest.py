"""Manifests: both formats, and a sentence for whatever is wrong."""

import json
from pathlib import Path

import pytest

from asr_service.evaluation import EvaluationError
from asr_service.evaluation.manifest import Item, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).write_bytes(b"audio")
    return tmp_path


def write(folder: Path, *lines: str) -> Path:
    path = folder / "manifest"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problem(path: Path, language: str = "") -> str:
    with pytest.raises(EvaluationError) as caught:
        read(path, language)
    return str(caught.value).replace(f"{path}", "M")


def test_reads_a_table(folder: Path) -> None:
    path = write(folder, "language\tReference\tfile", 'en\tHe said "hi".\tone.wav', "", "zh-CN\t你好\ttwo.wav")

    assert read(path) == [
        Item("one.wav", folder / "one.wav", 'He said "hi".', "en"),
        Item("two.wav", folder / "two.wav", "你好", "zh"),
    ]


def test_reads_json_lines(folder: Path) -> None:
    rows: list[dict[str, object]] = [
        {"audio": str(folder / "one.wav"), "text": "one\ttwo", "language": "German"},
        {"file": "two.wav", "reference": "", "language": None, "speaker": 7},
    ]
    path = write(folder, *map(json.dumps, rows))

    assert read(path, "yue") == [
        Item(str(folder / "one.wav"), folder / "one.wav", "one\ttwo", "de"),
        Item("two.wav", folder / "two.wav", "", "yue"),
    ]


def test_a_mark_of_the_byte_order_is_no_part_of_the_header(folder: Path) -> None:
    path = folder / "manifest"
    path.write_text("audio\treference\none.wav\tone\n", encoding="utf-8-sig")

    assert [item.reference for item in read(path, "en")] == ["one"]


def test_the_limit_stops_before_rows_that_are_wrong(folder: Path) -> None:
    path = write(folder, "audio\ttext", "one.wav\tone", "missing.wav\tx")

    assert len(read(path, "en", limit=1)) == 1
    with pytest.raises(EvaluationError):
        read(path, "en", limit=2)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["one.wav,one"], "M: the first line must name the columns, separated by tabs: "),
        (["audio\ttext"], "M names no recordings."),
        ([""], "M names no recordings."),
        (["audio\ttext", "one.wav"], "M, line 2: it has 1 columns, the header has 2."),
        (["audio\ttext", "missing.wav\tx"], "M, line 2: there is no file "),
        (["audio\ttext", "one.wav\tx"], "M, line 2: its language is not given: add a column `language`, or use "),
        (["audio\ttext\tlanguage", "one.wav\tx\tklingon"], "M, line 2: the language 'klingon' is not known."),
        (["audio\ttext\tlanguage", "one.wav\tx\tauto"], "M, line 2: its language is not given"),
        (
            ['{"audio": "one.wav", "text": "x"', "{}"],
            "M, line 1: it is not JSON.\nM, line 2: it has none of the columns",
        ),
        (['{"audio": "one.wav", "text": "x", "language": "en"}', "[]"], "M, line 2: it is not a JSON object."),
        (['{"audio": 5, "text": "x"}'], "M, line 1: 5 should be text."),
        (['{"audio": "one.wav"}'], "M, line 1: it has none of the columns reference, text,"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder: Path, lines: list[str], sentence: str) -> None:
    assert problem(write(folder, *lines)).startswith(sentence)


def test_many_problems_are_cut_short(folder: Path) -> None:
    lines = problem(write(folder, "audio\ttext", *["x\ty\tz"] * 12)).splitlines()

    assert len(lines) == 6
    assert lines[-1] == "… and 7 more."


def test_files_that_cannot_be_read(folder: Path) -> None:
    assert problem(folder / "none") == "M: No such file or directory."
    (folder / "binary").write_bytes(b"\xff\xfe\x00RIFF")
    assert problem(folder / "binary") == "M is not text in UTF-8."
