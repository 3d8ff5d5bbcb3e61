"""What is printed in each format."""

import io
import json

import pytest
from rich.console import Console

from asr_service.domain import Segment, Word
from asr_service.live.dialogue import Draft, Lost, Utterance
from asr_service.live.show import Format, JsonShow, Show, SubtitleShow, TerminalShow

HELLO = Utterance(0.5, 1.5, "Hello.", "en", (Word(0.5, 1.5, "Hello."),), (Segment(0.5, 1.5, "Hello."),))
LATER = Utterance(3725.0, 3726.5, "Später & <mehr>.", "de", (), (Segment(3725.0, 3726.5, "Später & <mehr>."),))


class Output(io.StringIO):
    """Counts how often it is flushed."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def output() -> Output:
    return Output()


@pytest.fixture
def errors() -> io.StringIO:
    return io.StringIO()


def test_lines_are_flushed_at_once(output: Output, errors: io.StringIO) -> None:
    show = Show(output, errors)

    show.drafts([Draft(0.5, "Hel", "lo")])
    show.outcomes([HELLO])
    assert output.flushed == 1
    show.outcomes([Lost(2.0, "It broke."), LATER])
    show.close()

    assert output.getvalue() == "[0:00] Hello.\n[62:05] Später & <mehr>.\n"
    assert errors.getvalue() == "[0:02] No text: It broke.\n"
    assert (show.lost, output.flushed) == (1, 2)


def test_json_lines(output: Output, errors: io.StringIO) -> None:
    JsonShow(output, errors).outcomes([HELLO, LATER])

    first, second = (json.loads(line) for line in output.getvalue().splitlines())
    words = [{"word": "Hello.", "start": 0.5, "end": 1.5}]
    assert first == {"start": 0.5, "end": 1.5, "text": "Hello.", "language": "en", "words": words}
    assert second == {"start": 3725.0, "end": 3726.5, "text": "Später & <mehr>.", "language": "de", "words": []}
    assert "ä" in output.getvalue()


def test_subrip_numbers_go_on(output: Output, errors: io.StringIO) -> None:
    show = SubtitleShow(output, errors, Format.SRT)

    show.outcomes([HELLO])
    show.outcomes([LATER])

    assert output.getvalue() == (
        "1\n00:00:00,500 --> 00:00:01,500\nHello.\n\n2\n01:02:05,000 --> 01:02:06,500\nSpäter & <mehr>.\n\n"
    )


def test_webvtt_has_one_header(output: Output, errors: io.StringIO) -> None:
    show = SubtitleShow(output, errors, Format.VTT)
    assert output.getvalue() == "WEBVTT\n\n"

    show.outcomes([HELLO])
    show.outcomes([LATER])

    assert output.getvalue().count("WEBVTT") == 1
    assert output.getvalue().endswith("01:02:05.000 --> 01:02:06.500\nSpäter &amp; &lt;mehr&gt;.\n\n")


def test_cues_of_utterances_do_not_overlap(output: Output, errors: io.StringIO) -> None:
    show = SubtitleShow(output, errors, Format.SRT)
    long = "This is said so quickly that reading it takes far longer than saying it did."

    show.outcomes([Utterance(1.0, 1.5, long, segments=(Segment(1.0, 1.5, long),))])
    show.outcomes([Utterance(1.9, 2.5, "Next.", segments=(Segment(1.9, 2.5, "Next."),))])

    times = [line.split(" --> ") for line in output.getvalue().splitlines() if "-->" in line]
    assert times[-2][1] == times[-1][0] == "00:00:02,000"


def test_a_terminal_shows_what_is_certain_and_what_is_not(errors: io.StringIO) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, highlight=False, color_system="standard")
    show = TerminalShow(console, errors)

    show.drafts([Draft(65.0, "Good", " mourning")])
    show.note("talk.mp3: Parts are damaged.")
    show.drafts([Draft(65.0, "Good\x1b[2J", "")])
    show.outcomes([HELLO])
    show.drafts([])
    show.close()

    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "\x1b[36m[1:05]\x1b[0m Good\x1b[2m mourning\x1b[0m" in written
    assert "\x1b[36m[0:00]\x1b[0m Hello.\n" in written
    assert "Good [2J" in written
    assert errors.getvalue() == "talk.mp3: Parts are damaged.\n"
