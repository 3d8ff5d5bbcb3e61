"""How long a recording says it is, where FFmpeg's answer hides whether the file breaks off.

Owns the few bytes of WAV, MP3 and Ogg that tell a whole file from a broken one. Decodes nothing. Functions take an open
file's descriptor, leave its position alone (FFmpeg may be in the middle of it) and never raise on strange bytes.
"""

import os
import struct
from dataclasses import dataclass

_WAV_KINDS = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">"}
_MAX_WAV_CHUNKS = 256
_WRITTEN_BY_PIPES = 0x7FFF_0000
"""Writers that cannot seek back put 0 or a length near 2 or 4 GiB into the header."""

_XING_HAS_FRAMES = 0x01
_OGG_PAGE_BYTES = 65_307
_OGG_LAST_PAGE = 0x04


@dataclass(frozen=True, slots=True)
class WavData:
    """The sample data of a WAV file: bytes that the header declares (None: it does not know) and that are there."""

    declared_bytes: int | None
    available_bytes: int


def is_wav(fd: int) -> bool:
    """Whether the file starts as a WAV does."""
    head = os.pread(fd, 12, 0)
    return head[:4] in _WAV_KINDS and head[8:12] == b"WAVE"


def wav_data(fd: int, size_bytes: int) -> WavData | None:
    """Find the data chunk of a WAV file; None when it has none."""
    kind = os.pread(fd, 4, 0)
    chunk = struct.Struct(_WAV_KINDS[kind] + "4sI")
    position, long_length = 12, None
    for _ in range(_MAX_WAV_CHUNKS):
        head = os.pread(fd, chunk.size, position)
        if len(head) < chunk.size:
            return None
        name, length = chunk.unpack(head)
        position += chunk.size
        if name == b"ds64":
            body = os.pread(fd, 16, position)
            long_length = struct.unpack("<QQ", body)[1] if len(body) == 16 else None
        if name == b"data":
            available = max(0, size_bytes - position)
            if kind == b"RF64" and length == 0xFFFF_FFFF and long_length:
                return WavData(long_length, available)
            unknown = length == 0 or (length >= _WRITTEN_BY_PIPES and length > available)
            return WavData(None if unknown else length, available)
        position += length + length % 2
    return None


def mp3_frames(fd: int) -> int | None:
    """How many frames the header in an MP3 file's first frame counts; None without one, where FFmpeg only guesses."""
    head = os.pread(fd, 10, 0)
    start = 0
    if len(head) == 10 and head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    first_frames = os.pread(fd, 4096, start)
    found = max(first_frames.find(b"Xing"), first_frames.find(b"Info"))
    fields = first_frames[found + 4 : found + 12]
    if found < 0 or len(fields) < 8:
        return None
    flags, frames = struct.unpack(">II", fields)
    return frames if flags & _XING_HAS_FRAMES else None


def ogg_is_complete(fd: int, size_bytes: int) -> bool:
    """Whether the last page of an Ogg file is marked as the last and is all there."""
    tail = os.pread(fd, _OGG_PAGE_BYTES, max(0, size_bytes - _OGG_PAGE_BYTES))
    start = tail.rfind(b"OggS")
    page = tail[start:] if start >= 0 else b""
    if len(page) < 27:
        return False
    segments = page[26]
    body = sum(page[27 : 27 + segments])
    return bool(page[5] & _OGG_LAST_PAGE) and len(page) >= 27 + segments + body
