"""The windowing policy: what becomes a window, where it is cut, and what holds for any recording whatsoever."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.audio.windows import FRAME_SAMPLES, Windower, WindowPolicy
from asr_service.domain import SAMPLE_RATE_HZ, Window

MAX_SAMPLES = 30 * SAMPLE_RATE_HZ
FRAMES_PER_S = SAMPLE_RATE_HZ / FRAME_SAMPLES


def stretch(seconds: float, prob: float) -> list[float]:
    return [prob] * round(seconds * FRAMES_PER_S)


def speech(seconds: float) -> list[float]:
    return stretch(seconds, 0.95)


def pause(seconds: float) -> list[float]:
    return stretch(seconds, 0.02)


def windows_of(probs: list[float], total_samples: int | None = None) -> list[Window]:
    windower = Windower()
    total = len(probs) * FRAME_SAMPLES if total_samples is None else total_samples
    return [*windower.feed(probs), *windower.finish(total)]


def seconds(window: Window) -> tuple[float, float]:
    return window.start_sample / SAMPLE_RATE_HZ, window.end_sample / SAMPLE_RATE_HZ


def test_silence_has_no_windows() -> None:
    assert windows_of(pause(60)) == []
    assert windows_of([]) == []


def test_speech_gets_air_on_both_sides() -> None:
    (window,) = windows_of(pause(3.2) + speech(1.6) + pause(3.2))
    assert (window.speech.start_s, window.speech.end_s) == (3.2, 4.8)
    assert seconds(window) == pytest.approx((2.9, 5.1))


def test_air_ends_where_the_recording_does() -> None:
    (window,) = windows_of(pause(0.096) + speech(0.96) + pause(0.064), total_samples=17_500)
    assert (window.start_sample, window.end_sample) == (0, 17_500)


def test_a_word_in_a_recording_of_less_than_half_a_second_is_kept() -> None:
    (window,) = windows_of(speech(0.32), total_samples=5_000)
    assert (window.start_sample, window.end_sample) == (0, 5_000)
    assert window.speech.end_s == 5_000 / SAMPLE_RATE_HZ


@pytest.mark.parametrize(
    "probs",
    [pytest.param(speech(0.16), id="too short"), pytest.param(stretch(5, 0.55), id="never sure")],
)
def test_what_is_no_speech(probs: list[float]) -> None:
    assert windows_of(pause(1) + probs + pause(1)) == []


def test_a_flickering_word_is_one_region() -> None:
    flicker = [0.9, 0.9, 0.1, 0.1, 0.1, 0.9, 0.4, 0.9, 0.1, 0.9, 0.9]
    assert len(windows_of(pause(1) + flicker + pause(1))) == 1


def test_sentences_share_a_window_and_long_silence_ends_it() -> None:
    windows = windows_of(speech(4) + pause(1) + speech(4) + pause(2.5) + speech(4))
    assert [window.index for window in windows] == [0, 1]
    assert [window.speech.start_s for window in windows] == pytest.approx([0, 11.5], abs=0.05)
    assert [window.speech.end_s for window in windows] == pytest.approx([9, 15.5], abs=0.05)


def test_a_window_is_announced_as_soon_as_the_pause_is_long_enough() -> None:
    windower = Windower()
    assert list(windower.feed(speech(3) + pause(1.9))) == []
    assert len(list(windower.feed(pause(0.2)))) == 1


def test_thirty_seconds_of_speech_are_one_window() -> None:
    (window,) = windows_of(speech(30.016), total_samples=MAX_SAMPLES)
    assert (window.start_sample, window.end_sample) == (0, MAX_SAMPLES)


def test_a_full_window_ends_at_the_longest_pause_of_its_last_third() -> None:
    spoken = speech(10) + pause(1.8) + speech(10) + pause(0.6) + speech(3) + pause(0.3) + speech(9)
    first, second = windows_of(spoken)
    assert first.speech.end_s == pytest.approx(21.8, abs=0.05)
    assert second.speech.start_s == pytest.approx(22.4, abs=0.05)


def test_without_a_late_pause_it_ends_at_an_early_one() -> None:
    first, second = windows_of(speech(8) + pause(0.5) + speech(25))
    assert first.speech.end_s == pytest.approx(8, abs=0.05)
    assert second.duration_s < 30


def test_speech_without_a_pause_is_cut_where_it_is_least_like_speech() -> None:
    first, second = windows_of(speech(24) + [0.5, 0.4, 0.5] + speech(20))
    assert first.end_sample == second.start_sample
    assert first.end_sample / SAMPLE_RATE_HZ == pytest.approx(24.05, abs=0.07)


def test_a_dip_in_the_first_two_thirds_is_no_place_to_cut() -> None:
    first, _ = windows_of(speech(10) + [0.5, 0.4, 0.5] + speech(30))
    assert first.duration_s >= 20


def test_a_tail_is_never_tiny() -> None:
    for tail_frames in range(1, 40):
        windows = windows_of(speech(29.9) + [0.95] * tail_frames)
        assert all(window.duration_s >= 0.5 for window in windows)


@pytest.mark.parametrize("silence_s", [0, 5])
def test_a_word_right_after_a_full_window_is_not_lost(silence_s: float) -> None:
    windows = windows_of(speech(29.6) + pause(0.16) + speech(0.3) + pause(silence_s))
    assert windows[-1].speech.end_s == pytest.approx(30.06, abs=0.05)
    assert all(window.duration_s >= 0.5 for window in windows)


def test_a_short_pause_is_shared_between_the_windows_that_it_parts() -> None:
    first, second = windows_of(speech(25) + pause(0.16) + speech(10))
    assert first.speech.end_s < seconds(first)[1] <= seconds(second)[0] < second.speech.start_s


stretches = st.tuples(st.sampled_from([0.02, 0.2, 0.35, 0.55, 0.65, 0.95]), st.integers(1, 400))
noisy = st.lists(st.floats(0, 1, width=32), max_size=200)
talk = st.lists(st.tuples(st.integers(5, 300), st.integers(0, 64)), min_size=5, max_size=30)
recordings = st.one_of(
    talk.map(lambda parts: [prob for spoken, quiet in parts for prob in [0.9] * spoken + [0.05] * quiet]),
    st.lists(stretches, max_size=25).map(lambda parts: [prob for prob, count in parts for _ in range(count)]),
    st.lists(noisy, max_size=8).map(lambda parts: [prob for part in parts for prob in part]),
)


def test_a_policy_whose_windows_need_audio_that_is_still_to_come_is_refused() -> None:
    with pytest.raises(ValueError, match="must fit"):
        WindowPolicy(close_pause_s=0.2)


def test_air_that_the_window_before_has_taken_is_not_taken_again() -> None:
    windower = Windower(WindowPolicy(pad_before_s=1.0, close_pause_s=0.5))
    probs = speech(1.6) + pause(0.64) + speech(1.6)
    first, second = [*windower.feed(probs), *windower.finish(len(probs) * FRAME_SAMPLES)]
    assert second.start_sample == first.end_sample


def strong_runs(probs: list[float]) -> Iterable[tuple[int, int]]:
    """Runs of frames that are speech beyond doubt: seven or more at 0.6 or above."""
    start = None
    for frame, prob in enumerate([*probs, 0.0]):
        if prob >= 0.6 and start is None:
            start = frame
        elif prob < 0.6 and start is not None:
            if frame - start >= 7:
                yield start, frame
            start = None


@settings(max_examples=300)
@given(recordings, st.integers(0, FRAME_SAMPLES - 1))
def test_windows_of_any_recording(probs: list[float], missing: int) -> None:
    total = max(0, len(probs) * FRAME_SAMPLES - missing)
    windows = windows_of(probs, total)
    end = 0
    for index, window in enumerate(windows):
        assert window.index == index
        assert end <= window.start_sample < window.end_sample <= total
        assert window.end_sample - window.start_sample <= MAX_SAMPLES
        start_s, end_s = seconds(window)
        assert start_s <= window.speech.start_s < window.speech.end_s <= end_s
        assert window.duration_s >= 0.5 or (window.start_sample, window.end_sample) == (0, total)
        end = window.end_sample
    heard = [False] * len(probs)
    for window in windows:
        for frame in range(window.start_sample // FRAME_SAMPLES, -(-window.end_sample // FRAME_SAMPLES)):
            heard[frame] = True
    for start, stop in strong_runs(probs):
        assert all(heard[start:stop])


@settings(max_examples=300)
@given(recordings, st.lists(st.integers(1, 300), max_size=40))
def test_chunks_make_no_difference(probs: list[float], sizes: list[int]) -> None:
    windower = Windower()
    found: list[Window] = []
    position = 0
    for size in [*sizes, len(probs)]:
        found += windower.feed(probs[position : position + size])
        position += size
    found += windower.finish(len(probs) * FRAME_SAMPLES)
    assert found == windows_of(probs)


@settings(max_examples=100)
@given(recordings)
def test_an_early_window_is_final(probs: list[float]) -> None:
    """What has been announced after part of a recording is what the whole recording gives."""
    part = len(probs) * 2 // 3
    early = list(Windower().feed(probs[:part]))
    assert windows_of(probs)[: len(early)] == early
