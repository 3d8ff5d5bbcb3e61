"""What the service's events mean, without a service."""

import json
from typing import Any

import pytest

from asr_service.domain import Segment, Word
from asr_service.live.dialogue import Dialogue, Draft, Lost, Utterance, Wishes, Words
from asr_service.live.failures import LiveFailed

TEXT = "conversation.item.input_audio_transcription."


class Told(Dialogue):
    """A dialogue that is told events by name."""

    def tell(self, kind: str, **fields: Any) -> list[Utterance | Lost]:
        return self.take(json.dumps({"type": kind, **fields}))

    def start(self, item: str, ms: int = 0) -> None:
        assert self.tell("input_audio_buffer.speech_started", item_id=item, audio_start_ms=ms) == []

    def complete(self, item: str, text: str, **fields: Any) -> list[Utterance | Lost]:
        return self.tell(f"{TEXT}completed", item_id=item, transcript=text, **fields)


@pytest.fixture
def dialogue() -> Told:
    told = Told(Wishes(16_000))
    told.opening()
    told.tell("session.created")
    told.tell("session.updated")
    return told


def texts(outcomes: list[Utterance | Lost]) -> list[str]:
    return [outcome.text for outcome in outcomes if isinstance(outcome, Utterance)]


@pytest.mark.parametrize(
    ("words", "includes"),
    [
        (Words.NO, [[]]),
        (Words.NEEDED, [["item.input_audio_transcription.words"]]),
        (Words.WELCOME, [[], ["item.input_audio_transcription.words"]]),
    ],
)
def test_words_are_asked_for_as_they_are_wanted(words: Words, includes: list[list[str]]) -> None:
    dialogue = Told(Wishes(24_000, words=words))

    opening = [json.loads(message) for message in dialogue.opening()]

    assert [message["session"]["include"] for message in opening] == includes
    assert opening[0]["session"]["audio"]["input"]["format"]["rate"] == 24_000
    for _ in opening:
        assert not dialogue.ready
        dialogue.tell("session.updated")
    assert dialogue.ready


def test_words_that_are_needed_and_not_there_end_the_session() -> None:
    dialogue = Told(Wishes(16_000, words=Words.NEEDED))
    (message,) = dialogue.opening()

    about = json.loads(message)["event_id"]
    with pytest.raises(LiveFailed, match="no aligner"):
        dialogue.tell("error", error={"code": "invalid_option", "message": "There is no aligner.", "event_id": about})


def test_text_grows_and_settles(dialogue: Told) -> None:
    dialogue.start("a", 1500)
    dialogue.tell(f"{TEXT}partial", item_id="a", settled="", unsettled="Good mourning")
    assert list(dialogue.drafts) == [Draft(1.5, "", "Good mourning")]
    dialogue.tell(f"{TEXT}delta", item_id="a", delta="Good")
    dialogue.tell(f"{TEXT}partial", item_id="a", settled="Good", unsettled=" morning")
    assert list(dialogue.drafts) == [Draft(1.5, "Good", " morning")]

    (utterance,) = dialogue.complete("a", "Good morning.", start=1.6, end=2.5, language="en")

    assert utterance == Utterance(1.6, 2.5, "Good morning.", "en", (), (Segment(1.6, 2.5, "Good morning."),))
    assert list(dialogue.drafts) == []


def test_utterances_are_told_in_the_order_in_which_they_were_said(dialogue: Told) -> None:
    dialogue.start("a")
    dialogue.start("b", 3000)
    dialogue.start("c", 6000)

    assert dialogue.complete("c", "Three.") == []
    assert dialogue.complete("b", "Two.") == []
    assert texts(dialogue.complete("a", "One.")) == ["One.", "Two.", "Three."]


def test_words_and_segments(dialogue: Told) -> None:
    dialogue.start("a")
    dialogue.tell(f"{TEXT}segment", item_id="a", text="One.", start=0.5, end=1.0)
    dialogue.tell(f"{TEXT}segment", item_id="a", text="Two.", start=2.0, end=2.5)
    (plain,) = dialogue.complete("a", "One. Two.", start=0.5, end=2.5)
    dialogue.start("b")
    words = [{"word": "One.", "start": 0.5, "end": 1.0}, {"word": "Two.", "start": 2.0, "end": 2.5}]
    (timed,) = dialogue.complete("b", "One. Two.", start=0.5, end=2.5, words=words)

    assert isinstance(plain, Utterance)
    assert plain.segments == (Segment(0.5, 1.0, "One."), Segment(2.0, 2.5, "Two."))
    assert isinstance(timed, Utterance)
    assert timed.words == (Word(0.5, 1.0, "One."), Word(2.0, 2.5, "Two."))
    assert timed.segments == (Segment(0.5, 2.5, "One. Two.", timed.words),)


def test_a_service_without_additions_is_understood(dialogue: Told) -> None:
    dialogue.start("a", 500)
    dialogue.tell("input_audio_buffer.speech_stopped", item_id="a", audio_end_ms=1500)
    dialogue.tell("input_audio_buffer.committed", item_id="a", previous_item_id=None)
    dialogue.tell("conversation.item.added", item={"id": "a"})

    assert dialogue.complete("a", "One.") == [
        Utterance(0.5, 1.5, "One.", segments=(Segment(0.5, 1.5, "One."),)),
    ]


def test_an_utterance_without_words_is_not_told(dialogue: Told) -> None:
    dialogue.start("a")
    assert dialogue.complete("a", " ") == []


def test_a_lost_utterance(dialogue: Told) -> None:
    dialogue.start("a", 2000)
    error = {"code": "engine_error", "message": "It broke."}
    assert dialogue.tell(f"{TEXT}failed", item_id="a", error=error) == [Lost(2.0, "It broke.")]


def test_what_could_steer_a_terminal_is_left_out(dialogue: Told) -> None:
    dialogue.start("a")
    assert texts(dialogue.complete("a", "One\x1b[2J\ntwo.")) == ["One [2J two."]


def test_done_when_all_is_heard_and_told(dialogue: Told) -> None:
    dialogue.start("a")
    commit, clear = (json.loads(message) for message in dialogue.closing())
    assert (commit["type"], clear["type"]) == ("input_audio_buffer.commit", "input_audio_buffer.clear")

    dialogue.tell("input_audio_buffer.committed", item_id="a", previous_item_id=None)
    assert not dialogue.done
    dialogue.tell("input_audio_buffer.cleared")
    assert not dialogue.done
    dialogue.complete("a", "One.")
    assert dialogue.done


def test_done_when_nothing_was_left_to_commit(dialogue: Told) -> None:
    commit = json.loads(dialogue.closing()[0])
    error = {
        "code": "input_audio_buffer_commit_empty",
        "message": "There is no speech.",
        "event_id": commit["event_id"],
    }

    assert dialogue.tell("error", error=error) == []
    assert dialogue.done


def test_an_error_about_something_else_is_one(dialogue: Told) -> None:
    with pytest.raises(LiveFailed, match=r"^Nothing was sent for 60 s\.$"):
        dialogue.tell("error", error={"code": "idle_timeout", "message": "Nothing was sent for 60 s."})


def test_events_of_other_versions_are_passed_over(dialogue: Told) -> None:
    assert dialogue.tell("rate_limits.updated", limits=[]) == []
    assert dialogue.tell(f"{TEXT}delta", item_id="unknown", delta="x") == []
    dialogue.start("a")
    assert dialogue.tell(f"{TEXT}mood", item_id="a") == []
