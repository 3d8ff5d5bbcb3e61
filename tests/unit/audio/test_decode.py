"""Every format in, one kind of PCM out; and a clear sentence for everything that is no audio."""

import ctypes
import io
import struct
import tempfile
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from asr_service.audio.decode import BLOCK_SAMPLES, DAMAGED, UNKNOWN_LENGTH, Decoder
from asr_service.domain import SAMPLE_RATE_HZ
from asr_service.errors import AudioTooLong, MissingAudio, UnreadableAudio
from tests.unit.audio import sounds
from tests.unit.audio.sounds import Encoding, Samples

SOUND = sounds.int16(sounds.tone(2.0) + 0.5 * sounds.tone(2.0, 1000) * np.linspace(0, 1, 32_000))


def decode(data: bytes, max_audio_s: float = 100) -> tuple[Samples, list[str]]:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        assert isinstance(file, io.FileIO)
        decoder = Decoder(file, max_audio_s)
        pcm = np.concatenate(list(decoder.blocks()))
    assert decoder.decoded_samples == len(pcm)
    return pcm, decoder.warnings


def likeness(pcm: Samples, sound: Samples = SOUND) -> float:
    """Correlation of two sounds where they fit best (encoders delay), over the middle of them."""
    middle = sound[4000:28_000].astype(np.float64)
    found = pcm.astype(np.float64)
    lags = np.fft.irfft(np.fft.rfft(found, 65_536) * np.conj(np.fft.rfft(middle, 65_536)))
    lag = int(np.argmax(lags[: max(1, len(found) - len(middle))]))
    return float(np.corrcoef(found[lag : lag + len(middle)], middle)[0, 1])


LOSSLESS = {
    "wav s16": Encoding("wav", "pcm_s16le"),
    "wav u8": Encoding("wav", "pcm_u8"),
    "wav s24": Encoding("wav", "pcm_s24le"),
    "wav s32": Encoding("wav", "pcm_s32le"),
    "wav f32": Encoding("wav", "pcm_f32le"),
    "wav f64": Encoding("wav", "pcm_f64le"),
    "wav A-law": Encoding("wav", "pcm_alaw"),
    "wav mu-law": Encoding("wav", "pcm_mulaw"),
    "wav ADPCM": Encoding("wav", "adpcm_ms"),
    "wav 48 kHz stereo": Encoding("wav", "pcm_s16le", 48_000, "stereo"),
    "wav 96 kHz": Encoding("wav", "pcm_s24le", 96_000),
    "wav 44.1 kHz 5.1": Encoding("wav", "pcm_s16le", 44_100, "5.1"),
    "wav 11025 Hz": Encoding("wav", "pcm_s16le", 11_025),
    "wav 8 kHz": Encoding("wav", "pcm_alaw", 8_000),
    "w64": Encoding("w64", "pcm_s16le"),
    "aiff": Encoding("aiff", "pcm_s16be"),
    "au": Encoding("au", "pcm_s16be"),
    "caf": Encoding("caf", "pcm_s16le"),
    "flac": Encoding("flac", "flac"),
    "flac in ogg": Encoding("ogg", "flac", 48_000),
    "alac": Encoding("ipod", "alac", 44_100, "stereo"),
}
LOSSY = {
    "mp3": Encoding("mp3", "libmp3lame", 44_100, "stereo"),
    "mp3 8 kHz": Encoding("mp3", "libmp3lame", 8_000),
    "opus": Encoding("ogg", "libopus", 48_000),
    "m4a": Encoding("ipod", "aac", 44_100, "stereo"),
    "mp4": Encoding("mp4", "aac", 48_000),
    "aac": Encoding("adts", "aac", 16_000),
    "webm": Encoding("webm", "libopus", 48_000, "stereo"),
    "mkv": Encoding("matroska", "libmp3lame", 48_000),
    "mka ac3": Encoding("matroska", "ac3", 48_000, "5.1"),
    "amr": Encoding("amr", "libopencore_amrnb", 8_000),
    "3gp": Encoding("3gp", "libopencore_amrnb", 8_000),
}


@pytest.mark.parametrize("encoding", [pytest.param(e, id=name) for name, e in (LOSSLESS | LOSSY).items()])
def test_formats(encoding: Encoding) -> None:
    pcm, warnings = decode(sounds.encode(encoding, SOUND))
    assert warnings == []
    assert len(pcm) / SAMPLE_RATE_HZ == pytest.approx(2, abs=0.15)
    assert likeness(pcm) > (0.98 if encoding in LOSSY.values() else 0.998)


