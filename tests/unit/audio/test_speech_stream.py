"""One stream of live speech: its encodings, its windows, and that the way it is cut into pieces makes no difference."""

import io

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr_service.audio.listener_messages import Ended, StreamSettings
from asr_service.audio.speech_stream import SpeechStream, policy_of
from asr_service.audio.vad import load_model
from asr_service.audio.windows import FRAME_SAMPLES, Windower
from tests.recordings import load_pcm, packaged_clips

CLIPS = {path.stem: path for path in packaged_clips() if path.parent.name == "en"}
PCM_16K = StreamSettings(rate_hz=16_000)


@pytest.fixture(scope="module")
def model() -> object:
    return load_model()


@pytest.fixture(scope="module")
def two_sentences() -> NDArray[np.int16]:
    pause = np.zeros(16_000, np.int16)
    first, second = (load_pcm(CLIPS[name]) for name in ("quick_brown_fox", "counting"))
    return np.concatenate([pause, first, pause, second, pause])


def hear(stream: SpeechStream, data: bytes, piece_bytes: int) -> tuple[list[Ended], bytes]:
    ended: list[Ended] = []
    pcm = b""
    for start in range(0, len(data), piece_bytes):
        heard = stream.feed(data[start : start + piece_bytes])
        ended += heard.ended
        pcm += heard.pcm
    heard = stream.finish()
    return ended + heard.ended, pcm + heard.pcm


def g711(samples: NDArray[np.int16], subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="RAW", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(("encoding", "subtype"), [("pcmu", "ULAW"), ("pcma", "ALAW")])
def test_g711_is_decoded_as_another_library_does(encoding: str, subtype: str, model: object) -> None:
    codes = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(codes), channels=1, samplerate=8000, format="RAW", subtype=subtype, dtype="int16"
    )
    settings = StreamSettings(encoding=encoding, rate_hz=16_000)  # type: ignore[arg-type]
    heard = SpeechStream(1, model, settings).feed(codes)
    assert np.frombuffer(heard.pcm, np.int16).tolist() == expected.tolist()


@pytest.mark.parametrize("encoding", ["pcm16", "pcmu", "pcma"])
def test_the_same_speech_is_heard_in_every_encoding(
    encoding: str, model: object, two_sentences: NDArray[np.int16]
) -> None:
    plain, _ = hear(SpeechStream(1, model, PCM_16K), two_sentences.tobytes(), 3200)
    rate = 24_000 if encoding == "pcm16" else 8000
    samples = soxr.resample(two_sentences, 16_000, rate)
    data = samples.tobytes() if encoding == "pcm16" else g711(samples, encoding.replace("pcm", "").upper() + "LAW")
    settings = StreamSettings(encoding=encoding, rate_hz=rate)  # type: ignore[arg-type]
    ended, pcm = hear(SpeechStream(1, model, settings), data, 2400)
    assert len(pcm) == pytest.approx(2 * len(two_sentences), abs=8)
    assert len(ended) == len(plain) == 2
    for one, other in zip(ended, plain, strict=True):
        assert one.window.speech.start_s == pytest.approx(other.window.speech.start_s, abs=0.15)
        assert one.window.speech.end_s == pytest.approx(other.window.speech.end_s, abs=0.15)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(piece_samples=st.integers(37, 50_000))
def test_how_the_audio_is_cut_into_pieces_makes_no_difference(
    piece_samples: int, model: object, two_sentences: NDArray[np.int16]
) -> None:
    whole, _ = hear(SpeechStream(1, model, PCM_16K), two_sentences.tobytes(), len(two_sentences) * 2)
    pieces, pcm = hear(SpeechStream(1, model, PCM_16K), two_sentences.tobytes(), piece_samples * 2)
    assert pcm == two_sentences.tobytes()
    assert [ended.window for ended in pieces] == [ended.window for ended in whole]
    assert [ended.goes_on for ended in pieces] == [False, False]


def test_a_stream_goes_on_after_its_windows_were_ended(model: object, two_sentences: NDArray[np.int16]) -> None:
    stream = SpeechStream(1, model, PCM_16K)
    once, _ = hear(stream, two_sentences.tobytes(), 3200)
    again, _ = hear(stream, two_sentences.tobytes(), 3200)
    assert [
        later.window.start_sample - first.window.start_sample for first, later in zip(once, again, strict=True)
    ] == [len(two_sentences)] * 2
    assert again[0].window.speech.start_s == once[0].window.speech.start_s + len(two_sentences) / 16_000


def test_another_stream_takes_over_what_is_open(model: object, two_sentences: NDArray[np.int16]) -> None:
    first = SpeechStream(1, model, PCM_16K)
    whole, _ = hear(SpeechStream(1, model, PCM_16K), two_sentences.tobytes(), 3200)
    middle = 2 * (whole[0].window.start_sample + 16_000)
    pcm = two_sentences.tobytes()
    heard = first.feed(pcm[:middle])
    assert heard.open is not None
    kept = pcm[2 * heard.keep_sample : middle]
    second = SpeechStream(1, model, PCM_16K, start_sample=heard.keep_sample, heard=kept)
    ended, _ = hear(second, pcm[middle:], 3200)
    assert [e.window.start_sample for e in ended] == pytest.approx([e.window.start_sample for e in whole], abs=3200)
    assert [e.window.end_sample for e in ended] == pytest.approx([e.window.end_sample for e in whole], abs=3200)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.03, 25)), max_size=12),
    st.floats(0, 2),
    st.one_of(st.none(), st.floats(0.1, 3)),
)
def test_windows_of_live_speech_never_overlap_and_are_kept_as_long_as_they_are_needed(
    stretches: list[tuple[bool, float]], prefix_s: float, silence_s: float | None
) -> None:
    windower = Windower(policy_of(StreamSettings(prefix_s=prefix_s, silence_s=silence_s)))
    end = keep = frames = 0
    for is_speech, seconds in stretches:
        for _ in range(round(seconds * 16_000 / FRAME_SAMPLES)):
            frames += 1
            for window in windower.feed([0.9 if is_speech else 0.02]):
                assert max(end, keep) <= window.start_sample < window.end_sample <= frames * FRAME_SAMPLES
                assert window.end_sample - window.start_sample <= 20.5 * 16_000
                end = window.end_sample
            keep = max(keep, windower.earliest_sample)
            if (now := windower.open) is not None:
                assert keep <= now.start_sample < now.end_sample <= frames * FRAME_SAMPLES
