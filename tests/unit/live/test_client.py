"""A session over a real WebSocket, with a service that says what it is told to say."""

import asyncio
import io
import json
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from asr_service.live.address import address
from asr_service.live.client import talk
from asr_service.live.dialogue import Dialogue, Draft, Wishes, Words
from asr_service.live.failures import LiveFailed
from asr_service.live.pace import Pieces
from asr_service.live.show import Show
from tests.unit.live.scripted import TEXT, Call, Script, polite, scripted

pytestmark = pytest.mark.anyio

PCM = bytes(range(200)) * 16


async def some(*pieces: bytes) -> Pieces:
    for piece in pieces:
        yield piece


@dataclass
class Talk:
    """A client, and what it has shown."""

    output: io.StringIO = field(default_factory=io.StringIO)
    errors: io.StringIO = field(default_factory=io.StringIO)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[tuple[Draft, ...]] = field(default_factory=list)
    drafted: asyncio.Event = field(default_factory=asyncio.Event)
    ready: int = 0
    wishes: Wishes = field(default_factory=lambda: Wishes(16_000, drafts=True))

    async def run(self, url: str, pieces: Pieces, *, api_key: str = "", last_words_s: float = 60.0) -> list[str]:
        """The lines that were shown."""
        with closing(_Watched(self)) as show:
            await talk(
                address(url, api_key),
                Dialogue(self.wishes),
                pieces,
                show,
                self.stop,
                on_ready=self._is_ready,
                last_words_s=last_words_s,
            )
        return self.lines

    @property
    def lines(self) -> list[str]:
        return self.output.getvalue().splitlines()

    def _is_ready(self) -> None:
        self.ready += 1


class _Watched(Show):
    def __init__(self, talk: Talk) -> None:
        super().__init__(talk.output, talk.errors)
        self._talk = talk

    def drafts(self, drafts: Sequence[Draft]) -> None:
        if drafts:
            self._talk.seen.append(tuple(drafts))
            self._talk.drafted.set()


async def end_of(script: Script, *pieces: bytes) -> str:
    """How a session ends that fails."""
    async with scripted(script) as service:
        with pytest.raises(LiveFailed) as failed:
            await Talk().run(service.url, some(*pieces or (PCM,)))
    return str(failed.value)


async def test_a_session_from_its_beginning_to_its_end() -> None:
    client = Talk(wishes=Wishes(16_000, language="en", prompt="greetings", drafts=True))

    async with scripted(polite) as service:
        lines = await client.run(f"{service.url}/asr", some(PCM, PCM[:2]), api_key="asr_key")

    assert lines == ["[0:00] Good morning."]
    assert client.ready == 1
    call = service.call
    assert call.audio == PCM + PCM[:2]
    assert call.socket.request is not None
    assert call.socket.request.path == "/asr/v1/realtime"
    assert call.socket.request.headers["Authorization"] == "Bearer asr_key"
    assert "Sec-WebSocket-Extensions" not in call.socket.request.headers
    settings = call.sent[0]["session"]
    assert settings["audio"]["input"] == {
        "format": {"type": "audio/pcm", "rate": 16_000},
        "transcription": {"language": "en", "prompt": "greetings"},
    }
    assert settings["include"] == ["item.input_audio_transcription.partial"]
    assert Draft(0.25, "Good", " mourning") in [draft for drafts in client.seen for draft in drafts]
    assert call.socket.close_code == 1000


async def test_silence_ends_without_text() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        commit = await call.event("input_audio_buffer.commit")
        await call.error("input_audio_buffer_commit_empty", "There is no speech to commit.", commit["event_id"])
        await call.socket.wait_closed()

    async with scripted(script) as service:
        assert await Talk().run(service.url, some(PCM)) == []


