"""Hostile media: files of every format, mutated by number, and traps that are made by hand.

`Mutants` makes the same file for the same number, so that one that does harm can be made again and looked at.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
import soundfile

from asr_service.domain import SAMPLE_RATE_HZ
from tests.recordings import load_pcm, packaged_clips
from tests.unit.audio import sounds
from tests.unit.audio.sounds import Encoding

Mutation = Callable[[np.random.Generator, bytes, bytes], bytes]

ENCODINGS = {
    "wav": Encoding("wav", "pcm_s16le"),
    "wav stereo 24": Encoding("wav", "pcm_s24le", 48_000, "stereo"),
    "wav float": Encoding("wav", "pcm_f32le", 44_100),
    "wav mulaw": Encoding("wav", "pcm_mulaw", 8_000),
    "wav adpcm": Encoding("wav", "adpcm_ima_wav", 16_000),
    "w64": Encoding("w64", "pcm_s16le"),
    "aiff": Encoding("aiff", "pcm_s16be"),
    "au": Encoding("au", "pcm_s16be"),
    "caf": Encoding("caf", "pcm_s16le"),
    "caf alac": Encoding("caf", "alac", 44_100),
    "flac": Encoding("flac", "flac", 16_000, "stereo"),
    "flac in ogg": Encoding("ogg", "flac", 48_000),
    "alac": Encoding("ipod", "alac", 44_100, "stereo"),
    "mp3": Encoding("mp3", "libmp3lame", 44_100, "stereo"),
    "mp3 8 kHz": Encoding("mp3", "libmp3lame", 8_000),
    "opus": Encoding("ogg", "libopus", 48_000),
    "m4a": Encoding("ipod", "aac", 44_100, "stereo"),
    "mp4": Encoding("mp4", "aac", 48_000),
    "mov": Encoding("mov", "pcm_s16le", 16_000),
    "aac": Encoding("adts", "aac", 16_000),
    "webm": Encoding("webm", "libopus", 48_000, "stereo"),
    "mkv": Encoding("matroska", "libmp3lame", 48_000),
    "mka ac3": Encoding("matroska", "ac3", 48_000, "5.1"),
    "amr": Encoding("amr", "libopencore_amrnb", 8_000),
    "3gp": Encoding("3gp", "libopencore_amrnb", 8_000),
    # Formats that are not let in.
    "wma": Encoding("asf", "wmav2", 44_100, "mono", {"b": "64000"}),
    "mpeg ts": Encoding("mpegts", "mp2", 44_100),
    "avi": Encoding("avi", "pcm_s16le", 16_000),
}


def seeds() -> dict[str, bytes]:
    """A second and a half of speech, as a file of every format that can be written here."""
    speech = load_pcm(packaged_clips()[0])[: SAMPLE_RATE_HZ * 3 // 2]
    files = {}
    for name, encoding in ENCODINGS.items():
        sound = np.tile(speech, (6, 1)) if encoding.layout == "5.1" else speech
        files[name] = sounds.encode(encoding, sound)
    vorbis = io.BytesIO()
    soundfile.write(vorbis, speech / 32768, SAMPLE_RATE_HZ, format="OGG", subtype="VORBIS")
    return {**files, "vorbis": vorbis.getvalue(), "amr-wb": b"#!AMR-WB\n" + b"\x7c" * 50, "by hand": sounds.wav(speech)}


class Mutants:
    """Mutated files by number."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._files = list(seeds().values())

    def make(self, number: int) -> bytes:
        rng = np.random.default_rng([self._seed, number])
        data = self._files[number % len(self._files)]
        for _ in range(int(rng.choice([1, 1, 2, 3]))):
            other = self._files[rng.integers(len(self._files))]
            data = MUTATIONS[rng.integers(len(MUTATIONS))](rng, data, other) or b"\0"
        return data


def _flip_bits(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 50))):
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _damage_header(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 8))):
        changed[rng.integers(min(300, len(changed)))] = int(rng.integers(256))
    return bytes(changed)


def _cut_off(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: rng.integers(1, len(data) + 1)]


