"""The load's recordings: what is said in them, and that no cache can know them."""

import gzip
from pathlib import Path

import pytest

from benchmarks.clips import Clip, noise_clips, read_wav, spoken, telephone_clips, variants, write_wav


@pytest.mark.parametrize(
    ("note", "text"),
    [
        ("[this is a simple beep tone]", ""),
        ("<beep ascending>", ""),
        ("(10 seconds of silence)", ""),
        ("at [@]", "at"),
        (
            "Leave a message after the tone.  Then hang up. (simple tone)",
            "Leave a message after the tone. Then hang up.",
        ),
        (" Thank you. ", "Thank you."),
    ],
)
def test_remarks_are_not_spoken(note: str, text: str) -> None:
    assert spoken(note) == text


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    path = tmp_path / "original.wav"
    write_wav(path, 8000, bytes(range(256)) * 50)
    return Clip("letters/a", path, "a", 0.8)


def test_a_variant_sounds_the_same_and_is_another_file(clip: Clip, tmp_path: Path) -> None:
    (copy,) = variants([clip], tmp_path, salt=1)
    (rate, original), (copied_rate, copied) = read_wav(clip.path), read_wav(copy.path)
    assert (rate, len(original)) == (copied_rate, len(copied))
    differences = {abs(a - b) for a, b in zip(original, copied, strict=True)}
    assert differences == {0, 1}


def test_variants_differ_by_salt_only(clip: Clip, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    (first,), (again,) = (variants([clip], folder, salt=1) for folder in folders)
    (other,) = variants([clip], tmp_path, salt=2)
    assert first.wav == again.wav
    assert first.wav != other.wav


def test_the_same_clip_twice_becomes_two_files(clip: Clip, tmp_path: Path) -> None:
    first, second = variants([clip, clip], tmp_path, salt=1)
    assert first.wav != second.wav


def test_noise_differs_from_clip_to_clip(tmp_path: Path) -> None:
    clips = noise_clips(3, 0.5, tmp_path)
    assert len({clip.wav for clip in clips}) == 3
    assert [len(read_wav(clip.path)[1]) for clip in clips] == [16_000] * 3


def test_telephone_clips_are_those_with_words_and_a_recording(tmp_path: Path) -> None:
    notes = ["; a remark: not spoken", "", "beep: [a beep]", "vm-hello: Hello [tone].", "gone: Not here.", "no colon"]
    texts = tmp_path / "texts.gz"
    texts.write_bytes(gzip.compress("\n".join(notes).encode()))
    for name in ("beep", "vm-hello"):
        write_wav(tmp_path / f"{name}.wav", 8000, bytes(8000))

    (clip,) = telephone_clips(tmp_path, texts)

    assert (clip.name, clip.path, clip.text, clip.duration_s) == (
        "vm-hello",
        tmp_path / "vm-hello.wav",
        "Hello .",
        0.5,
    )
    assert telephone_clips(tmp_path, tmp_path / "none.gz") == []
