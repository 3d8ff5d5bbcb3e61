"""The command: options, exit codes, Ctrl-C, and what it does not load."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.live.scripted import TEXT, Call, polite, scripted
from tests.unit.live.test_sources import program, write_wav

pytestmark = pytest.mark.anyio

CODE = "from asr_service.entry import main; main()"


async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """`asr-service live`, as the installed command starts it."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CODE, "live", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )


async def run(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """Exit code, standard output, standard error."""
    process = await start(*arguments, **environment)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    write_wav(tmp_path / "talk.wav", 32_000)
    return tmp_path / "talk.wav"


@pytest.fixture
def recorder(tmp_path: Path) -> str:
    """PATH with a microphone that does not stop by itself."""
    program(tmp_path, "parec", "printf abcdefgh; exec tail -f /dev/null")
    return f"{tmp_path}:{os.environ['PATH']}"


async def test_a_recording_as_lines(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("asr_key\n")
    async with scripted(polite) as service:
        done = await run(str(recording), "--url", service.url, "--speed", "0", "--api-key-file", str(tmp_path / "key"))

    assert done == (0, "[0:00] Good morning.\n", "")
    assert len(service.call.audio) == 64_000
    assert service.call.socket.request is not None
    assert service.call.socket.request.headers["Authorization"] == "Bearer asr_key"
    # Nobody sees drafts here, so that none are asked for.
    assert service.call.sent[0]["session"]["include"] == []


@pytest.mark.parametrize(
    ("format", "output"),
    [
        ("srt", "1\n00:00:00,300 --> 00:00:01,200\nGood morning.\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.300 --> 00:00:01.200\nGood morning.\n\n"),
    ],
)
async def test_subtitles(recording: Path, format: str, output: str) -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.event("session.update")
        await call.say("session.updated", session={})
        await call.event("input_audio_buffer.commit")
        await call.commit("item_1")
        words = [{"word": "Good", "start": 0.3, "end": 0.6}, {"word": "morning.", "start": 0.6, "end": 1.2}]
        await call.complete("item_1", "Good morning.", 0.3, 1.2, words=words)
        await call.end()

    async with scripted(script) as service:
        assert await run(str(recording), "--url", service.url, "--speed", "0", "--format", format) == (0, output, "")


async def test_words_and_other_options(recording: Path) -> None:
    async with scripted(polite) as service:
        status, output, _ = await run(
            *(str(recording), "--url", service.url, "--speed", "0", "--format", "json", "--words"),
            *("--language", "en", "--prompt", "Grüße"),
            LIVE_API_KEY="asr_of_environment",
        )

    assert status == 0
    assert json.loads(output) == {"start": 0.3, "end": 1.2, "text": "Good morning.", "language": "en", "words": []}
    session = service.call.sent[0]["session"]
    assert session["include"] == ["item.input_audio_transcription.words"]
    assert session["audio"]["input"]["transcription"] == {"language": "en", "prompt": "Grüße"}
    assert service.call.socket.request is not None
    assert service.call.socket.request.headers["Authorization"] == "Bearer asr_of_environment"


async def test_standard_input() -> None:
    async with scripted(polite) as service:
        process = await start("-", "--rate", "24000", "--url", service.url)
        output, errors = await process.communicate(bytes(10_001))

    assert (process.returncode, output, errors) == (0, b"[0:00] Good morning.\n", b"")
    assert service.call.audio == bytes(10_000)
    assert service.call.sent[0]["session"]["audio"]["input"]["format"]["rate"] == 24_000


async def test_a_recording_goes_at_its_own_pace(tmp_path: Path) -> None:
    write_wav(tmp_path / "short.wav", 4800)
    loop, came_s = asyncio.get_running_loop(), []

    async def script(call: Call) -> None:
        await call.begin()
        began_s = loop.time()
        for _ in range(3):
            await call.hear(3200)
            came_s.append(loop.time() - began_s)
        await call.event("input_audio_buffer.commit")
        await call.end()

    async with scripted(script) as service:
        assert (await run(str(tmp_path / "short.wav"), "--url", service.url))[0] == 0

    # Never before it would have been spoken, less what the greeting takes from the server to the client.
    assert came_s[2] >= 0.28


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_ends_with_the_last_text(recorder: str, kind: signal.Signals) -> None:
    heard = asyncio.Event()

    async def script(call: Call) -> None:
        await call.begin()
        await call.hear(8)
        await call.start("item_1")
        heard.set()
        await call.event("input_audio_buffer.commit")
        await call.commit("item_1")
        await call.complete("item_1", "The last words.")
        await call.end()

    async with scripted(script) as service:
        process = await start("--url", service.url, PATH=recorder)
        await heard.wait()
        process.send_signal(kind)
        output, errors = await process.communicate()

    assert (process.returncode, output, errors) == (0, b"[0:00] The last words.\n", b"")


async def test_a_second_ctrl_c_ends_at_once(recorder: str) -> None:
    heard, committed = asyncio.Event(), asyncio.Event()

    async def script(call: Call) -> None:
        await call.begin()
        await call.hear(8)
        heard.set()
        await call.event("input_audio_buffer.commit")
        committed.set()
        await call.event("input_audio_buffer.clear")
        await call.socket.wait_closed()

    async with scripted(script) as service:
        process = await start("--url", service.url, PATH=recorder)
        await heard.wait()
        process.send_signal(signal.SIGINT)
        await committed.wait()
        process.send_signal(signal.SIGINT)
        output, errors = await process.communicate()

    assert (process.returncode, output) == (1, b"")
    assert errors == b"Ended at once: the last words have no text.\n"


async def test_ctrl_c_before_the_service_is_ready_ends_at_once(recorder: str) -> None:
    called = asyncio.Event()

    async def script(call: Call) -> None:
        await call.event("session.update")
        called.set()
        await call.socket.wait_closed()

    async with scripted(script) as service:
        process = await start("--url", service.url, PATH=recorder)
        await called.wait()
        process.send_signal(signal.SIGINT)
        await process.communicate()

    assert process.returncode == 1
    assert service.call.audio == b""


async def test_an_utterance_without_text_is_exit_code_1(recording: Path) -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.event("input_audio_buffer.commit")
        await call.start("item_1")
        await call.say(f"{TEXT}failed", item_id="item_1", error={"code": "engine_error", "message": "It broke."})
        await call.end()

    async with scripted(script) as service:
        done = await run(str(recording), "--url", service.url, "--speed", "0")

    assert done == (1, "", "[0:00] No text: It broke.\n")


async def test_what_reads_the_text_may_leave(recording: Path) -> None:
    async def script(call: Call) -> None:
        await call.begin()
        await call.event("input_audio_buffer.commit")
        for number in range(3):
            await call.commit(f"item_{number}")
            await call.complete(f"item_{number}", "Good morning.")
        await call.end()

    reading, writing = os.pipe()
    os.close(reading)
    async with scripted(script) as service:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CODE, "live", str(recording), "--speed", "0", "--url", service.url),
            stdout=writing,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing)
        _, errors = await process.communicate()

    assert (process.returncode, errors) == (1, b"")