def test_same_rate_and_format_is_untouched() -> None:
    pcm, _ = decode(sounds.wav(SOUND))
    assert np.array_equal(pcm, SOUND)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("OGG", "VORBIS"), ("WAVEX", "PCM_24"), ("WAVEX", "PCM_16"), ("WAVEX", "FLOAT"), ("RF64", "PCM_16")],
)
def test_formats_of_another_writer(container: str, subtype: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, SOUND / 32768, SAMPLE_RATE_HZ, format=container, subtype=subtype)
    pcm, warnings = decode(file.getvalue())
    assert warnings == []
    assert likeness(pcm) > 0.98


def test_amr_wb_without_sound_in_its_frames() -> None:
    # 50 frames that carry nothing (type 15): a second of silence.
    pcm, _ = decode(b"#!AMR-WB\n" + b"\x7c" * 50)
    assert len(pcm) / SAMPLE_RATE_HZ == pytest.approx(1, abs=0.05)


@pytest.mark.skipif(find_library("vo-amrwbenc") is None, reason="needs an AMR-WB encoder (libvo-amrwbenc0)")
def test_amr_wb() -> None:
    encoder = ctypes.CDLL(find_library("vo-amrwbenc"))
    encoder.E_IF_init.restype = ctypes.c_void_p
    state = ctypes.c_void_p(encoder.E_IF_init())
    packet = ctypes.create_string_buffer(100)
    data = b"#!AMR-WB\n"
    for start in range(0, len(SOUND), 320):
        size = encoder.E_IF_encode(state, 8, SOUND[start:].ctypes.data_as(ctypes.c_void_p), packet, 0)
        data += packet.raw[:size]
    encoder.E_IF_exit(state)
    pcm, warnings = decode(data)
    assert warnings == []
    assert likeness(pcm) > 0.9


@pytest.mark.parametrize("layout", ["stereo", "3.0", "quad", "5.0", "5.1", "7.1"])
def test_no_channel_is_dropped_and_none_clips(layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    for speaking in range(channels):
        tracks = np.zeros((channels, len(SOUND)), np.int16)
        tracks[speaking] = SOUND
        pcm, _ = decode(sounds.encode(Encoding("wav", "pcm_s16le", layout=layout), tracks))
        assert likeness(pcm) > 0.99
        assert np.abs(pcm).max() == pytest.approx(np.abs(SOUND).max() / channels, rel=0.05)
    loud = np.tile(sounds.int16(sounds.tone(2), peak_db=0), (channels, 1))
    pcm, _ = decode(sounds.encode(Encoding("wav", "pcm_s16le", layout=layout), loud))
    assert np.abs(pcm.astype(int) - loud[0]).max() <= channels


def test_more_channels_than_any_layout_names() -> None:
    tracks = np.zeros((10, len(SOUND)), np.int16)
    tracks[7] = SOUND
    pcm, _ = decode(sounds.wav(tracks))
    assert likeness(pcm) > 0.99


def test_loud_float_samples_are_clipped_not_wrapped() -> None:
    file = io.BytesIO()
    soundfile.write(file, sounds.tone(2) * 4, SAMPLE_RATE_HZ, format="WAV", subtype="FLOAT")
    pcm, _ = decode(file.getvalue())
    assert likeness(pcm, sounds.int16(sounds.tone(2))) > 0.9
    assert pcm.max() == 32767


def test_long_recordings_come_in_blocks() -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(sounds.wav(np.zeros(5 * BLOCK_SAMPLES // 2, np.int16)))
        assert isinstance(file, io.FileIO)
        sizes = [len(block) for block in Decoder(file, 100).blocks()]
    assert len(sizes) == 3
    assert max(sizes) < 1.1 * BLOCK_SAMPLES


def video(with_sound: bool) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono") if with_sound else None
        for index in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index, np.uint8))
            container.mux(pictures.encode(picture))
            if sound is not None:
                frame = av.AudioFrame.from_ndarray(SOUND[None, index * 640 : index * 640 + 640], "s16", "mono")
                frame.sample_rate = SAMPLE_RATE_HZ
                frame.pts = index * 640
                container.mux(sound.encode(frame))
        for stream in (pictures, sound):
            if stream is not None:
                container.mux(stream.encode(None))
    return file.getvalue()


def test_the_sound_of_a_video() -> None:
    pcm, warnings = decode(video(with_sound=True))
    assert warnings == []
    assert likeness(pcm) > 0.98


def no_samples(encoding: Encoding) -> bytes:
    return sounds.encode(encoding, SOUND[:0])


def unreadable() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    yield "text", b"This is not audio at all, but a letter to the editor.\n" * 200
    yield "one byte", b"R"
    yield "noise", rng.bytes(100_000)
    yield "picture", b"\x89PNG\r\n\x1a\n" + rng.bytes(5000)
    yield "zip", b"PK\x03\x04" + rng.bytes(5000)
    yield "web page", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    yield "concat script", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "session description", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n"
    yield "wav header alone", sounds.wav(SOUND[:0])
    yield "wav header that promises", sounds.wav(SOUND[:0], data_bytes=64_000)
    yield "wav of no format", b"RIFF\x24\0\0\0WAVEfmt "
    yield "wav without data", sounds.wav(SOUND[:0])[:36]
    yield "flac header alone", sounds.encode(Encoding("flac", "flac"), SOUND)[:42]
    yield "mp4 cut before its index", sounds.encode(Encoding("mp4", "aac"), SOUND)[:2000]
    yield "wav of rate 1", sounds.wav(SOUND, rate_hz=1)
    yield "wav of rate 0", sounds.wav(SOUND, rate_hz=0)
    yield "wav of rate 4 GHz", sounds.wav(SOUND, rate_hz=2**32 - 1)
    yield "wav of rate 2 GHz", sounds.wav(SOUND, rate_hz=2**31 - 1)
    yield "wav of 1000 channels", sounds.wav(np.zeros((1000, 100), np.int16))
    yield "video", video(with_sound=False)


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in unreadable()])
def test_what_is_no_audio(data: bytes) -> None:
    with pytest.raises(UnreadableAudio) as caught:
        decode(data)
    assert caught.value.message.startswith("The ")
    assert caught.value.message.endswith(".")


