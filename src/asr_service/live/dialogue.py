"""What client and service say to each other in a live session, from the client's side.

Owns the events of /v1/realtime: what is sent, what an answer means, in which order utterances are told, and when all
has been said. Pure: knows no socket, no clock and no screen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asr_service.domain import Segment, Word
from asr_service.live.failures import LiveFailed, printable, refused_by

_TEXT = "conversation.item.input_audio_transcription."
_INCLUDE = "item.input_audio_transcription."
_SETTINGS, _WORDS, _LAST = "settings", "words", "last"
"""Ids of the client's own events, by which errors name them."""


class Words(Enum):
    """Whether times of words are wanted. WELCOME: where the service has them."""

    NO = "no"
    WELCOME = "welcome"
    NEEDED = "needed"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the service is asked for. `drafts`: text that is not certain yet, too."""

    rate_hz: int
    language: str = ""
    prompt: str = ""
    drafts: bool = False
    words: Words = Words.NO


@dataclass(frozen=True, slots=True)
class Utterance:
    """What somebody has said, in seconds from the start of the audio. `segments`: the same in stretches."""

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """An utterance that got no text, and a sentence on why."""

    start_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Draft:
    """An utterance that has no final text yet; `unsettled` may still change."""

    start_s: float
    settled: str
    unsettled: str


@dataclass(slots=True)
class _Item:
    start_s: float = 0.0
    end_s: float = 0.0
    settled: str = ""
    unsettled: str = ""
    segments: list[Segment] = field(default_factory=list)
    outcome: Utterance | Lost | None = None


class Dialogue:
    """One session. `opening` is sent first, `closing` after the last audio; what comes in goes to `take`."""

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes
        self._unanswered = [_SETTINGS]
        self._items: dict[str, _Item] = {}
        self._all_heard = False

    @property
    def ready(self) -> bool:
        """Whether audio may be sent: the service has taken the settings."""
        return not self._unanswered

    @property
    def done(self) -> bool:
        """Whether all audio was heard and every utterance told."""
        return self._all_heard and not self._items

    @property
    def drafts(self) -> tuple[Draft, ...]:
        """What has no final text yet, in the order in which it was said."""
        return tuple(
            Draft(item.start_s, item.settled, item.unsettled)
            for item in self._items.values()
            if item.outcome is None and (item.settled or item.unsettled)
        )

    def opening(self) -> list[str]:
        """The messages that begin a session."""
        wished = self._wishes
        transcription = {"language": wished.language or None, "prompt": wished.prompt or None}
        audio = {"format": {"type": "audio/pcm", "rate": wished.rate_hz}, "transcription": transcription}
        include = [f"{_INCLUDE}partial"] if wished.drafts else []
        with_words = [*include, f"{_INCLUDE}words"]
        if wished.words is Words.NEEDED:
            include = with_words
        messages = [_update(_SETTINGS, {"type": "transcription", "audio": {"input": audio}, "include": include})]
        if wished.words is Words.WELCOME:
            # A change of its own, since one that is refused takes nothing else with it.
            messages.append(_update(_WORDS, {"include": with_words}))
            self._unanswered.append(_WORDS)
        return messages

    def closing(self) -> list[str]:
        """The messages that end a session: the last utterance is over, and let us know when you have come so far.

        Whether a `committed` answers this commit cannot be seen: it may tell of an utterance that has ended by itself,
        with more to come in audio that is still under way. The answer to `clear` leaves no doubt, and nothing is lost
        by it, since all that was said is committed by then.
        """
        return [
            json.dumps({"type": "input_audio_buffer.commit", "event_id": _LAST}),
            json.dumps({"type": "input_audio_buffer.clear"}),
        ]

    def take(self, message: str | bytes) -> list[Utterance | Lost]:
        """What is now known for good, in the order in which it was said. Raises LiveFailed when the session fails."""
        try:
            event = json.loads(message)
            self._take(event["type"], event)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise LiveFailed(
                "The service has said something that is no event of /v1/realtime: --url should be the address of "
                "asr-service."
            ) from error
        return self._in_order()

    def _take(self, kind: str, event: Mapping[str, Any]) -> None:
        match kind:
            case "session.updated":
                del self._unanswered[:1]
            case "input_audio_buffer.speech_started":
                self._items.setdefault(event["item_id"], _Item()).start_s = event["audio_start_ms"] / 1000
            case "input_audio_buffer.speech_stopped":
                if (item := self._items.get(event["item_id"])) is not None:
                    item.end_s = event["audio_end_ms"] / 1000
            case "input_audio_buffer.committed":
                self._items.setdefault(event["item_id"], _Item())
            case "input_audio_buffer.cleared":
                self._all_heard = True
            case "error":
                self._wrong(event["error"])
            case _ if kind.startswith(_TEXT) and (item := self._items.get(event["item_id"])) is not None:
                _grow(item, kind.removeprefix(_TEXT), event)

    def _wrong(self, error: Mapping[str, Any]) -> None:
        code, about = str(error["code"]), error.get("event_id")
        if about == _LAST and code == "input_audio_buffer_commit_empty":
            # Nobody was speaking any more, as after most recordings.
            self._all_heard = True
        elif about == _WORDS:
            self._unanswered.remove(_WORDS)
        else:
            raise refused_by(code, str(error["message"]))

    def _in_order(self) -> list[Utterance | Lost]:
        told: list[Utterance | Lost] = []
        for name, item in list(self._items.items()):
            if item.outcome is None:
                break
            told.append(item.outcome)
            del self._items[name]
        return [outcome for outcome in told if isinstance(outcome, Lost) or outcome.text]


def _grow(item: _Item, kind: str, event: Mapping[str, Any]) -> None:
    """Take what is told of the text of an item."""
    match kind:
        case "delta":
            item.settled += event["delta"]
            # It was the beginning of what was not certain, and comes just before what is not certain now.
            item.unsettled = ""
        case "partial":
            item.settled, item.unsettled = event["settled"], event["unsettled"]
        case "segment":
            item.segments.append(Segment(float(event["start"]), float(event["end"]), event["text"]))
        case "completed":
            item.outcome = _utterance(item, event)
        case "failed":
            item.outcome = Lost(item.start_s, printable(str(event["error"]["message"])))


def _utterance(item: _Item, event: Mapping[str, Any]) -> Utterance:
    start_s, end_s = float(event.get("start", item.start_s)), float(event.get("end", item.end_s))
    text = printable(event["transcript"]).strip()
    words = tuple(Word(float(w["start"]), float(w["end"]), w["word"]) for w in event.get("words") or ())
    segments: Sequence[Segment] = item.segments
    if words or not segments:
        segments = [Segment(start_s, max(start_s, end_s), text, words)]
    return Utterance(start_s, end_s, text, event.get("language"), words, tuple(segments))


def _update(event_id: str, session: Mapping[str, Any]) -> str:
    return json.dumps({"type": "session.update", "event_id": event_id, "session": session}, ensure_ascii=False)