def _behead(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[rng.integers(min(500, len(data))) :]


def _splice(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: rng.integers(1, len(data) + 1)] + other[rng.integers(len(other)) :]


def _overlay(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    length = int(rng.integers(1, 2000))
    at = int(rng.integers(len(data)))
    piece = other[rng.integers(len(other)) :][:length]
    return data[:at] + piece + data[at + len(piece) :]


def _repeat(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start = int(rng.integers(len(data)))
    chunk = data[start : start + int(rng.integers(1, 3000))]
    return data[:start] + chunk * int(rng.integers(2, 100)) + data[start:]


def _remove(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start = int(rng.integers(len(data)))
    return data[:start] + data[start + int(rng.integers(1, 2000)) :]


def _forge_number(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """An extreme number somewhere in the header: a rate, a count, a length."""
    values = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 2**63 - 1, 2**64 - 1)
    value, size = values[rng.integers(len(values))], int(rng.choice([2, 4, 8]))
    written: bytes = (value % 256**size).to_bytes(size, "little" if rng.random() < 0.5 else "big")
    at = int(rng.integers(min(len(data), 600)))
    return data[:at] + written + data[at + size :]


_NAMES_BESIDE_LENGTHS = (
    *(b"fmt ", b"data", b"LIST", b"moov", b"mdat", b"stsz", b"stts", b"stsc", b"stco", b"trun", b"esds", b"dOps"),
    *(b"COMM", b"SSND", b"desc", b"pakt", b"kuki", b"OggS", b"OpusHead", b"fLaC", b"ID3\x04", b"\x1a\x45\xdf\xa3"),
)


def _blow_up_length(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """The length beside one of the format's own four-letter names, wherever it stands."""
    places = [(data.find(name), name) for name in _NAMES_BESIDE_LENGTHS if name in data]
    if not places:
        return _forge_number(rng, data, other)
    at, name = places[rng.integers(len(places))]
    length = rng.bytes(4) if rng.random() < 0.5 else b"\xff\xff\xff\xf0"
    start = at - 4 if rng.random() < 0.5 and at >= 4 else at + len(name)
    return _patched(data, start, length)


def _stuff_zeros(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + bytes(int(rng.integers(1, 200_000))) + data[at:]


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bits, _damage_header, _cut_off, _behead, _splice, _overlay),
    *(_repeat, _remove, _forge_number, _blow_up_length, _stuff_zeros),
)


# Made by hand


def references(url: str) -> Iterator[tuple[str, bytes]]:
    """Files that tell their reader to read something else: `url`."""
    yield "hls.wav", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n".encode()
    yield "hls-key.mp3", f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:9,\n{url}\n'.encode()
    yield "concat.wav", f"ffconcat version 1.0\nfile '{url}'\n".encode()
    yield (
        "dash.m4a",
        (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT9S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
            '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="a" bandwidth="1">'
            f"<BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ).encode(),
    )
    yield "session.sdp", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n"
    yield "real.ram", f"{url}\n".encode()
    yield "reference.asx", f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>'.encode()
    yield "protocol.wav", f"concat:{url}|{url}".encode()
    yield "reference.mov", _movie_elsewhere(url)


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def _movie_elsewhere(url: str) -> bytes:
    """A QuickTime file whose samples lie in another file."""
    movie = sounds.encode(ENCODINGS["mov"], np.ones(SAMPLE_RATE_HZ, np.int16))
    entry = _box(b"url ", bytes(4), url.encode() + b"\0")
    reference = _box(b"dref", bytes(4), struct.pack(">I", 1), entry)
    start = movie.index(b"dref") - 4
    (length,) = struct.unpack_from(">I", movie, start)
    changed = bytearray(movie[:start] + reference + movie[start + length :])
    for name in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        at = movie.rindex(name, 0, start) - 4
        (size,) = struct.unpack_from(">I", changed, at)
        struct.pack_into(">I", changed, at, size + len(reference) - length)
    return bytes(changed)


def traps(scale: int = 1) -> Iterator[tuple[str, bytes]]:
    """Files that are small, or cheap to make, and dear to read. `scale` makes the long ones longer: about 1 MB each."""
    speech = load_pcm(packaged_clips()[0])[:SAMPLE_RATE_HZ]
    size = scale * 1_000_000
    yield "nothing", b""
    yield "zeros", bytes(size)
    yield "opus of hours", opus_of_silence(8.7 * 3600)
    yield "wav of 4 GHz", sounds.wav(speech, rate_hz=2**32 - 1)
    yield "wav of 1 Hz", sounds.wav(speech, rate_hz=1)
    yield "wav of 255 channels", sounds.wav(np.zeros((255, 1000), np.int16))
    yield "wav of 65535 channels", _patched(sounds.wav(speech), 22, b"\xff\xff")
    yield (
        "wav of a long title",
        sounds.wav(speech, extra=b"LIST" + struct.pack("<I", size) + b"INFOINAM" + bytes(size - 8)),
    )
    yield "wav of many chunks", sounds.wav(speech, extra=b"junk\0\0\0\0" * (size // 8))
    flac = sounds.encode(ENCODINGS["flac"], speech)
    yield "flac of years", _patched(flac, 21, bytes([flac[21] | 0x0F]) + b"\xff" * 4)
    yield "flac of many blocks", flac[:4] + b"\x04\x00\x00\x08" * (size // 12) + flac[4:]
    mp3 = sounds.encode(ENCODINGS["mp3"], speech)
    yield "mp3 behind a tag", b"ID3\x04\0\0" + _id3_size(size) + bytes(size) + mp3
    yield "mp3 behind an endless tag", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(size)
    yield "mp3 behind many tags", b"ID3\x04\0\0\0\0\0\0" * (size // 10) + mp3
    yield "mp3 with a picture", _with_picture(mp3, size)
    frames = b"".join(b"TXXX" + struct.pack(">I", 2) + b"\0\0\0a" for _ in range(size // 12))
    yield "mp3 of many fields", b"ID3\x03\0\0" + _id3_size(len(frames)) + frames + mp3
    mp4 = sounds.encode(ENCODINGS["mp4"], speech)
    yield "mp4 of many boxes", mp4[:32] + _box(b"free") * (size // 8) + mp4[32:]
    yield "mp4 of deep boxes", _nested(20_000)
    for name in (b"stsz", b"stts", b"stsc", b"stco"):
        yield (
            f"mp4 of endless {name.decode()}",
            _patched(mp4, mp4.index(name) + (12 if name == b"stsz" else 8), b"\xff" * 4),
        )
    yield "mp4 of years", _patched(mp4, mp4.index(b"mvhd") + 16, b"\0\0\0\1" + b"\xff" * 4)
    yield "webm of voids", sounds.encode(ENCODINGS["webm"], speech)[:60] + b"\xec\x80" * (size // 2)
    head = b"OpusHead\1\1\0\0\x80\xbb\0\0\0\0\0"
    yield "ogg of many streams", b"".join(_ogg_page(2, number, 0, 0, [head]) for number in range(20_000))
    yield "ogg of empty pages", _ogg_page(0, 1, 0, 0, []) * (size // 27)
    yield "aac of tiny frames", b"\xff\xf1\x50\x40\x00\xff\xfc" * (size // 7)
    yield "amr of nothing", b"#!AMR\n" + b"\x7c" * size
    yield "zip and mp3", _zip(b"text" * 1000) + mp3
    yield "wav and zip", sounds.wav(speech) + _zip(b"text")
    yield "page and flac", b"<!DOCTYPE html><script>alert(1)</script>" + flac
    yield "gif and mp3", b"GIF89a" + struct.pack("<HH", 10799, 10799) + mp3
    yield "pdf and wav", b"%PDF-1.7\n" + sounds.wav(speech)
    yield (
        "wav and mp3",
        sounds.wav(speech, extra=b"junk" + struct.pack("<I", len(mp3) // 2 * 2) + mp3[: len(mp3) // 2 * 2]),
    )
    yield "caf without end", _patched(sounds.encode(ENCODINGS["caf"], speech), 8, b"free" + b"\x7f" + b"\xff" * 7)


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _id3_size(size: int) -> bytes:
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))


def _with_picture(mp3: bytes, size: int) -> bytes:
    """Cover art that claims to be a picture of 60,000 x 60,000."""
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 60_000, 60_000) + b"\x08\x02\0\0\0" + bytes(size)
    picture = b"\0image/png\0\3\0" + png
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    return b"ID3\x03\0\0" + _id3_size(len(frame)) + frame + mp3


def _nested(depth: int) -> bytes:
    boxes = b"".join(struct.pack(">I", 8 * (depth - level)) + b"moov" for level in range(depth))
    return _box(b"ftyp", b"isom\0\0\2\0isom") + boxes


def _zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../etc/passwd", data)
    return file.getvalue()


_CRC_TABLE = [0] * 256
for _byte in range(256):
    _remainder = _byte << 24
    for _ in range(8):
        _remainder = (_remainder << 1 ^ (0x04C1_1DB7 if _remainder & 0x8000_0000 else 0)) & 0xFFFF_FFFF
    _CRC_TABLE[_byte] = _remainder


def _ogg_page(flags: int, serial: int, number: int, position: int, packets: list[bytes]) -> bytes:
    """A page of packets shorter than 255 bytes each, at most 255 of them."""
    head = struct.pack("<4sBBqIII", b"OggS", 0, flags, position, serial, number, 0)
    page = head + bytes([len(packets)]) + bytes(map(len, packets)) + b"".join(packets)
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFF_FFFF) ^ _CRC_TABLE[crc >> 24 ^ byte]
    return page[:22] + struct.pack("<I", crc) + page[26:]


def opus_of_silence(seconds: float) -> bytes:
    """Packets of two bytes that stand for 120 ms each: an hour is 63 kB."""
    packets = 255
    head = _ogg_page(2, 1, 0, 0, [b"OpusHead\1\1\0\0\x80\xbb\0\0\0\0\0"])
    tags = _ogg_page(0, 1, 1, 0, [b"OpusTags\0\0\0\0\0\0\0\0"])
    return b"".join(
        (head, tags)
        + tuple(
            _ogg_page(0, 1, 2 + number, (number + 1) * packets * 5760, [b"\x1b\x02"] * packets)
            for number in range(int(seconds / (packets * 0.12)))
        )
    )
