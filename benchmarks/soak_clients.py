"""The clients of a soak: what each kind of them sends, and how each of its requests ended.

Owns requests and their outcomes. Knows nothing of the service's processes, and judges nothing.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from benchmarks.clips import Clip

NATIVE, OPENAI = "/transcribe", "/v1/audio/transcriptions"
_LINES = {"Accept": "application/x-ndjson"}
_CHUNKS = 16
_LONGEST_WAIT_S = 3.0
"""A client that leaves while it waits does so within this time."""

Ending = Literal["answered", "left", "hung", "lost"]


class Left(Exception):
    """The client has gone, as it meant to."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `code` is that of the error, or "ok"; `detail` its sentence."""

    route: str
    status: int
    code: str
    text: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request and its end. `about` names what was sent; `detail` says what went wrong on the way."""

    kind: str
    about: str
    at_s: float
    took_s: float
    ending: Ending
    reply: Reply | None = None
    detail: str = ""


Send = Callable[[httpx.AsyncClient], Awaitable[Reply]]


@dataclass(slots=True)
class Caller:
    """One client that sends one request after another until `until_s` on the monotonic clock, with pauses between.

    started_s: when the load began on that clock. limit_s: an answer that takes longer counts as none. longest_pause_s:
    pauses are drawn evenly from 0 to this.
    """

    kind: str
    client: httpx.AsyncClient
    requests: Iterator[tuple[str, Send]]
    started_s: float
    limit_s: float
    longest_pause_s: float
    rng: random.Random
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self, until_s: float) -> None:
        """Return after the end of the last request."""
        await pause(self.rng.random() * self.longest_pause_s)
        while time.monotonic() < until_s:
            about, send = next(self.requests)
            self.outcomes.append(await self._ended(about, send))
            await pause(self.rng.random() * self.longest_pause_s)

    async def _ended(self, about: str, send: Send) -> Outcome:
        started = time.monotonic()
        reply, detail = None, ""
        ending: Ending = "answered"
        try:
            async with asyncio.timeout(self.limit_s):
                reply = await send(self.client)
        except TimeoutError:
            ending = "hung"
        except Left:
            ending = "left"
        except (httpx.HTTPError, ValueError, KeyError) as error:
            ending, detail = "lost", f"{type(error).__name__}: {error}"
        took_s = time.monotonic() - started
        return Outcome(self.kind, about, started - self.started_s, took_s, ending, reply, detail)


async def pause(seconds: float) -> None:
    """Let time pass."""
    await asyncio.sleep(seconds)  # noqa: TID251 - people pause, and measurements are taken at intervals


def whole(name: str, audio: bytes) -> Send:
    """A form that is answered with one JSON object."""

    async def send(client: httpx.AsyncClient) -> Reply:
        files = {"file": (name, audio, "application/octet-stream")}
        response = await client.post(NATIVE, files=files, data={"language": "en"})
        return _read(NATIVE, response)

    return send


def with_words(clip: Clip) -> Send:
    """A request of OpenAI's clients, with the times of words. An answer whose words are missing has no text."""
    fields = {
        "model": "whisper-1",
        "language": "en",
        "response_format": "verbose_json",
        "timestamp_granularities[]": "word",
    }

    async def send(client: httpx.AsyncClient) -> Reply:
        files = {"file": (clip.path.name, clip.wav, "audio/wav")}
        response = await client.post(OPENAI, files=files, data=fields)
        reply = _read(OPENAI, response)
        if reply.code == "ok" and not response.json()["words"]:
            return Reply(OPENAI, reply.status, "ok", detail="no words")
        return reply

    return send


def streamed(clip: Clip) -> Send:
    """A raw body that is answered line by line. A stream that does not end with its one last line counts as lost."""

    async def send(client: httpx.AsyncClient) -> Reply:
        path = f"{NATIVE}?language=en"
        async with client.stream("POST", path, content=clip.wav, headers=_LINES) as response:
            await response.aread()
        if response.status_code != 200:
            return _read(NATIVE, response)
        events = [json.loads(line) for line in response.text.splitlines()]
        ends = [event for event in events if event["type"] != "segment"]
        if len(ends) != 1 or events[-1] is not ends[0]:
            raise ValueError(f"a stream of {len(events)} lines, of which {len(ends)} are ends")
        if ends[0]["type"] == "error":
            return Reply(NATIVE, 200, ends[0]["code"], detail=ends[0]["detail"])
        return Reply(NATIVE, 200, "ok", ends[0]["text"])

    return send


def given_up(clip: Clip, rng: random.Random) -> Send:
    """A request whose client goes: in its upload, or while it waits, for a whole answer or for a stream.

    It may happen to be answered before.
    """
    leaves_after = rng.randrange(1, 2 * _CHUNKS)
    wait_s = rng.random() * _LONGEST_WAIT_S
    headers = {"Content-Length": str(len(clip.wav)), **(_LINES if rng.random() < 0.5 else {})}

    async def send(client: httpx.AsyncClient) -> Reply:
        sent = asyncio.Event()
        body = _uploading(clip.wav, leaves_after, sent, rng)
        request = asyncio.create_task(client.post(f"{NATIVE}?language=en", content=body, headers=headers))
        arriving = asyncio.create_task(sent.wait())
        try:
            await asyncio.wait({request, arriving}, return_when=asyncio.FIRST_COMPLETED)
            if sent.is_set():
                await asyncio.wait({request}, timeout=wait_s)
            if not request.done():
                raise Left
            response = request.result()
        finally:
            request.cancel()
            arriving.cancel()
            await asyncio.gather(request, arriving, return_exceptions=True)
        # Its text is not looked at: others send the same.
        return Reply(NATIVE, 200, "ok") if response.status_code == 200 else _read(NATIVE, response)

    return send


async def _uploading(data: bytes, leaves_after: int, sent: asyncio.Event, rng: random.Random) -> AsyncIterator[bytes]:
    size = -(-len(data) // _CHUNKS)
    for number in range(_CHUNKS):
        if number == leaves_after:
            raise Left
        yield data[number * size : (number + 1) * size]
        await pause(rng.random() * 0.05)
    sent.set()


def _read(route: str, response: httpx.Response) -> Reply:
    body: dict[str, Any] = response.json()
    if response.status_code == 200:
        return Reply(route, 200, "ok", body["text"])
    # OpenAI's shape has the error in a field of its own.
    problem = body.get("error", body)
    return Reply(route, response.status_code, problem["code"], detail=problem.get("detail", problem.get("message", "")))
