"""A WS /v1/realtime that follows docs/realtime.md, and a script: it hears two utterances in whatever is said."""

import json
import secrets
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

FIRST_AT_BYTES = 16_000
"""Half a second at 16 kHz, two bytes a sample."""
_ITEM = "conversation.item.input_audio_transcription."


async def realtime(socket: WebSocket) -> None:
    """One session. With the language `de` it is broken off by the service when audio comes; with `zh` it ends with an
    error.
    """
    await socket.accept()
    session = _Session(socket)
    try:
        await session.run()
    except WebSocketDisconnect:
        session.over = True


class _Session:
    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.heard = 0
        self.over = False
        self.language: str | None = None
        self.include: list[str] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_text(json.dumps({"event_id": secrets.token_hex(4), "type": kind, **fields}))

    async def run(self) -> None:
        await self.send("session.created", session={})
        while not self.over:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("bytes"):
                await self.audio(message["bytes"])
            else:
                await self.event(json.loads(message["text"]))

    async def event(self, event: dict[str, Any]) -> None:
        if event["type"] == "session.update":
            session = event["session"]
            assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 16000}
            self.language = session["audio"]["input"].get("transcription", {}).get("language")
            self.include = session["include"]
            await self.send("session.updated", session=session)
        elif event["type"] == "input_audio_buffer.commit":
            await self.commit(event.get("event_id"))

    async def audio(self, pcm: bytes) -> None:
        before, self.heard = self.heard, self.heard + len(pcm)
        if self.language == "de":
            self.over = True
            await self.socket.close(1011)
        elif self.language == "zh":
            self.over = True
            error = {"type": "invalid_request_error", "code": "rate_limited", "message": "Come back <i>later</i>."}
            await self.send("error", error=error)
            await self.socket.close(1008)
        elif before < FIRST_AT_BYTES <= self.heard:
            await self.first()
        elif before < 2 * FIRST_AT_BYTES <= self.heard:
            await self.second()

    async def first(self) -> None:
        await self.send("input_audio_buffer.speech_started", item_id="one", audio_start_ms=100)
        await self.partial("one", "", "Good mourning", 300)
        await self.delta("one", "Good morning")
        await self.send("input_audio_buffer.speech_stopped", item_id="one", audio_end_ms=480)
        await self.send("input_audio_buffer.committed", item_id="one", previous_item_id=None)
        await self.delta("one", ", everybody.")
        await self.completed("one", "Good morning, everybody.", 0.1, 0.48)

    async def second(self) -> None:
        await self.send("input_audio_buffer.speech_started", item_id="two", audio_start_ms=600)
        await self.delta("two", "This is")
        await self.partial("two", "This is", " a tests", 900)

    async def commit(self, event_id: str | None) -> None:
        if self.heard < 2 * FIRST_AT_BYTES:
            error = {
                "type": "invalid_request_error",
                "code": "input_audio_buffer_commit_empty",
                "message": "There is no speech to commit.",
                "event_id": event_id,
            }
            await self.send("error", error=error)
            return
        await self.send("input_audio_buffer.committed", item_id="two", previous_item_id="one")
        await self.delta("two", " a test.")
        await self.completed("two", "This is a test.", 0.6, 0.95)

    async def delta(self, item: str, text: str) -> None:
        await self.send(f"{_ITEM}delta", item_id=item, content_index=0, delta=text)

    async def partial(self, item: str, settled: str, unsettled: str, until_ms: int) -> None:
        if "item.input_audio_transcription.partial" in self.include:
            texts = {"settled": settled, "unsettled": unsettled}
            await self.send(f"{_ITEM}partial", item_id=item, content_index=0, audio_end_ms=until_ms, **texts)

    async def completed(self, item: str, text: str, start_s: float, end_s: float) -> None:
        said = text.split(" ")
        step_s = (end_s - start_s) / len(said)
        words = [
            {"word": word, "start": start_s + i * step_s, "end": start_s + (i + 1) * step_s}
            for i, word in enumerate(said)
        ]
        facts: dict[str, Any] = {"start": start_s, "end": end_s, "language": "en"}
        if "item.input_audio_transcription.words" in self.include:
            facts["words"] = words
        usage = {"type": "duration", "seconds": end_s - start_s}
        await self.send(f"{_ITEM}completed", item_id=item, content_index=0, transcript=text, usage=usage, **facts)