async def test_no_service_is_one_sentence_and_exit_code_1(recording: Path) -> None:
    status, output, errors = await run(str(recording), "--url", "http://127.0.0.1:1")

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("ws://127.0.0.1:1/v1/realtime cannot be reached: Connection refused; `asr-service serve`")


async def test_no_microphone_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    status, output, errors = await run(PATH=str(tmp_path))

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("There is no program that records (one of pw-record, parec, arecord)")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("a.wav", "--url", "nonsense"),
            "'nonsense' should be the service's address, such as http://127.0.0.1:8000.\n",
        ),
        (("a.wav", "--api-key-file", "no-such"), "no-such: No such file or directory.\n"),
        (("--speed", "2"), "--speed is for recordings: the microphone and standard input have a pace of their own.\n"),
        (("-", "--speed", "0"), "--speed is for recordings"),
        (("-", "--rate", "8000"), "--rate is 16000 or 24000, and for raw PCM on standard input, which is named -.\n"),
        (("a.wav", "--rate", "16000"), "--rate is 16000 or 24000"),
        (("a.wav", "--words"), "--words goes with --format json: lines of text have no room for times.\n"),
    ],
)
async def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], sentence: str) -> None:
    status, output, errors = await run(*arguments)

    assert (status, output) == (2, "")
    assert errors.startswith(sentence)


def test_a_client_loads_little() -> None:
    code = (
        "import sys, asr_service.entry, asr_service.live.command\n"
        "print(*{'torch', 'pydantic', 'fastapi', 'uvicorn', 'structlog', 'onnxruntime'} & sys.modules.keys())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