async def test_what_ended_just_before_the_end_does_not_hide_what_is_still_to_come() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        # All has been sent, and is heard only now: one utterance has ended by itself, another one follows.
        await call.event("input_audio_buffer.commit")
        await call.start("item_1")
        await call.commit("item_1")
        await call.complete("item_1", "One.", 0.5)
        await call.start("item_2")
        await call.commit("item_2")
        await call.event("input_audio_buffer.clear")
        await call.say("input_audio_buffer.cleared")
        await call.complete("item_2", "Two.", 61.5)
        await call.socket.wait_closed()

    async with scripted(script) as service:
        assert await Talk().run(service.url, some(PCM)) == ["[0:00] One.", "[1:01] Two."]


async def test_an_utterance_without_text_is_told_and_the_session_goes_on() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.start("item_1", 2.0)
        await call.commit("item_1")
        await call.say(f"{TEXT}failed", item_id="item_1", error={"code": "engine_error", "message": "It broke."})
        await call.event("input_audio_buffer.commit")
        await call.commit("item_2")
        await call.complete("item_2", "Two.", 3.0)
        await call.end()

    client = Talk()
    async with scripted(script) as service:
        assert await client.run(service.url, some(PCM)) == ["[0:03] Two."]
    assert client.errors.getvalue() == "[0:02] No text: It broke.\n"


async def test_an_error_ends_the_session_and_says_why() -> None:
    async def script(call: Call) -> None:
        await call.error("overloaded", "The service holds as many sessions as it may.")
        await call.socket.close(1013, "overloaded")

    assert await end_of(script) == "The service holds as many sessions as it may. Try again later."


async def test_an_error_in_the_middle_comes_after_the_text_before_it() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.hear(2)
        await call.commit("item_1")
        await call.complete("item_1", "One.")
        await call.error("shutting_down", "The service is shutting down: connect again.")
        await call.socket.close(1012, "shutting_down")

    never = asyncio.Event()

    async def endless() -> Pieces:
        yield PCM
        await never.wait()

    client = Talk()
    async with scripted(script) as service:
        with pytest.raises(LiveFailed, match="shutting down: connect again"):
            await client.run(service.url, endless())
    assert client.lines == ["[0:00] One."]


async def test_a_setting_that_is_refused_ends_the_session_before_anything_is_heard() -> None:
    async def script(call: Call) -> None:
        await call.say("session.created", session={})
        update = await call.event("session.update")
        await call.error("invalid_option", "The language 'xx' is not known.", update["event_id"])
        await call.socket.wait_closed()

    assert await end_of(script) == "The language 'xx' is not known."


async def test_times_of_words_are_done_without_where_the_service_has_none() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.event("session.update")
        await call.error("invalid_option", "This service has no aligner.", call.sent[1]["event_id"])
        await call.event("input_audio_buffer.commit")
        await call.commit("item_1")
        await call.complete("item_1", "One.")
        await call.end()

    async with scripted(script) as service:
        assert await Talk(wishes=Wishes(16_000, words=Words.WELCOME)).run(service.url, some(PCM)) == ["[0:00] One."]
    assert service.call.sent[1]["session"] == {"include": ["item.input_audio_transcription.words"]}


@pytest.mark.parametrize("moment", ["at once", "later"])
async def test_a_service_that_vanishes(moment: str) -> None:
    async def script(call: Call) -> None:
        if moment == "later":
            await call.begin()
            await call.hear(2)
        call.socket.transport.abort()

    ended = await end_of(script)
    assert ended == "The service has ended the connection before its last answer. Start again when it is back."


async def test_a_service_that_closes_with_a_reason() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.socket.close(1011, "bad\nluck")

    assert (await end_of(script)).startswith("The service has ended the connection before its last answer: bad luck.")


