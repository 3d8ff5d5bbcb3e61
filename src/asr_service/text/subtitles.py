"""Subtitles: transcripts as cues that people can read while they watch, written as SubRip or WebVTT.

Owns what goes into a cue, how long it stays, and both file formats. Knows nothing of models, audio or HTTP.

The rules are those of Netflix's Timed Text Style Guides, which broadcasters' rules resemble: at most two lines of 42
narrow or 16 wide characters, at least 5/6 s and at most 7 s on screen, two frames between cues. A cue ends with a
sentence if it can, else at a comma, else in a pause, else between words.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from asr_service.domain import Segment
from asr_service.text.breaks import LINE_UNITS, WIDE_UNITS, Piece, Stop, character_units, pieces

MAX_CUE_S = 7.0
MIN_CUE_S = 5 / 6
GAP_MS = 83
"""Two frames of 24 a second: without a gap the eye does not notice that the text has changed."""
CHAIN_MS = 500
"""A longer gap than GAP_MS that is shorter than this one is closed: it would be seen as a flicker."""
NARROW_PER_S, WIDE_PER_S = 17, 9
"""Reading speed in characters: at most 17 to 20 a second in Latin text, 9 in Chinese."""
PAUSE_S = 0.3
"""Silence between words from which on a cue may well end there."""

# What speaks against a way to cut a segment into cues. Only their ratios matter; they say, for example, that one more
# cue is better than one that goes on after a sentence's end, and that two cuts at commas are better than one between
# any two words.
_CUE = 1.0
_CUT = {Stop.SENTENCE: 0.0, Stop.CLAUSE: 1.0, Stop.PHRASE: 3.0, Stop.WORD: 4.0}
_CUT_IN_PAUSE = 1.5
_SENTENCE_INSIDE = 1.5
_PAUSE_INSIDE_PER_S = 2.0
_MAX_PAUSE_INSIDE = 6.0
_TOO_SHORT = 4.0
_TOO_FAST = 2.0
_LINE_CUT = {Stop.SENTENCE: 0, Stop.CLAUSE: 0, Stop.PHRASE: 6 * 8, Stop.WORD: 12 * 8}
"""In units of length: how much more uneven two lines may be for the first to end at a comma."""


@dataclass(frozen=True, slots=True)
class Cue:
    """What is on screen from `start_s` to `end_s`, seconds from the start of the recording: one or two lines."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def cues(segments: Sequence[Segment]) -> list[Cue]:
    """The text of `segments` as cues: nothing is lost or moved, and no two of them overlap.

    Word times are used where a segment has them and they spell its text; elsewhere its time is spread over its
    characters. A word that is longer than a line gets a line of its own.
    """
    spoken = [_Spoken.of(segment) for segment in segments]
    found: list[tuple[float, float, float, tuple[str, ...]]] = []
    until_s = math.inf
    for text in reversed([text for text in spoken if text.pieces]):
        found += reversed([text.cue(first, last) for first, last in _cut(text, until_s)])
        until_s = text.starts_s[0]
    return _on_screen(found[::-1])


def srt(cues: Iterable[Cue], first: int = 1) -> str:
    """The cues as a SubRip file, or as the part of one that begins with number `first`.

    It knows no escapes: what looks like a tag stays as it was said.
    """
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_srt_text(cue)}\n\n"
        for number, cue in enumerate(cues, start=first)
    )


def vtt(cues: Iterable[Cue], header: str = "WEBVTT\n\n") -> str:
    """The cues as a WebVTT file (W3C, WebVTT: The Web Video Text Tracks Format); without `header`, its next part."""
    return header + "".join(
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_vtt_text(cue)}\n\n" for cue in cues
    )


WRITERS: Mapping[str, Callable[[Iterable[Cue]], str]] = {"srt": srt, "vtt": vtt}
"""The formats by their usual names."""


def _srt_text(cue: Cue) -> str:
    return "\n".join(cue.lines).replace("-->", "-- >")


