"""Who may come in: a bound on the requests and on the audio that wait in front of the engine.

Owns both bounds, when a refused caller should come back, and how the service stops taking requests in. Must not know
HTTP, the engine, or what is done with a recording.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asr_service.errors import Overloaded, ShuttingDown

MIN_RETRY_S = 1.0
MAX_RETRY_S = 300.0
SESSION_RETRY_S = 10.0
"""When a live session ends is not known."""
SHUTTING_DOWN_RETRY_S = 5.0
"""Long enough for a load balancer to send the next try elsewhere, or for a restart to have begun."""

_MEMORY_S = 30.0
"""Busy time after which a measurement of the speed has lost all but 1/e of its weight."""
_FIRST_SPEED = 10.0
_FIRST_LENGTH_S = 10.0
_LENGTH_WEIGHT = 0.1


class Admission:
    """Counts the requests that were taken in and the audio that they still have to get transcribed.

    How long a recording is, is known only when it has been decoded: until then it counts as 0 s for the bound on audio
    (and as the recent mean when the waiting time is estimated), and it may be refused as late as that.

    All from one event loop. Take a caller in with `with admission.enter() as ticket`.
    """

    def __init__(
        self,
        *,
        max_requests: int,
        max_audio_s: float,
        max_sessions: int = 0,
        on_refused: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `max_requests` at once, and at most `max_audio_s` seconds of audio that is not yet transcribed; one
        recording that is longer than that still gets in while nobody else has any. Live sessions are counted by
        themselves: at most `max_sessions`. `on_refused` gets `requests`, `audio`, `sessions` or `shutting_down`.
        """
        self._max_requests = max_requests
        self._max_audio_s = max_audio_s
        self._on_refused = on_refused
        self._clock = clock
        self._tickets: set[Ticket] = set()
        self._max_sessions = max_sessions
        self._sessions = 0
        self._closing = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._speed = _Speed()
        self._length_s = _FIRST_LENGTH_S
        self._seen = clock()

    @property
    def requests(self) -> int:
        """Requests that are in work or waiting."""
        return len(self._tickets)

    @property
    def audio_s(self) -> float:
        """Seconds of audio that were taken in and are not yet transcribed."""
        # Added up each time: a running total of floating-point numbers would not come back to zero.
        return sum(ticket.left_s for ticket in self._tickets)

    @property
    def closed(self) -> bool:
        """Whether nobody is taken in any more."""
        return self._closing.is_set()

    @property
    def retry_after_s(self) -> float:
        """Time until all that was taken in should be done at the recent speed, from 1 to 300 s."""
        self._note_time()
        audio_s = self.audio_s + self._length_s * sum(not ticket.is_decoded for ticket in self._tickets)
        speed = self._speed.value
        if audio_s >= MAX_RETRY_S * speed:
            return MAX_RETRY_S
        return max(MIN_RETRY_S, audio_s / speed)

    @contextmanager
    def enter(self) -> Iterator["Ticket"]:
        """Take a request in for as long as the block lasts; however it ends, all that it held is free again.

        Raises Overloaded over one of the bounds, and ShuttingDown after `close`; both at once.
        """
        self._refuse_if_closed()
        if len(self._tickets) >= self._max_requests:
            raise self._refusal("requests")
        if self.audio_s >= self._max_audio_s:
            raise self._refusal("audio")
        ticket = Ticket(self)
        self._tickets.add(ticket)
        self._empty.clear()
        try:
            yield ticket
            # What is left of a request that ended well was silence, and is done too.
            ticket.transcribed(ticket.left_s)
        finally:
            self._note_time()
            self._tickets.remove(ticket)
            self._note_whether_empty()

    @contextmanager
    def enter_session(self) -> Iterator[None]:
        """Take a live session in for as long as the block lasts. Raises Overloaded and ShuttingDown."""
        self._refuse_if_closed()
        if self._sessions >= self._max_sessions:
            self._on_refused("sessions")
            raise Overloaded(
                f"The service is full: {self._sessions} live sessions are open. Try again later.",
                retry_after_s=SESSION_RETRY_S,
            )
        self._sessions += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._sessions -= 1
            self._note_whether_empty()

    @property
    def sessions(self) -> int:
        """Live sessions that are in."""
        return self._sessions

    def close(self) -> None:
        """Take nobody in any more. Those who are in stay."""
        self._closing.set()

    async def until_closed(self) -> None:
        """Return when nobody is taken in any more: a session would not end by itself."""
        await self._closing.wait()

    async def emptied(self) -> None:
        """Return when no request and no session is in."""
        await self._empty.wait()

    def _refuse_if_closed(self) -> None:
        if self.closed:
            self._on_refused("shutting_down")
            raise shutting_down()

    def _note_whether_empty(self) -> None:
        if not self._tickets and not self._sessions:
            self._empty.set()

    def _decoded(self, ticket: "Ticket", seconds: float) -> None:
        self._note_time()
        self._length_s += _LENGTH_WEIGHT * (seconds - self._length_s)
        others_s = self.audio_s - ticket.left_s
        if others_s > 0 and others_s + ticket.left_with(seconds) > self._max_audio_s:
            raise self._refusal("audio")

    def _transcribed(self, seconds: float) -> None:
        self._note_time()
        self._speed.done(seconds)

    def _note_time(self) -> None:
        """Time counts as work while there is audio to transcribe. Called before each change of that."""
        now = self._clock()
        if self.audio_s > 0:
            self._speed.worked(now - self._seen)
        self._seen = now

    def _refusal(self, reason: str) -> Overloaded:
        self._on_refused(reason)
        retry_after_s = self.retry_after_s
        what = (
            f"{self.requests} requests are in work or waiting"
            if reason == "requests"
            else f"{self.audio_s:.0f} s of audio are waiting"
        )
        return Overloaded(
            f"The service is full: {what}. Try again in {math.ceil(retry_after_s)} s.", retry_after_s=retry_after_s
        )


