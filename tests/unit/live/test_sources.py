"""Recordings, pipes and programs that record."""

import os
import stat
import wave
from pathlib import Path

import numpy as np
import pytest

from asr_service.live.failures import LiveFailed
from asr_service.live.pace import Pieces
from asr_service.live.sources import Recording, microphone, piped, recorders

pytestmark = pytest.mark.anyio


async def collected(pieces: Pieces) -> list[bytes]:
    return [piece async for piece in pieces]


def write_wav(path: Path, samples: int, rate_hz: int = 16_000) -> bytes:
    pcm = np.random.default_rng(1).integers(-3000, 3000, samples, np.int16).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    return pcm


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_a_recording_in_pieces_of_a_tenth_of_a_second(tmp_path: Path) -> None:
    # Longer than one block of the decoder, and neither in whole pieces.
    pcm = write_wav(tmp_path / "a.wav", 9 * 16_000 + 123)

    recording = Recording(tmp_path / "a.wav")
    pieces = await collected(recording.pieces())
    recording.close()

    assert b"".join(pieces) == pcm
    assert {len(piece) for piece in pieces[:-1]} == {3200}
    assert recording.warnings == []


async def test_other_rates_are_resampled(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", 48_000, 48_000)

    recording = Recording(tmp_path / "a.wav")
    size = len(b"".join(await collected(recording.pieces())))
    recording.close()

    assert size == pytest.approx(32_000, abs=100)


async def test_a_recording_that_breaks_off_says_so(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", 32_000)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: len(whole) // 2])

    recording = Recording(tmp_path / "a.wav")
    await collected(recording.pieces())
    recording.close()

    assert [
        warning.startswith(f"{tmp_path / 'a.wav'}: The recording breaks off") for warning in recording.warnings
    ] == [True]


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "No such file or directory"), (b"", "is empty"), (b"text", "is not audio")]
)
def test_what_is_no_recording(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)

    with pytest.raises(LiveFailed, match=sentence):
        Recording(tmp_path / "a.wav")


async def test_a_pipe_as_it_comes() -> None:
    reading, writing = os.pipe()
    os.write(writing, bytes(range(7)))
    pieces = piped(reading, 24_000)

    # Half a sample waits for its other half.
    assert await anext(pieces) == bytes(range(6))
    os.write(writing, b"\x07\x08\x09\x0a")
    assert await anext(pieces) == bytes([6, 7, 8, 9])
    os.close(writing)
    assert await collected(pieces) == []
    os.close(reading)


async def test_a_file_as_standard_input(tmp_path: Path) -> None:
    content = bytes(range(101)) * 101
    (tmp_path / "a.raw").write_bytes(content)
    with (tmp_path / "a.raw").open("rb") as file:
        assert b"".join(await collected(piped(file.fileno(), 16_000))) == content[:-1]


def test_no_program_that_records(tmp_path: Path) -> None:
    with pytest.raises(LiveFailed, match=r"one of pw-record, parec, arecord\): install .* or give a file"):
        recorders(16_000, str(tmp_path))


def test_programs_in_their_order(tmp_path: Path) -> None:
    for name in ("arecord", "parec"):
        program(tmp_path, name, "exit 0")

    first, second = recorders(16_000, str(tmp_path))

    assert (Path(first[0]).name, Path(second[0]).name) == ("parec", "arecord")
    assert "--rate=16000" in first


async def test_the_microphone(tmp_path: Path) -> None:
    program(tmp_path, "arecord", 'printf "%s|" "$@"')

    heard = b"".join(await collected(microphone(recorders(16_000, str(tmp_path)), 16_000)))

    assert heard == b"-q|-t|raw|-r|16000|-c|1|-f|S16_LE|"


async def test_a_program_that_cannot_record_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path, "pw-record", "echo 'error: no server' >&2; exit 1")
    program(tmp_path, "parec", "printf abcd")

    assert b"".join(await collected(microphone(recorders(16_000, str(tmp_path)), 16_000))) == b"abcd"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            "echo starting >&2; echo 'no such device' >&2; exit 3",
            r"parec has stopped .*\(status 3\): no such device\.$",
        ),
        ("exit 0", r"parec has stopped recording \(status 0\): no reason\.$"),
        ("printf abcd; echo unplugged >&2; exit 4", r"parec has stopped .*\(status 4\): unplugged\.$"),
    ],
)
async def test_a_microphone_that_fails(tmp_path: Path, script: str, sentence: str) -> None:
    program(tmp_path, "parec", script)

    with pytest.raises(LiveFailed, match=sentence):
        await collected(microphone(recorders(16_000, str(tmp_path)), 16_000))


async def test_a_recorder_is_ended_when_enough_was_heard(tmp_path: Path) -> None:
    program(tmp_path, "parec", 'printf "%8s" $$; exec tail -f /dev/null')
    pieces = microphone(recorders(16_000, str(tmp_path)), 16_000)

    said = await anext(pieces)
    await pieces.aclose()

    with pytest.raises(ProcessLookupError):
        os.kill(int(said), 0)
