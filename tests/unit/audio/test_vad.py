"""The voice detector with the windowing policy, on real speech and on everything that only sounds alive."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asr_service.audio.vad import Leveller, VoiceDetector, load_model
from asr_service.audio.windows import FRAME_SAMPLES, Windower
from asr_service.domain import SAMPLE_RATE_HZ, Window
from tests.recordings import load_pcm, packaged_clips, shared_recordings
from tests.unit.audio import sounds
from tests.unit.audio.sounds import Samples


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model()


def windows_of(model: Any, pcm: Samples) -> list[Window]:
    detector, windower = VoiceDetector(model), Windower()
    return [
        *windower.feed(detector.feed(pcm)),
        *windower.feed(detector.finish()),
        *windower.finish(len(pcm)),
    ]


def quieter(pcm: Samples, db: float) -> Samples:
    return np.round(pcm * 10 ** (-db / 20)).astype(np.int16)


@pytest.mark.parametrize("attenuation_db", [0, 40])
def test_speech_is_found_at_any_volume(model: Any, attenuation_db: int) -> None:
    silent = [p.name for p in packaged_clips() if not windows_of(model, quieter(load_pcm(p), attenuation_db))]
    assert silent == []


@pytest.mark.skipif(not shared_recordings(), reason="the recordings beside the checkout are absent")
@pytest.mark.parametrize("attenuation_db", [0, 20])
def test_speech_is_found_in_field_recordings(model: Any, attenuation_db: int) -> None:
    silent = [p.name for p in shared_recordings() if not windows_of(model, quieter(load_pcm(p), attenuation_db))]
    assert silent == []


def test_most_of_a_sentence_is_inside_its_window(model: Any) -> None:
    for path in packaged_clips()[:6]:
        pcm = load_pcm(path)
        windows = windows_of(model, pcm)
        energy = np.square(pcm.astype(np.float64))
        heard = sum(energy[w.start_sample : w.end_sample].sum() for w in windows)
        assert heard / energy.sum() > 0.99


def test_speech_is_found_between_long_silences(model: Any) -> None:
    speech = load_pcm(packaged_clips()[0])
    silence = np.zeros(20 * SAMPLE_RATE_HZ, np.int16)
    (window,) = windows_of(model, np.concatenate([silence, speech, silence]))
    assert window.speech.start_s == pytest.approx(20, abs=0.3)
    assert window.speech.end_s == pytest.approx(20 + len(speech) / SAMPLE_RATE_HZ, abs=0.5)


def lifeless(seconds: float) -> dict[str, NDArray[np.float64]]:
    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    clicks = np.zeros(len(time))
    clicks[:: SAMPLE_RATE_HZ // 3] = 1
    drops = sounds.noise(seconds, 0.5) * 2
    for start in np.random.default_rng(3).integers(0, len(time) - 400, 800):
        drops[start : start + 400] += sounds.noise(0.025, 0, int(start)) * np.exp(-np.arange(400) / 40)
    return sounds.music(seconds) | {
        "white": sounds.noise(seconds),
        "pink": sounds.noise(seconds, 0.5),
        "brown": sounds.noise(seconds, 1),
        "hum": sum((sounds.tone(seconds, 50 * k) / k for k in range(1, 10)), np.zeros(len(time))),
        "sweep": np.sin(2 * np.pi * (100 * time + 1500 / seconds * time**2)),
        "beeps": sounds.tone(seconds, 1000) * (time % 1 < 0.2),
        "dial": sounds.tone(seconds, 770) + sounds.tone(seconds, 1336) * (time % 0.3 < 0.12),
        "clicks": clicks,
        "rain": drops,
    }


@pytest.mark.parametrize("peak_db", [-3, -30, -55])
def test_nothing_is_heard_where_nobody_speaks(model: Any, peak_db: float) -> None:
    heard = {name: windows_of(model, sounds.int16(sound, peak_db)) for name, sound in lifeless(10).items()}
    assert {name for name, windows in heard.items() if windows} == set()


def test_nothing_is_heard_in_silence(model: Any) -> None:
    dither = np.random.default_rng(0).integers(-1, 2, 10 * SAMPLE_RATE_HZ).astype(np.int16)
    assert windows_of(model, dither) == windows_of(model, np.zeros_like(dither)) == windows_of(model, dither[:0]) == []


def test_chunks_make_no_difference(model: Any) -> None:
    pcm = load_pcm(packaged_clips()[0])
    whole = VoiceDetector(model)
    expected = np.concatenate([whole.feed(pcm), whole.finish()])
    pieces = VoiceDetector(model)
    got = [pieces.feed(piece) for piece in np.split(pcm, [1, 500, 513, 9_000, 9_001, 30_000])]
    assert np.concatenate([*got, pieces.finish()]) == pytest.approx(expected, abs=1e-3)
    assert len(expected) == -(-len(pcm) // FRAME_SAMPLES)


def frames(level: float, count: int) -> NDArray[np.float32]:
    return np.full((count, FRAME_SAMPLES), level, np.float32)


def test_levelling_lifts_by_at_most_40_db_and_never_lowers() -> None:
    assert Leveller().level(frames(1e-6, 5)) == pytest.approx(frames(1e-4, 5), rel=1e-3)
    assert Leveller().level(frames(0.5, 5)) == pytest.approx(frames(0.5, 5))
    assert Leveller().level(frames(0.01, 5)) == pytest.approx(frames(0.1, 5), rel=1e-3)


def test_levelling_follows_an_onset_at_once_and_falls_back_slowly() -> None:
    leveller = Leveller()
    leveller.level(frames(1e-3, 10))
    assert leveller.level(frames(0.1, 1)) == pytest.approx(frames(0.1, 1), rel=1e-3)
    after = leveller.level(frames(1e-3, 63))
    assert after[0, -1] < 2e-3
    assert after[-1, -1] == pytest.approx(1e-2, rel=0.05)


def test_the_workers_modules_do_not_load_torch() -> None:
    program = "import asr_service.audio.worker as w, sys; w.load_model(); sys.exit('torch' in sys.modules)"
    source = Path(sys.modules["asr_service"].__file__ or "").parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(source)})


def test_the_pool_loads_neither_ffmpeg_nor_onnxruntime() -> None:
    program = "import asr_service.audio.pool, sys; sys.exit(bool({'av', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    source = Path(sys.modules["asr_service"].__file__ or "").parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(source)})
