"""Live transcription of a WAV file (16-bit, mono, 16 or 24 kHz) at its own pace: `pip install websockets`, then

python examples/realtime.py recording.wav [ws://127.0.0.1:8000]
"""

import asyncio
import contextlib
import json
import sys
import time
import wave

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

TEXT = "conversation.item.input_audio_transcription."


async def send(socket: ClientConnection, recording: wave.Wave_read) -> None:
    audio = {"input": {"format": {"type": "audio/pcm", "rate": recording.getframerate()}}}
    session = {"audio": audio, "include": ["item.input_audio_transcription.partial"]}
    with contextlib.suppress(ConnectionClosed):  # whoever reads is told why
        await socket.send(json.dumps({"type": "session.update", "session": session}))
        started = time.monotonic()
        while piece := recording.readframes(recording.getframerate() // 10):
            await socket.send(piece)
            due = started + recording.tell() / recording.getframerate()
            await asyncio.sleep(due - time.monotonic())  # noqa: TID251 - a microphone would take as long
        await socket.send('{"type": "input_audio_buffer.commit"}')
        # What was said is committed; the answer to this comes when all of it has been heard.
        await socket.send('{"type": "input_audio_buffer.clear"}')


async def main(path: str, url: str) -> None:
    with wave.open(path) as recording:
        if (recording.getnchannels(), recording.getsampwidth()) != (1, 2):
            sys.exit(f"{path} is not 16-bit mono.")
        async with connect(f"{url}/v1/realtime") as socket:
            sending = asyncio.create_task(send(socket, recording))
            waiting: set[str] = set()
            heard_all = False
            while waiting or not heard_all:
                event = json.loads(await socket.recv())
                match event["type"].removeprefix(TEXT):
                    case "input_audio_buffer.speech_started" | "input_audio_buffer.committed":
                        waiting.add(event["item_id"])
                    case "input_audio_buffer.cleared":
                        heard_all = True
                    case "partial":
                        print(f"\r\033[K{event['settled']}\033[2m{event['unsettled']}\033[m", end="", flush=True)
                    case "completed":
                        waiting.discard(event["item_id"])
                        print(f"\r\033[K{event['transcript']}")
                    case "failed":
                        waiting.discard(event["item_id"])
                        print(f"\r\033[K({event['error']['message']})")
                    case "error" if event["error"]["code"] != "input_audio_buffer_commit_empty":
                        sys.exit(event["error"]["message"])
            await sending


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(f"usage: {sys.argv[0]} RECORDING.wav [URL]")
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "ws://127.0.0.1:8000"))
