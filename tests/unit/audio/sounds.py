"""Sounds and files that the tests of this folder make for themselves: noises, music, and files of every format."""

import io
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
Samples = NDArray[np.int16]
Sound = NDArray[np.float64]


def int16(sound: Sound, peak_db: float = -6.0) -> Samples:
    """Any float sound, scaled to a peak in dBFS."""
    return np.round(sound / max(1e-9, float(np.abs(sound).max())) * 10 ** (peak_db / 20) * 32767).astype(np.int16)


def tone(seconds: float, hz: float = 440.0, rate_hz: int = RATE_HZ) -> Sound:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)


def noise(seconds: float, slope: float = 0.0, seed: int = 0) -> Sound:
    """Noise whose amplitude falls with frequency to the power of `slope`: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ)))
    return np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** slope)


def note(semitone: int, seconds: float, *, harmonics: int = 8, fall_s: float = 0.5, vibrato: float = 0.0) -> Sound:
    """A decaying note with harmonics; semitone 69 is 440 Hz."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * 440 * 2 ** ((semitone - 69) / 12) * time + vibrato * np.sin(2 * np.pi * 5.5 * time)
    sound: Sound = np.sum([np.sin(k * phase) / k for k in range(1, harmonics + 1)], axis=0)
    return sound * np.exp(-time / fall_s) * np.minimum(1, time / 0.01)


def music(seconds: float) -> dict[str, Sound]:
    """Instrumental music: chords, an arpeggio, a melody with vibrato, drums, and all of them together."""
    rng = np.random.default_rng(1)
    count = int(seconds * RATE_HZ)
    tracks = {name: np.zeros(count) for name in ("chords", "arpeggio", "melody", "drums")}

    def add(track: str, start_s: float, sound: Sound) -> None:
        start = int(start_s * RATE_HZ)
        stop = min(count, start + len(sound))
        tracks[track][start:stop] += sound[: stop - start]

    for bar in range(int(seconds / 1.6)):
        for semitone in [(60, 64, 67), (57, 60, 64), (53, 57, 60), (55, 59, 62)][bar % 4]:
            add("chords", bar * 1.6, note(semitone, 1.6))
    for step in range(int(seconds / 0.2)):
        add("arpeggio", step * 0.2, note([60, 64, 67, 72, 67, 64][step % 6], 0.4, fall_s=0.15))
        kick = np.sin(2 * np.pi * 60 * np.arange(3200) / RATE_HZ) * np.exp(-np.arange(3200) / 1200)
        hit = kick if step % 4 == 0 else rng.standard_normal(3200) * np.exp(-np.arange(3200) / 300) * 0.4
        add("drums", step * 0.2, hit)
    for step in range(int(seconds / 0.4)):
        add("melody", step * 0.4, note(int(rng.choice([60, 62, 64, 67, 69, 72])), 0.4, fall_s=2, vibrato=0.3))
    return tracks | {"band": sum(tracks.values(), np.zeros(count))}


@dataclass(frozen=True)
class Encoding:
    """How `encode` writes a file."""

    container: str
    codec: str
    rate_hz: int = RATE_HZ
    layout: str = "mono"
    options: dict[str, str] = field(default_factory=dict)


def encode(encoding: Encoding, sound: Samples) -> bytes:
    """`sound` (mono 16 kHz, or [channels, n] at the encoding's own rate) as a file."""
    file = io.BytesIO()
    with av.open(file, "w", format=encoding.container) as container:
        stream = container.add_stream(
            encoding.codec, rate=encoding.rate_hz, layout=encoding.layout, options=dict(encoding.options)
        )
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.open()
        plane = sound[None] if sound.ndim == 1 else np.ascontiguousarray(sound.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(plane, "s16", "mono" if sound.ndim == 1 else encoding.layout)
        frame.sample_rate = RATE_HZ if sound.ndim == 1 else encoding.rate_hz
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, encoding.layout, encoding.rate_hz, frame_size=size)
        written = 0
        for piece in (frame, None):
            for resampled in resampler.resample(piece):
                resampled.pts, resampled.time_base = written, Fraction(1, encoding.rate_hz)
                written += resampled.samples
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return file.getvalue()


def wav(sound: Samples, rate_hz: int = RATE_HZ, data_bytes: int | None = None, extra: bytes = b"") -> bytes:
    """A 16-bit WAV, written by hand: with a header that claims `data_bytes`, and `extra` chunks before the data."""
    channels = 1 if sound.ndim == 1 else len(sound)
    body = np.ascontiguousarray(sound.T).astype("<i2").tobytes()
    claimed = len(body) if data_bytes is None else data_bytes
    form = b"".join(
        value.to_bytes(size, "little")
        for value, size in (
            (1, 2),
            (channels, 2),
            (rate_hz, 4),
            (min(rate_hz * channels * 2, 2**32 - 1), 4),
            (channels * 2, 2),
            (16, 2),
        )
    )
    riff = min(claimed + 36 + len(extra), 2**32 - 1)
    chunks = b"fmt " + len(form).to_bytes(4, "little") + form + extra + b"data" + claimed.to_bytes(4, "little")
    return b"RIFF" + riff.to_bytes(4, "little") + b"WAVE" + chunks + body