def test_the_sentence_fits_the_case() -> None:
    with pytest.raises(UnreadableAudio, match="has no sound in it"):
        decode(video(with_sound=False))
    with pytest.raises(UnreadableAudio, match="a header but no sound"):
        decode(sounds.wav(SOUND[:0]))
    with pytest.raises(UnreadableAudio, match="sample rate of 1 Hz"):
        decode(sounds.wav(SOUND, rate_hz=1))
    with pytest.raises(MissingAudio, match="empty"):
        decode(b"")


def test_an_encrypted_file() -> None:
    data = sounds.encode(Encoding("ipod", "aac"), SOUND)
    start = data.index(b"mdat") + 4
    scrambled = data[:start] + np.random.default_rng(0).bytes(data.index(b"moov") - 4 - start)
    with pytest.raises(UnreadableAudio, match="damaged"):
        decode(scrambled + data[len(scrambled) :])


def test_a_codec_that_is_not_let_in() -> None:
    with pytest.raises(UnreadableAudio, match="codec that is not supported"):
        decode(sounds.encode(Encoding("matroska", "tta"), SOUND))


@pytest.mark.parametrize("name", ["wav s16", "flac", "mp3", "m4a", "opus", "aac"])
def test_too_long(name: str) -> None:
    with pytest.raises(AudioTooLong, match=r"longer than the 1\.5 s"):
        decode(sounds.encode((LOSSLESS | LOSSY)[name], SOUND), max_audio_s=1.5)


@pytest.mark.parametrize("name", ["flac", "mp3", "m4a", "opus"])
def test_what_admits_to_be_too_long_is_not_decoded(name: str) -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(sounds.encode((LOSSLESS | LOSSY)[name], SOUND))
        assert isinstance(file, io.FileIO)
        decoder = Decoder(file, 1.5)
        with pytest.raises(AudioTooLong):
            next(decoder.blocks())
        assert decoder.decoded_samples == 0


def test_a_bomb_is_refused_by_what_comes_out_of_it() -> None:
    """FLAC of silence, 60 times smaller than its sound, with a header that admits to nothing."""
    data = bytearray(sounds.encode(Encoding("flac", "flac"), np.zeros(600 * SAMPLE_RATE_HZ, np.int16)))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with pytest.raises(AudioTooLong):
        decode(bytes(data), max_audio_s=60)


def test_a_header_that_lies_about_a_short_recording() -> None:
    data = bytearray(sounds.encode(Encoding("flac", "flac"), SOUND))
    data[22:26] = (36_000 * SAMPLE_RATE_HZ).to_bytes(4, "big")
    pcm, warnings = decode(bytes(data))
    assert len(pcm) == len(SOUND)
    assert warnings == ["The recording breaks off: 2.0 s of 36000.0 s could be read."]


@pytest.mark.parametrize("length", [0, 0x7FFF_F024, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFDB])
def test_a_wav_written_to_a_pipe(length: int) -> None:
    pcm, warnings = decode(sounds.wav(SOUND, data_bytes=length))
    assert np.array_equal(pcm, SOUND)
    assert warnings == [UNKNOWN_LENGTH]