def _vtt_text(cue: Cue) -> str:
    return "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{ms:03}"


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A segment's pieces, when each is spoken, and sums over them: sums[n] is over the first n pieces."""

    pieces: Sequence[Piece]
    starts_s: Sequence[float]
    ends_s: Sequence[float]
    unit_sums: Sequence[int]
    reading_sums: Sequence[float]

    @classmethod
    def of(cls, segment: Segment) -> "_Spoken":
        parts = pieces(segment.text)
        times = iter(_character_times(segment))
        starts_s: list[float] = []
        ends_s: list[float] = []
        for part in parts:
            spans = [next(times) for _ in part.text]
            # Times that go back are held: nothing is shown before what precedes it.
            starts_s.append(max(spans[0][0], starts_s[-1] if starts_s else 0.0))
            ends_s.append(max(spans[-1][1], starts_s[-1]))
        space = character_units(" ")
        units = [part.units + space * part.spaced for part in parts]
        reading = [sum(map(_reading_s, part.text)) + _reading_s(" ") * part.spaced for part in parts]
        return cls(parts, starts_s, ends_s, list(accumulate(units, initial=0)), list(accumulate(reading, initial=0.0)))

    def units(self, first: int, last: int) -> int:
        """The length of a line of pieces `first` up to and without `last`."""
        space = self.unit_sums[first + 1] - self.unit_sums[first] - self.pieces[first].units
        return self.unit_sums[last] - self.unit_sums[first] - space

    def line(self, first: int, last: int) -> str:
        text = "".join(" " * piece.spaced + piece.text for piece in self.pieces[first:last])
        return text.lstrip(" ")

    def line_ends(self) -> list[int]:
        """For each piece, where a line ends that begins with it and takes as much as it can: one piece at least."""
        ends: list[int] = []
        end = 0
        for first in range(len(self.pieces)):
            end = max(end, first + 1)
            while end < len(self.pieces) and self.units(first, end + 1) <= LINE_UNITS:
                end += 1
            ends.append(end)
        return ends

    def cue(self, first: int, last: int) -> tuple[float, float, float, tuple[str, ...]]:
        """When the pieces are spoken, from and to, how long it takes to read them, and their lines."""
        reading_s = self.reading_sums[last] - self.reading_sums[first]
        return self.starts_s[first], self.ends_s[last - 1], reading_s, self._lines(first, last)

    def _lines(self, first: int, last: int) -> tuple[str, ...]:
        if last == first + 1 or self.units(first, last) <= LINE_UNITS:
            return (self.line(first, last),)

        def unevenness(middle: int) -> tuple[int, int]:
            lengths = (self.units(first, middle), self.units(middle, last))
            counts = (middle - first, last - middle)
            overflow = sum(max(0, length - LINE_UNITS) for length, n in zip(lengths, counts, strict=True) if n > 1)
            return overflow, abs(lengths[0] - lengths[1]) + _LINE_CUT[self.pieces[middle - 1].stop]

        middle = min(range(first + 1, last), key=unevenness)
        return self.line(first, middle), self.line(middle, last)


def _character_times(segment: Segment) -> Iterator[tuple[float, float]]:
    """When each character of a segment, white space left out, is spoken: from and to, in seconds."""
    text = "".join(segment.text.split())
    words = [("".join(word.text.split()), word.start_s, word.end_s) for word in segment.words]
    if "".join(word for word, _, _ in words) != text:
        words = [(text, segment.start_s, segment.end_s)]
    for word, start_s, end_s in words:
        # A wide character is a syllable or more; a narrow one is half of that.
        sums = list(accumulate((2 if character_units(c) == WIDE_UNITS else 1 for c in word), initial=0))
        scale = max(0.0, end_s - start_s) / max(1, sums[-1])
        for before, after in pairwise(sums):
            yield start_s + before * scale, start_s + after * scale


