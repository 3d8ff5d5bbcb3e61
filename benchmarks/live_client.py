"""One speaker of the load: a recording that is sent at its own pace over /v1/realtime, and what comes back when.

Owns the clock of one session. Knows nothing of tables.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field

import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.clips import Clip, read_wav

_RATE_HZ = 16_000
_PIECE_S = 0.1
_LAST_S = 120.0
_PREFIX = "conversation.item.input_audio_transcription."
_SETTINGS = {
    "type": "session.update",
    "session": {
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": _RATE_HZ},
                "transcription": {"language": "en"},
            }
        },
        "include": ["item.input_audio_transcription.partial"],
    },
}


@dataclass(frozen=True, slots=True)
class Final:
    """The text of one utterance, which lasted from `start_s` to `end_s` of the audio, and when it came."""

    text: str
    start_s: float
    end_s: float
    came_s: float

    @property
    def after_speech_s(self) -> float:
        return self.came_s - self.end_s


@dataclass(slots=True)
class Heard:
    """All that one session has seen. Times count from the first sample, which was sent at 0."""

    finals: list[Final] = field(default_factory=list)
    partials: list[tuple[float, float]] = field(default_factory=list)
    """When each partial came, and how far into the audio it reached."""
    late_s: list[float] = field(default_factory=list)
    """How late pieces of audio were sent: a service that is read too slowly makes its clients wait."""
    errors: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(final.text for final in sorted(self.finals, key=lambda final: final.start_s))

    def ages_s(self, step_s: float = 0.1) -> list[float]:
        """At every moment of an utterance from its first partial to its end: by how much what is shown is behind."""
        ages = []
        for final in self.finals:
            own = [(came, reach) for came, reach in self.partials if final.start_s < came <= final.end_s]
            until = [came for came, _ in own[1:]] + [final.end_s]
            for (came_s, reach_s), until_s in zip(own, until, strict=False):
                ages += [moment - reach_s for moment in np.arange(came_s, until_s, step_s)]
        return ages


def pcm_of(clip: Clip, seconds: float | None = None) -> bytes:
    """A recording, or its beginning, as 16 kHz PCM, and so much silence after it that its last utterance ends."""
    rate, data = read_wav(clip.path)
    samples = soxr.resample(np.frombuffer(data, "<i2"), rate, _RATE_HZ)
    kept = None if seconds is None else int(seconds * _RATE_HZ)
    pcm: bytes = samples[:kept].astype("<i2").tobytes()
    return pcm + bytes(2 * _RATE_HZ)


async def speak(url: str, pcm: bytes, delay_s: float = 0.0) -> Heard:
    """Send `pcm` at its own pace to the service at `url`, after a while, until its last utterance has its text."""
    await asyncio.sleep(delay_s)  # noqa: TID251 - speakers do not begin all at once
    heard = Heard()
    async with connect(url, proxy=None, max_size=None) as socket:
        await socket.recv()
        await socket.send(json.dumps(_SETTINGS))
        await socket.recv()
        began_s = time.perf_counter()
        reading = asyncio.create_task(_read(socket, heard, began_s))
        piece = round(_PIECE_S * _RATE_HZ) * 2
        for number, start in enumerate(range(0, len(pcm), piece), 1):
            # A piece exists when its last sample has been spoken.
            due_s = began_s + number * _PIECE_S
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))  # noqa: TID251 - the pace of speech
            await socket.send(pcm[start : start + piece])
            heard.late_s.append(time.perf_counter() - due_s)
        await socket.send('{"type": "input_audio_buffer.commit", "event_id": "last"}')
        async with asyncio.timeout(_LAST_S):
            await reading
    return heard


async def _read(socket: ClientConnection, heard: Heard, began_s: float) -> None:
    """Take notes until nothing is open any more and the last commit is answered."""
    spoken: set[str] = set()
    committed = False
    while not committed or spoken:
        event = json.loads(await socket.recv())
        now_s = time.perf_counter() - began_s
        match event["type"].removeprefix(_PREFIX):
            case "input_audio_buffer.speech_started":
                spoken.add(event["item_id"])
            case "partial":
                heard.partials.append((now_s, event["audio_end_ms"] / 1000))
            case "completed":
                spoken.discard(event["item_id"])
                if event["transcript"]:
                    heard.finals.append(Final(event["transcript"], event["start"], event["end"], now_s))
            case "failed":
                spoken.discard(event["item_id"])
                heard.errors.append(event["error"]["message"])
            case "error" if event["error"]["event_id"] == "last":
                committed = True
            case "error":
                heard.errors.append(event["error"]["message"])
