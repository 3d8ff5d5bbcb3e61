"""What the first and last bytes say about a recording's length, whatever the bytes are."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.audio import headers
from asr_service.audio.headers import WavData
from tests.unit.audio import sounds
from tests.unit.audio.sounds import Encoding

SOUND = sounds.int16(sounds.tone(1))


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("test")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def wav_data(data: bytes) -> WavData | None:
    with opened(data) as fd:
        assert headers.is_wav(fd)
        return headers.wav_data(fd, len(data))


def test_wav() -> None:
    assert wav_data(sounds.wav(SOUND)) == WavData(32_000, 32_000)
    assert wav_data(sounds.wav(SOUND, extra=b"odd \x03\0\0\0abc\0")) == WavData(32_000, 32_000)
    assert wav_data(sounds.wav(SOUND, data_bytes=50_000)) == WavData(50_000, 32_000)
    assert wav_data(sounds.wav(SOUND, data_bytes=0xFFFF_FFFF)) == WavData(None, 32_000)
    assert wav_data(sounds.wav(SOUND)[:40]) is None


def test_wav_of_more_than_4_gib() -> None:
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, 5_000_000_100, 5_000_000_000, 0, 0)
    data = sounds.wav(SOUND, data_bytes=0xFFFF_FFFF, extra=ds64)
    moved = b"RF64" + data[4:12] + ds64 + data[12:36] + data[36 + len(ds64) :]
    assert wav_data(moved) == WavData(5_000_000_000, 32_000)


def test_big_endian_wav() -> None:
    data = b"RIFX" + struct.pack(">I", 100) + b"WAVE" + b"data" + struct.pack(">I", 8) + bytes(8)
    assert wav_data(data) == WavData(8, 8)


def test_mp3_counts_its_frames() -> None:
    data = sounds.encode(Encoding("mp3", "libmp3lame"), SOUND)
    with opened(data) as fd:
        frames = headers.mp3_frames(fd)
    assert frames is not None
    assert frames * 576 / 16_000 == pytest.approx(1, abs=0.15)
    tag = b"ID3\x04\0\0" + bytes([0, 0, 0x60, 0]) + bytes(0x60 << 7)
    untagged = data[10 + int.from_bytes(data[6:10], "big") :] if data.startswith(b"ID3") else data
    with opened(tag + untagged) as fd:
        assert headers.mp3_frames(fd) == frames


def test_mp3_without_a_count() -> None:
    with opened(b"\xff\xfb\x90\x00" + bytes(4000)) as fd:
        assert headers.mp3_frames(fd) is None


def test_ogg_is_complete_up_to_its_last_byte() -> None:
    data = sounds.encode(Encoding("ogg", "libopus", 48_000), SOUND)
    for cut, complete in ((0, True), (1, False), (len(data) // 2, False), (len(data) - 10, False)):
        part = data[: len(data) - cut]
        with opened(part) as fd:
            assert headers.ogg_is_complete(fd, len(part)) is complete


@pytest.mark.parametrize(
    "start", [b"", b"RIFF\0\0\0\0WAVE", b"RF64\0\0\0\0WAVEds64", b"ID3\x04\0\0\x7f\x7f\x7f\x7f", b"OggS"]
)
@given(tail=st.binary(max_size=100))
def test_any_bytes_are_survived(start: bytes, tail: bytes) -> None:
    data = start + tail
    functions: tuple[Callable[[int], object], ...] = (
        headers.is_wav,
        headers.mp3_frames,
        lambda fd: headers.is_wav(fd) and headers.wav_data(fd, len(data)),
        lambda fd: headers.ogg_is_complete(fd, len(data)),
    )
    with opened(data) as fd:
        for function in functions:
            function(fd)


def test_a_chain_of_empty_chunks_has_an_end() -> None:
    assert wav_data(b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 100_000) is None


def test_the_position_is_left_alone() -> None:
    with opened(sounds.wav(np.zeros(1000, np.int16))) as fd:
        os.lseek(fd, 77, os.SEEK_SET)
        headers.wav_data(fd, 2044)
        headers.mp3_frames(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 77
