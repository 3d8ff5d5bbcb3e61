"""`asr-service live` as users start it, against the real service: a recording as fast as the service takes it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.service import ROOT, Service, serve
from tests.recordings import load_pcm, packaged_clips

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CLIPS = [path for path in packaged_clips() if path.parent.name == "en"][:3]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve() as service:
        service.wait_for("ready")
        yield service


def live(service: Service, *arguments: str, stdin: bytes = b"") -> str:
    """What is printed."""
    done = subprocess.run(
        [sys.executable, "-m", "asr_service", "live", *arguments, "--url", service.url, "--language", "en"],
        input=stdin,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_a_recording_as_json_lines(service: Service) -> None:
    lines = [
        json.loads(line)
        for line in live(service, str(CLIPS[0]), "--speed", "0", "--format", "json", "--words").splitlines()
    ]

    assert lines
    for line in lines:
        assert line.keys() == {"start", "end", "text", "language", "words"}
        assert 0 <= line["start"] < line["end"] <= len(load_pcm(CLIPS[0])) / 16_000 + 0.1
        assert line["language"] == "en"
        assert [word["word"].strip() for word in line["words"]] == line["text"].split()


def test_all_that_is_said_in_a_pipe_has_its_text(service: Service) -> None:
    # Utterances end by themselves while the end of the pipe has long been sent.
    pause = bytes(2 * 16_000 * 2)
    pcm = pause.join(load_pcm(path).tobytes() for path in CLIPS)

    lines = live(service, "-", "--rate", "16000", stdin=pcm + pause).splitlines()

    seconds = [
        int(minutes) * 60 + int(rest) for minutes, rest in re.findall(r"^\[(\d+):(\d\d)\] ", "\n".join(lines), re.M)
    ]
    assert len(seconds) == len(lines) >= len(CLIPS)
    assert seconds == sorted(seconds)
    last_s = (len(pcm) - len(load_pcm(CLIPS[-1])) * 2) / 32_000
    assert seconds[-1] >= int(last_s)


def test_subtitles(service: Service) -> None:
    assert re.match(
        r"1\n00:00:0\d,\d{3} --> 00:00:\d\d,\d{3}\n\S", live(service, str(CLIPS[0]), "--speed", "0", "--format", "srt")
    )