def test_a_wav_with_chunks_around_its_data() -> None:
    data = sounds.wav(SOUND, extra=b"LIST" + struct.pack("<I", 5) + b"INFO\0\0") + b"id3 \x04\0\0\0abcd"
    pcm, warnings = decode(data)
    assert np.array_equal(pcm, SOUND)
    assert warnings == []


@pytest.mark.parametrize(
    "encoding",
    [
        pytest.param(Encoding("wav", "pcm_s16le"), id="wav"),
        pytest.param(Encoding("flac", "flac"), id="flac"),
        pytest.param(Encoding("mp3", "libmp3lame"), id="mp3"),
        pytest.param(Encoding("ogg", "libopus", 48_000), id="opus"),
        pytest.param(Encoding("ipod", "aac", options={"movflags": "faststart"}), id="m4a"),
        pytest.param(Encoding("webm", "libopus", 48_000), id="webm"),
        pytest.param(Encoding("aiff", "pcm_s16be"), id="aiff"),
    ],
)
def test_a_recording_that_breaks_off(encoding: Encoding) -> None:
    sound = np.tile(SOUND, 5)
    data = sounds.encode(encoding, sound)
    if encoding.container == "ipod":
        data = with_index_first(data)
    pcm, warnings = decode(data[: len(data) * 6 // 10])
    assert len(pcm) / SAMPLE_RATE_HZ == pytest.approx(6, abs=1.2)
    assert likeness(pcm) > 0.98
    assert any("breaks off" in warning for warning in warnings)


def with_index_first(data: bytes) -> bytes:
    """The same MP4 with the index (moov) moved before the sound, as files for the web have it."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, tempfile.NamedTemporaryFile(suffix=".m4a") as target:
        with av.open(target.name, "w", format="ipod", options={"movflags": "faststart"}) as container:
            stream = container.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        file.write(Path(target.name).read_bytes())
    return file.getvalue()


@pytest.mark.parametrize("name", ["flac", "mp3", "aac"])
def test_damage_in_the_middle_is_left_out(name: str) -> None:
    data = bytearray(sounds.encode((LOSSLESS | LOSSY)[name], np.tile(SOUND, 5)))
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    pcm, warnings = decode(bytes(data))
    assert len(pcm) / SAMPLE_RATE_HZ == pytest.approx(10, abs=2.5)
    assert likeness(pcm) > 0.98
    assert DAMAGED in warnings


@pytest.mark.parametrize(("container", "codec"), [("adts", "aac"), ("mp3", "libmp3lame")])
def test_a_stream_that_changes_its_rate_and_channels(container: str, codec: str) -> None:
    """Two files in one, as recorders of broadcasts write them."""
    mono = sounds.encode(Encoding(container, codec, 16_000), SOUND)
    stereo = sounds.encode(Encoding(container, codec, 48_000, "stereo"), SOUND)
    pcm, _ = decode(mono + stereo)
    assert len(pcm) / SAMPLE_RATE_HZ == pytest.approx(4, abs=0.2)
    assert min(likeness(pcm[:33_000]), likeness(pcm[-34_000:])) > 0.98


def test_what_ffmpeg_cannot_join_is_said_to_break_off() -> None:
    parts = []
    for rate_hz in (16_000, 32_000):
        file = io.BytesIO()
        soundfile.write(file, np.repeat(SOUND / 32768, rate_hz // 16_000), rate_hz, format="OGG", subtype="VORBIS")
        parts.append(file.getvalue())
    pcm, warnings = decode(b"".join(parts))
    assert len(pcm) / SAMPLE_RATE_HZ == pytest.approx(2, abs=0.1)
    assert warnings == ["The recording breaks off: 2.0 s could be read."]


def test_strange_names_in_the_metadata() -> None:
    data = sounds.wav(SOUND, extra=b"LIST" + struct.pack("<I", 14) + b"INFOINAM\x02\0\0\0\xff\xfe")
    assert len(decode(data)[0]) == len(SOUND)


def test_cover_art_is_no_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        sound = container.add_stream("libmp3lame", rate=SAMPLE_RATE_HZ, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 8, 8, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8))))
        frame = av.AudioFrame.from_ndarray(SOUND[None], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        resampler = av.AudioResampler(sound.format, "mono", SAMPLE_RATE_HZ, frame_size=576)
        for piece in (frame, None):
            for resampled in resampler.resample(piece):
                container.mux(sound.encode(resampled))
        container.mux(sound.encode(None))
    assert likeness(decode(file.getvalue())[0]) > 0.98
