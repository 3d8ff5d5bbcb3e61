"""Subtitles that people can read, in files that other programs can."""

import html
import io
from itertools import pairwise

import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from asr_service.domain import Segment, Word
from asr_service.text.breaks import LINE_UNITS, pieces, units
from asr_service.text.subtitles import Cue, cues, srt, vtt

GAP_S = 0.083


def shown(*segments: Segment) -> list[tuple[str, ...]]:
    return [cue.lines for cue in cues(segments)]


def timed(*words: tuple[float, float, str], end_s: float | None = None) -> Segment:
    """A segment of words with times, which spell its text with spaces between them."""
    last = words[-1][1] if end_s is None else end_s
    return Segment(words[0][0], last, " ".join(text for *_, text in words), tuple(Word(*word) for word in words))


# Text that formats and line breaking find hard, and text of every other kind.
HARD = st.sampled_from(
    ["-->", "a --> b", "\n\n", "\r\n", "&", "&amp;", "<i>", "</i>", "42", "NOTE", "WEBVTT", "你好。", "，", "“", "”"]
    + ["\u2028", "\x85", "\x1c", "\u200d", "\u0301", "e\u0301", "👩‍🚀", "00:00:01,000 --> 00:00:02,000", "word "]
)
TEXTS = st.one_of(
    st.text(),
    st.lists(st.one_of(HARD, st.text(max_size=5), st.just(" ")), max_size=60).map("".join),
    st.text(st.sampled_from("ab cd, ef. 你好。我们，说"), max_size=300),
)
TIMES = st.floats(0, 400_000, allow_nan=False)


@st.composite
def segment_lists(draw: st.DrawFn) -> list[Segment]:
    """Segments as they should be, and as they should not: without any duration, out of order, words before them."""
    found = []
    for text in draw(st.lists(TEXTS, max_size=4)):
        start_s, end_s = sorted((draw(TIMES), draw(st.one_of(TIMES, st.floats(0, 30)))))
        words: tuple[Word, ...] = ()
        if draw(st.booleans()):
            words = tuple(Word(draw(TIMES), draw(TIMES), draw(st.sampled_from(("", " "))) + w) for w in text.split())
        found.append(Segment(start_s, end_s, text, words))
    return found


@given(segment_lists())
def test_nothing_is_lost_and_every_cue_keeps_the_rules(segments: list[Segment]) -> None:
    found = cues(segments)

    said = "".join("".join(segment.text.split()) for segment in segments)
    assert "".join("".join(cue.lines) for cue in found).replace(" ", "") == said
    for cue in found:
        assert 1 <= len(cue.lines) <= 2
        assert 0 < round(1000 * (cue.end_s - cue.start_s)) <= 7000
        for line in cue.lines:
            assert line == line.strip() != ""
            assert units(line) <= LINE_UNITS or len(pieces(line)) == 1
    for one, other in pairwise(found):
        assert one.end_s <= other.start_s
    for text in (srt(found), vtt(found)):
        assert "\n\n\n" not in text


@given(segment_lists())
def test_another_parser_reads_the_same(segments: list[Segment]) -> None:
    found = cues(segments)
    if not found:
        return
    as_srt = webvtt.from_buffer(io.StringIO(srt(found)), format="srt")
    as_vtt = webvtt.from_buffer(io.StringIO(vtt(found)), strict=True)
    for cue, one, other in zip(found, as_srt.captions, as_vtt.captions, strict=True):
        assert one.raw_text == "\n".join(cue.lines).replace("-->", "-- >")
        assert html.unescape(other.raw_text) == "\n".join(cue.lines)
        for caption in (one, other):
            assert caption.start_time.in_milliseconds() == round(cue.start_s * 1000)
            assert caption.end_time.in_milliseconds() == round(cue.end_s * 1000)


def test_each_sentence_is_a_cue_where_there_is_time_to_read_it() -> None:
    segment = timed(
        (0.5, 0.9, "Good"),
        (0.9, 1.5, "morning."),
        (1.6, 1.8, "How"),
        (1.8, 2.0, "are"),
        (2.0, 2.7, "you?"),
    )
    assert cues([segment]) == [
        Cue(0.5, 1.517, ("Good morning.",)),
        Cue(1.6, 2.7, ("How are you?",)),
    ]


def test_short_sentences_share_a_cue() -> None:
    assert shown(timed((0.0, 0.2, "Yes."), (0.2, 0.4, "No."), (0.4, 1.2, "Perhaps."))) == [("Yes. No. Perhaps.",)]
    assert shown(timed((0.0, 0.3, "No."), (0.3, 0.6, "No."), (0.6, 1.2, "No."))) == [("No. No. No.",)]


def test_a_cue_does_not_stay_through_silence() -> None:
    assert cues([timed((0.0, 0.9, "Well"), (4.0, 4.5, "maybe"), (4.5, 5.0, "not"))]) == [
        Cue(0, 0.9, ("Well",)),
        Cue(4, 5, ("maybe not",)),
    ]


def test_a_long_sentence_is_cut_at_a_comma_and_its_lines_are_even() -> None:
    text = (
        "Be careful not to allow fabric to become too hot, which can cause shrinkage or, in extreme cases, scorch "
        "the fabric beyond repair."
    )
    assert shown(Segment(0, 9, text)) == [
        ("Be careful not to allow fabric to become", "too hot, which can cause shrinkage or,"),
        ("in extreme cases, scorch", "the fabric beyond repair."),
    ]