def shutting_down() -> ShuttingDown:
    """What those are told whose requests are refused or given up at the end of the service."""
    return ShuttingDown(
        "The service is shutting down: send the request again, to another instance if there is one.",
        retry_after_s=SHUTTING_DOWN_RETRY_S,
    )


class Ticket:
    """One request that was taken in. It may bring several recordings."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._decoded_s = 0.0
        self._transcribed_s = 0.0
        self.is_decoded = False

    @property
    def left_s(self) -> float:
        """Seconds of this request's audio that are known to be still untranscribed."""
        return self.left_with(0.0)

    def left_with(self, seconds: float) -> float:
        """What would be left if a recording of `seconds` were added."""
        return max(0.0, self._decoded_s + seconds - self._transcribed_s)

    def decoded(self, seconds: float) -> None:
        """A recording of this request has been decoded, and lasts `seconds`. Raises Overloaded if it is too much."""
        self._admission._decoded(self, seconds)
        self._decoded_s += seconds
        self.is_decoded = True

    def transcribed(self, seconds: float) -> None:
        """So many `seconds` more of this request's audio are done. May come before `decoded`."""
        before_s = self.left_s
        self._admission._transcribed(min(seconds, before_s))
        self._transcribed_s += seconds


class _Speed:
    """Seconds of audio per second of work, recent ones weighing most."""

    def __init__(self) -> None:
        # As if one second had been measured: a guess that the first real seconds outweigh.
        self._done_s = _FIRST_SPEED
        self._worked_s = 1.0

    @property
    def value(self) -> float:
        return self._done_s / self._worked_s

    def worked(self, seconds: float) -> None:
        kept = math.exp(-seconds / _MEMORY_S)
        self._done_s *= kept
        self._worked_s = self._worked_s * kept + seconds

    def done(self, audio_s: float) -> None:
        self._done_s += audio_s
