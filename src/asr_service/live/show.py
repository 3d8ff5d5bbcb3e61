"""How the text of a live session is shown: on a terminal, as lines, as JSON lines, as subtitles.

Owns all that is printed. Knows nothing of the connection.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import IO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asr_service.live.dialogue import Draft, Lost, Utterance
from asr_service.live.failures import printable
from asr_service.text import subtitles

_SILENCE_S = 0.5
"""An utterance ends after so much silence, so that nothing else is said within it."""


class Format(StrEnum):
    """How text is printed."""

    TXT = "txt"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


class Show:
    """Finished utterances as lines `[m:ss] text`, each printed at once; what is lost, on `errors`."""

    def __init__(self, output: IO[str], errors: IO[str]) -> None:
        self._output = output
        self._errors = errors
        self.lost = 0
        """How many utterances got no text."""

    def outcomes(self, outcomes: Sequence[Utterance | Lost]) -> None:
        """Show what is known for good."""
        for outcome in outcomes:
            if isinstance(outcome, Lost):
                self.lost += 1
                self.note(f"{_clock(outcome.start_s)} No text: {outcome.reason}")
            else:
                self.finished(outcome)

    def finished(self, utterance: Utterance) -> None:
        """Show an utterance with its final text."""
        self._print(f"{_clock(utterance.start_s)} {utterance.text}\n")

    def drafts(self, drafts: Sequence[Draft]) -> None:
        """Show what is not final yet, where that can be taken back."""

    def note(self, sentence: str) -> None:
        """Say something beside the text."""
        self._errors.write(f"{sentence}\n")
        self._errors.flush()

    def close(self) -> None:
        """Nothing more will be shown."""

    def _print(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


class JsonShow(Show):
    """A line of JSON for every utterance."""

    def finished(self, utterance: Utterance) -> None:
        words = [{"word": word.text, "start": word.start_s, "end": word.end_s} for word in utterance.words]
        line = {"start": utterance.start_s, "end": utterance.end_s, "text": utterance.text}
        line |= {"language": utterance.language, "words": words}
        self._print(json.dumps(line, ensure_ascii=False) + "\n")


class SubtitleShow(Show):
    """Cues of utterances as they finish, as one file."""

    def __init__(self, output: IO[str], errors: IO[str], format: Format) -> None:
        super().__init__(output, errors)
        self._format = format
        self._cues = 0
        self._until_s = 0.0
        if format is Format.VTT:
            self._print(subtitles.vtt(()))

    def finished(self, utterance: Utterance) -> None:
        cues = subtitles.cues(utterance.segments)
        # The last stays for as long as reading it takes, but not into what is said next, which is not known yet.
        latest_s = utterance.end_s + _SILENCE_S
        cues = [replace(cue, end_s=max(min(cue.end_s, latest_s), cue.start_s + 0.001)) for cue in cues]
        cues = [replace(cue, start_s=max(cue.start_s, self._until_s)) for cue in cues if cue.end_s > self._until_s]
        if cues:
            self._until_s = cues[-1].end_s
        written = subtitles.srt(cues, first=self._cues + 1)
        if self._format is Format.VTT:
            written = subtitles.vtt(cues, header="")
        self._cues += len(cues)
        self._print(written)


class TerminalShow(Show):
    """Finished utterances as lines, and below them what is being said, drawn again as it grows."""

    def __init__(self, console: Console, errors: IO[str]) -> None:
        super().__init__(console.file, errors)
        self._console = console
        self._shown: tuple[Draft, ...] = ()
        self._live = Live(
            Group(), console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def finished(self, utterance: Utterance) -> None:
        self._console.print(_line(utterance.start_s, utterance.text, ""), soft_wrap=True)

    def drafts(self, drafts: Sequence[Draft]) -> None:
        if self._shown == tuple(drafts):
            return
        self._shown = tuple(drafts)
        lines = [_line(draft.start_s, printable(draft.settled), printable(draft.unsettled)) for draft in drafts]
        self._live.update(Group(*lines), refresh=True)

    def note(self, sentence: str) -> None:
        self._live.stop()
        super().note(sentence)
        self._live.start(refresh=True)

    def close(self) -> None:
        self.drafts(())
        self._live.stop()


def show_for(format: Format) -> Show:
    """What shows text on standard output."""
    if format is Format.JSON:
        return JsonShow(sys.stdout, sys.stderr)
    if format in (Format.SRT, Format.VTT):
        return SubtitleShow(sys.stdout, sys.stderr, format)
    if sys.stdout.isatty():
        return TerminalShow(Console(highlight=False), sys.stderr)
    return Show(sys.stdout, sys.stderr)


def _line(start_s: float, settled: str, unsettled: str) -> Text:
    return Text.assemble((_clock(start_s), "cyan"), " ", settled.lstrip(), (unsettled, "dim"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"[{minutes}:{rest:02}]"