def test_chinese_lines_are_shorter_and_do_not_begin_with_punctuation() -> None:
    text = "今天天气很好，我们一起去公园散步吧。公园里有很多人在跑步，还有孩子们在湖边喂鸭子，非常热闹。"
    found = shown(Segment(0, 12, text))
    assert found == [
        ("今天天气很好，", "我们一起去公园散步吧。"),
        ("公园里有很多人在跑步，",),
        ("还有孩子们在湖边", "喂鸭子，非常热闹。"),
    ]


def test_japanese_lines_end_after_particles_and_not_inside_katakana() -> None:
    text = "マイクから入ってきた音声は、デジタル信号に変換されてコンピューターに送られます。"
    assert shown(Segment(0, 8, text)) == [
        ("マイクから入ってきた音声は、",),
        ("デジタル信号に変換されて", "コンピューターに送られます。"),
    ]


def test_mixed_text_is_cut_where_the_scripts_meet_but_not_inside_a_word() -> None:
    text = "我们的service用Kubernetes部署在三个region里面，每个region有两个replica，非常stable。"
    lines = [line for cue in shown(Segment(0, 10, text)) for line in cue]
    assert "".join(lines) == text
    for word in ("service", "Kubernetes", "region里", "replica，", "stable。"):
        assert any(word in line for line in lines)


def test_a_cue_ends_in_a_pause_rather_than_between_any_words() -> None:
    text = "so we went down to the old harbour with the children and looked at the boats for an hour"
    words = []
    for n, word in enumerate(text.split()):
        start_s = 0.3 * n + (1.0 if n >= 7 else 0.0)
        words.append((start_s, start_s + 0.3, word))
    found = cues([timed(*words)])
    assert " ".join(found[0].lines) == "so we went down to the old"
    assert found[1].start_s == 3.1


def test_slow_speech_is_cut_before_seven_seconds() -> None:
    found = cues([timed(*((2.0 * n, 2.0 * n + 1.5, "word") for n in range(6)))])
    assert all(cue.end_s - cue.start_s <= 7 for cue in found)
    assert sum(len(" ".join(cue.lines).split()) for cue in found) == 6


def test_a_word_longer_than_a_line_has_a_line_of_its_own() -> None:
    word = "https://example.org/" + "a" * 60
    (cue,) = cues([Segment(0, 5, f"See {word} now.")])[:1]
    assert word in cue.lines or cue.lines == ("See", word)
    assert [line for cue in shown(Segment(0, 5, f"See {word} now.")) for line in cue if len(line) > 42] == [word]


def test_a_cue_stays_into_the_pause_after_it_but_never_into_the_next() -> None:
    first, second, third = cues([Segment(0, 0.2, "Yes."), Segment(5, 5.2, "No."), Segment(5.5, 7, "Never ever.")])
    assert (first.start_s, first.end_s) == (0, 0.833)
    assert second.start_s == 5
    assert second.end_s == pytest.approx(5.5 - GAP_S)
    assert third.start_s == 5.5


def test_long_text_stays_as_long_as_reading_it_takes() -> None:
    narrow, wide = cues([Segment(0, 1, "x" * 34), Segment(10, 11, "你" * 18)])
    assert (narrow.end_s, wide.end_s) == (2, 12)


def test_a_short_gap_is_closed_and_a_long_one_is_not() -> None:
    first, second, _ = cues([Segment(0, 2, "One."), Segment(2.4, 4, "Two."), Segment(4.6, 6, "Three.")])
    assert first.end_s == pytest.approx(2.4 - GAP_S)
    assert second.end_s == 4


def test_words_that_do_not_spell_the_text_are_left_aside() -> None:
    segment = Segment(0, 4, "One two. Three four.", (Word(3, 4, "Something"), Word(4, 5, "else")))
    assert [cue.start_s for cue in cues([segment])] == [0, pytest.approx(4 * 7 / 17, abs=0.001)]


def test_words_may_bring_their_spaces_along() -> None:
    segment = Segment(0, 4, "One two.  Three.", (Word(0, 1, "One"), Word(1, 2, " two."), Word(3, 4, " Three.")))
    assert [(cue.start_s, cue.lines) for cue in cues([segment])] == [(0, ("One two.",)), (3, ("Three.",))]


def test_segments_without_text_give_nothing() -> None:
    assert cues([]) == cues([Segment(0, 1, " \n")]) == []
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


SOME = [Cue(0, 1.5, ("A < B & C --> D", "42")), Cue(360_000.25, 360_001.9996, ("你好。",))]


def test_srt() -> None:
    assert srt(SOME) == (
        "1\n00:00:00,000 --> 00:00:01,500\nA < B & C -- > D\n42\n\n2\n100:00:00,250 --> 100:00:02,000\n你好。\n\n"
    )


def test_vtt() -> None:
    assert vtt(SOME) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nA &lt; B &amp; C --&gt; D\n42\n\n"
        "100:00:00.250 --> 100:00:02.000\n你好。\n\n"
    )


def test_a_blank_line_in_the_text_does_not_end_a_cue() -> None:
    found = cues([Segment(0, 4, "One\n\n2\n00:00:01,000 --> 00:00:02,000\r\n\u2028two")])
    assert srt(found).count("-->") == vtt(found).count("-->") == len(found)