def _reading_s(character: str) -> float:
    units = character_units(character)
    return 0.0 if units == 0 else 1 / (WIDE_PER_S if units == WIDE_UNITS else NARROW_PER_S)


def _cut(text: _Spoken, until_s: float) -> list[tuple[int, int]]:
    """The best way to cut a segment into cues, as (first, last) pieces, last left out; the next starts at `until_s`.

    The least sum of costs over all ways, by dynamic programming over the pieces.
    """
    count = len(text.pieces)
    line_ends = [*text.line_ends(), count]
    cut, inside = _boundaries(text)
    best = [0.0] + [math.inf] * count
    previous = [0] * (count + 1)
    for last in range(1, count + 1):
        next_s = text.starts_s[last] if last < count else until_s
        for first in range(last - 1, -1, -1):
            if first < last - 1 and (
                last > line_ends[line_ends[first]] or text.ends_s[last - 1] - text.starts_s[first] > MAX_CUE_S
            ):
                break
            cost = best[first] + _CUE + cut[last] + inside[last - 1] - inside[first] + _cost(text, first, last, next_s)
            if cost < best[last]:
                best[last], previous[last] = cost, first
    found: list[tuple[int, int]] = []
    last = count
    while last:
        found.append((previous[last], last))
        last = previous[last]
    return found[::-1]


def _boundaries(text: _Spoken) -> tuple[list[float], list[float]]:
    """What it costs to end a cue after the first n pieces; and, summed up to there, not to end one."""
    cut, inside = [0.0], [0.0]
    for n, piece in enumerate(text.pieces[:-1], start=1):
        pause_s = text.starts_s[n] - text.ends_s[n - 1]
        cut.append(min(_CUT[piece.stop], _CUT_IN_PAUSE if pause_s >= PAUSE_S else math.inf))
        stay = _SENTENCE_INSIDE if piece.stop is Stop.SENTENCE else 0.0
        if pause_s >= PAUSE_S:
            stay += min(pause_s * _PAUSE_INSIDE_PER_S, _MAX_PAUSE_INSIDE)
        inside.append(inside[-1] + stay)
    return [*cut, 0.0], inside


def _cost(text: _Spoken, first: int, last: int, next_s: float) -> float:
    """What speaks against a cue of these pieces by itself: too little time for it, and more text than others have."""
    room_s = max(0.0, min(next_s - text.starts_s[first] - GAP_MS / 1000, MAX_CUE_S))
    reading_s = text.reading_sums[last] - text.reading_sums[first]
    cost = (text.units(first, last) / (2 * LINE_UNITS)) ** 2
    if room_s < MIN_CUE_S:
        cost += _TOO_SHORT * (1 - room_s / MIN_CUE_S)
    if room_s < reading_s:
        cost += _TOO_FAST * (1 - room_s / reading_s)
    return cost


def _on_screen(spoken: Sequence[tuple[float, float, float, tuple[str, ...]]]) -> list[Cue]:
    """Cues in their order: shown when they are spoken and, where there is room, for as long as reading them takes.

    In whole milliseconds, as files have them. Where speech leaves no time at all, each still gets a millisecond.
    """
    starts: list[int] = []
    for start_s, *_ in spoken:
        starts.append(max(round(start_s * 1000), starts[-1] + 1 if starts else 0))
    shown: list[Cue] = []
    for number, (start, (_, end_s, reading_s, lines)) in enumerate(zip(starts, spoken, strict=True)):
        end = max(round(end_s * 1000), start + round(1000 * max(MIN_CUE_S, reading_s)))
        end = min(end, start + round(1000 * MAX_CUE_S))
        if number + 1 < len(starts):
            room = starts[number + 1] - start
            latest = start + room - min(GAP_MS, room // 2)
            chained = latest - end < CHAIN_MS - GAP_MS and latest - start <= 1000 * MAX_CUE_S
            end = latest if chained else min(end, latest)
        shown.append(Cue(start / 1000, end / 1000, lines))
    return shown
