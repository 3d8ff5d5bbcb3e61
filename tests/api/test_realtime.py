"""WS /v1/realtime over a real socket, with an engine and a listener that the test plays."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from asr_service.api.realtime import _MAX_ERRORS
from asr_service.auth import key_store
from asr_service.auth.grants import Limits
from asr_service.errors import EngineError
from asr_service.observability.metrics import Metrics
from tests.api.conftest import serving
from tests.fakes import Call, FakeEngine, FakeListener, nothing_left_behind, silence, speech

pytestmark = pytest.mark.anyio

Lines = list[MutableMapping[str, Any]]
PCM_16K = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}
PREFIX = "conversation.item.input_audio_transcription"


@dataclass
class Client:
    """One WebSocket, event by event."""

    socket: ClientConnection
    events: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def next(self) -> dict[str, Any]:
        self.events.append(json.loads(await self.socket.recv()))
        return self.events[-1]

    async def until(self, kind: str) -> dict[str, Any]:
        """The next event of this type, past any others."""
        while (event := await self.next())["type"] != kind:
            continue
        return event

    async def code(self) -> tuple[str, int]:
        """The last error, and the code with which the service closes the connection."""
        with pytest.raises(ConnectionClosed) as closed:
            await self.until("never")
        assert closed.value.rcvd is not None
        errors = [event["error"]["code"] for event in self.events if event["type"] == "error"]
        return errors[-1] if errors else "", closed.value.rcvd.code


@dataclass
class World:
    """A running service."""

    url: str
    engine: FakeEngine
    listener: FakeListener
    metrics: Metrics
    app: Any

    @contextlib.asynccontextmanager
    async def session(self, query: str = "", **options: Any) -> AsyncIterator[Client]:
        """A session that has begun, and takes 16 kHz PCM."""
        async with self.connection(query, **options) as client:
            assert (await client.next())["type"] == "session.created"
            await client.send("session.update", session=PCM_16K)
            assert (await client.next())["type"] == "session.updated"
            yield client

    @contextlib.asynccontextmanager
    async def connection(self, query: str = "", **options: Any) -> AsyncIterator[Client]:
        async with connect(f"{self.url}/v1/realtime{query}", proxy=None, **options) as socket:
            yield Client(socket)

    async def refusal(self, **options: Any) -> tuple[int, dict[str, Any]]:
        """The answer to a handshake that is refused."""
        with pytest.raises(InvalidStatus) as refused:
            async with self.connection(**options):
                raise AssertionError("the handshake was not refused")
        return refused.value.response.status_code, json.loads(refused.value.response.body or b"")

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def world(engine: FakeEngine | None = None, **settings: Any) -> AsyncIterator[World]:
    engine, listener, metrics = engine or FakeEngine(), FakeListener(), Metrics()
    async with nothing_left_behind(), serving(engine, listener=listener, metrics=metrics, **settings) as (port, app):
        yield World(f"ws://127.0.0.1:{port}", engine, listener, metrics, app)


async def answer_all(engine: FakeEngine, text: str) -> None:
    """Answer each window that comes, drafts included, until cancelled."""
    while True:
        call = await engine.next_call()
        call.start("en")
        if not call.outcome.done():
            call.finish(text)


@contextlib.asynccontextmanager
async def answering(engine: FakeEngine, text: str = "Good morning.") -> AsyncIterator[None]:
    task = asyncio.create_task(answer_all(engine, text))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quiet(log_lines: Lines) -> None:
    """Log lines are kept, not printed."""


async def test_a_session_begins_with_all_its_settings() -> None:
    async with world() as one, one.connection("?model=whisper-1&intent=transcription") as client:
        created = await client.next()
    session = created["session"]
    assert (created["type"], session["type"]) == ("session.created", "transcription")
    assert session["id"].startswith("sess_")
    assert session["audio"]["input"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "noise_reduction": None,
        "transcription": {"model": None, "language": None, "prompt": None, "keywords": []},
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
        },
    }
    assert session["include"] == []


async def test_an_utterance_from_its_first_sample_to_its_text() -> None:
    async with world() as one, one.session() as client, answering(one.engine):
        await client.send("input_audio_buffer.append", audio=base64.b64encode(silence(0.5) + speech(1)).decode())
        await client.socket.send(silence(0.3))
        await client.socket.send(silence(0.3))
        completed = await client.until(f"{PREFIX}.completed")
        await client.socket.close()
    kinds = [event["type"].removeprefix(f"{PREFIX}.") for event in client.events]
    assert kinds == [
        *("session.created", "session.updated", "input_audio_buffer.speech_started", "delta"),
        *("input_audio_buffer.speech_stopped", "input_audio_buffer.committed"),
        *("conversation.item.added", "conversation.item.done", "delta", "segment", "completed"),
    ] or kinds == [
        *("session.created", "session.updated", "input_audio_buffer.speech_started"),
        *("input_audio_buffer.speech_stopped", "input_audio_buffer.committed"),
        *("conversation.item.added", "conversation.item.done", "delta", "segment", "completed"),
    ]
    assert completed["transcript"] == "".join(event.get("delta", "") for event in client.events) == "Good morning."
    assert completed["usage"] == {"type": "duration", "seconds": pytest.approx(1.6, abs=0.1)}
    assert (completed["language"], completed["content_index"]) == ("en", 0)
    assert completed["start"] == pytest.approx(0.5, abs=0.05)
    assert completed["end"] == pytest.approx(1.5, abs=0.05)
    assert len({event["event_id"] for event in client.events}) == len(client.events)
    assert len({event["item_id"] for event in client.events if "item_id" in event}) == 1


async def test_what_is_not_certain_is_told_to_those_who_ask() -> None:
    async with world() as one, one.session() as client:
        await client.send("session.update", session={"include": ["item.input_audio_transcription.partial"]})
        await client.socket.send(speech(1))
        call = await one.engine.next_call()
        call.start("en")
        call.finish("Good mor")
        partial = await client.until(f"{PREFIX}.partial")
    assert (partial["settled"], partial["unsettled"]) == ("", "Good mor")
    assert partial["audio_end_ms"] == pytest.approx(1000, abs=40)


async def test_settings_reach_the_listener_and_the_engine() -> None:
    wished = {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"language": "de", "prompt": "Names.", "keywords": ["Anna", "Ben"]},
                "turn_detection": {"type": "server_vad", "threshold": 0.7, "silence_duration_ms": 800},
            }
        },
        "include": ["item.input_audio_transcription.words"],
    }
    async with world() as one, one.connection() as client, answering(one.engine):
        await client.next()
        await client.send("session.update", session=wished)
        session = (await client.next())["session"]
        await client.socket.send(speech(1) + silence(1))
        completed = await client.until(f"{PREFIX}.completed")
    stream = one.listener.streams[0].settings
    assert (stream.encoding, stream.rate_hz, stream.threshold, stream.prefix_s, stream.silence_s) == (
        *("pcmu", 8000, 0.7, 0.3, 0.8),
    )
    options = one.engine.calls[-1].options
    assert (options.language, options.prompt, options.hotwords, options.words) == (
        *("de", "Names.", ("Anna", "Ben"), True),
    )
    assert session["audio"]["input"]["turn_detection"]["prefix_padding_ms"] == 300
    assert completed["words"] == []


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 44100}}}}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"format": {"type": "audio/mp3"}}}}, "session.audio.input.format"),
        ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "session.audio.input.turn_detection.type"),
        (
            {"audio": {"input": {"turn_detection": {"threshold": 2}}}},
            "session.audio.input.turn_detection.threshold",
        ),
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "session.audio.input.noise_reduction"),
        ({"audio": {"input": {"transcription": {"model": "gpt"}}}}, "session.audio.input.transcription.model"),
        ({"audio": {"input": {"transcription": {"language": "xx"}}}}, "session.audio.input.transcription.language"),
        ({"audio": {"input": {"transcription": {"delay": "low"}}}}, "session.audio.input.transcription.delay"),
        ({"include": ["item.input_audio_transcription.logprobs"]}, "session.include.0"),
        ({"audio": []}, "session.audio"),
        ({"colour": "red"}, "session.colour"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named_and_nothing_of_its_update_counts(
    session: dict[str, Any], param: str
) -> None:
    async with world() as one, one.session() as client:
        good = {"include": ["item.input_audio_transcription.partial"]}
        await client.send("session.update", session={**good, **session}, event_id="e7")
        error = (await client.next())["error"]
        await client.send("session.update", session={})
        after = (await client.next())["session"]
    assert (error["code"], error["param"], error["event_id"]) == ("invalid_option", param, "e7")
    assert error["message"]
    assert (after["include"], after["audio"]["input"]["format"]["rate"]) == ([], 16_000)


async def test_turn_detection_is_turned_off_and_on_again() -> None:
    async with world() as one, one.session() as client, answering(one.engine):
        await client.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        await client.next()
        await client.socket.send(speech(1) + silence(1))
        await client.send("input_audio_buffer.commit")
        assert (await client.next())["type"] == "input_audio_buffer.committed"
        await client.until(f"{PREFIX}.completed")
        await client.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
        await client.next()
        await client.socket.send(speech(1) + silence(1))
        assert (await client.next())["type"] == "input_audio_buffer.speech_started"


@pytest.mark.parametrize(
    ("text", "code", "event_id"),
    [
        ("nonsense", "invalid_event", None),
        ("[]", "invalid_event", None),
        ("[" * 100_000, "invalid_event", None),
        ('{"type":"response.create","event_id":"x"}', "invalid_event", "x"),
        ('{"event_id":"x"}', "invalid_event", "x"),
        ('{"type":"input_audio_buffer.append","event_id":"x"}', "invalid_event", "x"),
        ('{"type":"input_audio_buffer.append","audio":3,"event_id":"x"}', "invalid_event", "x"),
        ('{"type":"input_audio_buffer.append","audio":"???","event_id":"x"}', "invalid_audio", "x"),
        ('{"type":"input_audio_buffer.append","audio":"AAAA","event_id":"x"}', "invalid_audio", "x"),
        ('{"type":"input_audio_buffer.commit","event_id":"x"}', "input_audio_buffer_commit_empty", "x"),
        ('{"type":"session.update","session":7,"event_id":"x"}', "invalid_event", "x"),
    ],
)
async def test_an_event_that_is_none_is_told_and_the_session_goes_on(
    text: str, code: str, event_id: str | None
) -> None:
    async with world() as one, one.session() as client:
        await client.socket.send(text)
        error = (await client.next())["error"]
        await client.send("input_audio_buffer.clear")
        assert (await client.next())["type"] == "input_audio_buffer.cleared"
    assert (error["code"], error["event_id"], error["type"]) == (code, event_id, "invalid_request_error")


async def test_who_makes_nothing_but_errors_is_sent_away() -> None:
    async with world() as one, one.session() as client:
        for _ in range(_MAX_ERRORS):
            await client.socket.send(b"x")
        assert await client.code() == ("too_many_errors", 1008)


async def test_a_message_that_is_too_big_ends_the_session() -> None:
    async with world() as one:
        async with one.session() as client:
            await client.socket.send(bytes(1024 * 1024 + 2))
            assert await client.code() == ("message_too_big", 1009)
        async with one.session() as client:
            with contextlib.suppress(ConnectionClosed):
                await client.socket.send(bytes(3 * 1024 * 1024))
            assert (await client.code())[1] == 1009


async def test_an_utterance_that_fails_is_told_and_the_session_goes_on() -> None:
    async with world() as one, one.session() as client:
        await client.socket.send(speech(0.5) + silence(1))
        (await one.engine.next_call()).fail(EngineError("The model failed on this audio."))
        failed = await client.until(f"{PREFIX}.failed")
        async with answering(one.engine):
            await client.socket.send(speech(0.5) + silence(1))
            await client.until(f"{PREFIX}.completed")
    assert failed["error"]["code"] == "engine_error"
    assert failed["error"]["type"] == "server_error"
    assert one.metric("asr_live_utterances_total", ending="failed") == 1
    assert one.metric("asr_live_utterances_total", ending="completed") == 1


# Who may come in.


@pytest.fixture
def keys(tmp_path: Path) -> tuple[dict[str, Any], str, str]:
    """Settings, a key for transcribing, and one for metrics only."""
    path = tmp_path / "keys.json"
    good, _ = key_store.create(path, "good", ["transcribe"], Limits(concurrent=1), None)
    other, _ = key_store.create(path, "other", ["metrics"], Limits(), None)
    return {"auth": {"mode": "required", "keys_file": path}}, good, other


def key_protocols(key: str) -> list[Subprotocol]:
    return [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{key}")]


async def test_credentials_stand_in_headers_or_sub_protocols(keys: tuple[dict[str, Any], str, str]) -> None:
    settings, good, other = keys
    async with world(**settings) as one:
        async with one.session(additional_headers={"Authorization": f"Bearer {good}"}) as client:
            assert client.socket.subprotocol is None
        async with one.session(additional_headers={"X-API-Key": good}):
            pass
        async with one.session(subprotocols=key_protocols(good)) as client:
            assert client.socket.subprotocol == "realtime"
        assert (await one.refusal())[0] == 401
        assert (await one.refusal(subprotocols=key_protocols("asr_wrong")))[0] == 401
        status, body = await one.refusal(subprotocols=key_protocols(other))
        assert (status, body["error"]["code"]) == (403, "insufficient_scope")
        both = {"additional_headers": {"X-API-Key": other}, "subprotocols": key_protocols(good)}
        assert (await one.refusal(**both))[0] == 401
    assert one.metric("asr_auth_refused_total", reason="missing") == 1


async def test_pages_of_other_origins_are_refused_unless_they_are_named() -> None:
    async with world(cors_origins="https://app.example") as one:
        host = one.url.removeprefix("ws://")
        for origin in (f"http://{host}", f"https://{host}", "https://app.example"):
            async with one.session(origin=origin):
                pass
        for origin in ("https://evil.example", "null", f"http://evil.{host}"):
            status, body = await one.refusal(origin=origin)
            assert (status, body["error"]["code"]) == (403, "foreign_origin")
    async with world(cors_origins="*") as one, one.session(origin="https://any.example"):
        pass


async def test_a_caller_has_as_many_sessions_as_it_may(keys: tuple[dict[str, Any], str, str]) -> None:
    settings, good, _ = keys
    async with (
        world(**settings) as one,
        one.session(subprotocols=key_protocols(good)),
        one.connection(subprotocols=key_protocols(good)) as second,
    ):
        assert await second.code() == ("rate_limited", 1008)
    assert one.metric("asr_rate_limited_total", limit="concurrent") == 1


async def test_audio_counts_against_the_limits_of_its_caller() -> None:
    async with world(rate_limit={"audio_s_per_minute": 12}) as one:
        async with one.session() as client:
            for _ in range(16):
                await client.socket.send(silence(1))
            assert await client.code() == ("rate_limited", 1008)
        # Ten seconds were counted in steps of five, and the rest at the end.
        async with one.connection() as client:
            await client.next()
            await client.send("session.update", session=PCM_16K)
            await client.socket.send(silence(6))
            assert await client.code() == ("rate_limited", 1008)


async def test_the_service_holds_as_many_sessions_as_it_may() -> None:
    async with world(realtime={"max_sessions": 1}) as one:
        async with one.session():
            assert one.metric("asr_live_sessions") == 1
            async with one.connection() as second:
                assert await second.code() == ("overloaded", 1013)
        async with one.session():
            pass
    assert one.metric("asr_refusals_total", reason="sessions") == 1
    assert one.metric("asr_live_sessions") == 0


async def test_who_comes_too_early_or_asks_for_another_model_is_told() -> None:
    async with world(FakeEngine(model=None, not_ready="the model is loading")) as one, one.connection() as client:
        assert await client.code() == ("engine_not_ready", 1013)
    async with world() as one, one.connection("?model=gpt") as client:
        assert await client.code() == ("model_not_found", 1008)
    assert all(stream.closed for stream in one.listener.streams)


async def test_plain_http_is_told_what_this_is() -> None:
    async with world() as one, httpx.AsyncClient() as client:
        reply = await client.get(one.url.replace("ws:", "http:") + "/v1/realtime")
        other = await client.get(
            one.url.replace("ws:", "http:") + "/livez", headers={"Connection": "upgrade", "Upgrade": "websocket"}
        )
    assert (reply.status_code, reply.headers["upgrade"]) == (426, "websocket")
    assert other.status_code == 200


# How sessions end.


async def test_who_says_nothing_for_too_long_is_sent_away() -> None:
    async with world(realtime={"idle_timeout_s": 0.1}) as one, one.connection() as client:
        assert await client.code() == ("idle_timeout", 1008)


async def test_a_session_ends_some_day() -> None:
    async with world(realtime={"session_timeout_s": 0.2}) as one, one.connection() as client:
        assert await client.code() == ("session_expired", 1008)


async def test_at_the_end_of_the_service_what_was_said_becomes_text_first() -> None:
    async with world() as one, one.session() as client:
        await client.socket.send(speech(1))
        await client.until("input_audio_buffer.speech_started")
        one.app.state.parts.admission.close()
        async with answering(one.engine, "Last words."):
            assert await client.code() == ("shutting_down", 1012)
        await one.app.state.parts.admission.emptied()
    transcripts = [event["transcript"] for event in client.events if event["type"].endswith("completed")]
    assert transcripts == ["Last words."]
    async with world() as one:
        one.app.state.parts.admission.close()
        async with one.connection() as client:
            assert await client.code() == ("shutting_down", 1012)


@pytest.mark.parametrize("how", ["close", "vanish"])
async def test_nothing_is_left_of_a_client_that_leaves(how: str, log_lines: Lines) -> None:
    async with world() as one, one.session() as client:
        await client.socket.send(speech(1))
        call: Call = await one.engine.next_call()
        if how == "vanish":
            client.socket.transport.abort()
        else:
            await client.socket.close()
        await one.app.state.parts.admission.emptied()
        assert call.cancelled
        assert one.listener.streams[0].closed
    (line,) = [line for line in log_lines if line["event"] == "request"]
    assert line["code"] == ("client_gone" if how == "vanish" else "ok")
    assert (line["method"], line["route"], line["status"]) == ("WEBSOCKET", "/v1/realtime", 101)
    assert (line["audio_s"], line["utterances"], line["model"]) == (1.0, 0, "whisper-test")
    assert one.metric("asr_requests_total", route="/v1/realtime", method="WEBSOCKET", status="101", code=line["code"])


async def test_a_client_that_does_not_read_is_let_go() -> None:
    async with world() as one, one.session() as client:
        client.socket.transport.pause_reading()

        async def flood() -> None:
            while True:
                await client.send("session.update", session={})

        with pytest.raises(ConnectionClosed):
            await flood()


async def test_an_unexpected_error_is_told_and_logged(log_lines: Lines) -> None:
    async with world() as one, one.session() as client:
        one.listener.error = ZeroDivisionError("a mistake of ours")
        await client.socket.send(speech(1))
        assert await client.code() == ("internal_error", 1011)
    assert "unexpected error" in [line["event"] for line in log_lines]
    assert one.listener.streams[0].closed


async def test_answers_carry_an_id_and_security_headers() -> None:
    async with world() as one, one.session(additional_headers={"X-Request-ID": "mine"}) as client:
        assert client.socket.response is not None
        assert client.socket.response.headers["X-Request-ID"] == "mine"