@pytest.mark.parametrize("message", ["nonsense", "[]", '{"type": 1}', '{"type": "error"}', "{}"])
async def test_what_is_no_event(message: str) -> None:
    async def script(call: Call) -> None:
        await call.socket.send(message)
        await call.socket.wait_closed()

    assert "no event of /v1/realtime" in await end_of(script)


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (
            (401, {}, json.dumps({"detail": "No credentials.", "code": "unauthenticated"}).encode()),
            "The service has refused the connection (401): No credentials. Give a key with --api-key-file or "
            "LIVE_API_KEY.",
        ),
        (
            (403, {}, b'{"detail": "The scope transcribe is missing."}'),
            "The service has refused the connection (403): The scope transcribe is missing. Use a key with the scope "
            "`transcribe`.",
        ),
        ((404, {}, b"<html>"), "The service has refused the connection (404). Is this the address of asr-service?"),
        ((503, {}, b'{"detail": "a\\u001b[2Jb"}'), "The service has refused the connection (503): a [2Jb."),
        ((307, {"Location": "wss://elsewhere/"}, b""), " leads to wss://elsewhere/: give that address with --url."),
    ],
)
async def test_a_handshake_that_is_refused(refusal: tuple[int, dict[str, str], bytes], sentence: str) -> None:
    async with scripted(polite, refusal) as service:
        with pytest.raises(LiveFailed) as failed:
            await Talk().run(service.url, some(PCM), api_key="secret")

    assert str(failed.value).removeprefix(f"{service.url}/v1/realtime") == sentence
    assert service.calls == []


async def test_a_service_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(LiveFailed, match=r"cannot be reached: Connection refused; `asr-service serve` starts"):
            await Talk().run(url, some(PCM))


async def test_something_else_than_a_websocket() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(LiveFailed, match="is no WebSocket: --url should be the address"):
            await Talk().run(url, some(PCM))


async def test_a_slow_service_gets_everything_in_order() -> None:
    size = 2**20
    pieces = [number.to_bytes(2, "little") * (size // 2) for number in range(16)]
    offered = asyncio.Event()

    async def counted() -> Pieces:
        for piece in pieces:
            yield piece
            # The first has gone, and the rest is more than the buffers on the way hold.
            offered.set()

    async def script(call: Call) -> None:
        await call.begin()
        await offered.wait()
        await call.event("input_audio_buffer.commit")
        await call.commit("item_1")
        await call.complete("item_1", "All.")
        await call.end()

    async with scripted(script) as service:
        assert await Talk().run(service.url, counted()) == ["[0:00] All."]
    assert service.call.audio == b"".join(pieces)


async def test_stop_ends_what_is_heard_and_waits_for_its_text() -> None:
    client = Talk()
    never = asyncio.Event()

    async def endless() -> Pieces:
        yield PCM
        await client.drafted.wait()
        client.stop.set()
        await never.wait()

    async with scripted(polite) as service:
        assert await client.run(service.url, endless()) == ["[0:00] Good morning."]


async def test_after_stop_the_last_text_is_not_waited_for_for_ever() -> None:
    async def script(call: Call) -> None:
        await call.begin()
        client.stop.set()
        await call.event("input_audio_buffer.commit")
        await call.commit("item_1")
        await call.socket.wait_closed()

    client = Talk()
    async with scripted(script) as service:
        with pytest.raises(LiveFailed, match=r"no text for the last words within 0\.05 s"):
            await client.run(service.url, some(PCM), last_words_s=0.05)


async def test_whoever_cancels_waits_for_nothing() -> None:
    begun = asyncio.Event()

    async def script(call: Call) -> None:
        await call.begin()
        begun.set()
        # A service that is stuck answers no farewell.
        call.socket.transport.pause_reading()
        await call.socket.wait_closed()

    async with scripted(script) as service:
        talking = asyncio.create_task(Talk().run(service.url, some(PCM)))
        await begun.wait()
        talking.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(1):
                await talking
        service.call.socket.transport.abort()


async def test_audio_that_breaks_off_is_transcribed_as_far_as_it_goes() -> None:
    async def broken() -> Pieces:
        yield PCM
        raise LiveFailed("talk.mp3: The file is damaged.")

    client = Talk()
    async with scripted(polite) as service:
        with pytest.raises(LiveFailed, match="The file is damaged"):
            await client.run(service.url, broken())
    assert client.lines == ["[0:00] Good morning."]


async def test_sessions_are_told_apart() -> None:
    async with scripted(polite) as service:
        await asyncio.gather(*(Talk().run(service.url, some(PCM)) for _ in range(3)))
    assert [call.audio for call in service.calls] == [PCM] * 3
