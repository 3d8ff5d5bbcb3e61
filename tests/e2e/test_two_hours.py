"""A recording of two hours through the real service: in order, nothing lost at the seams, in little memory."""

import difflib
import json
import re
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.e2e.service import Service, serve
from tests.recordings import load_pcm, packaged_clips

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1_200)]

RATE_HZ = 16_000
PAUSE_S = 2.5
"""Longer than what a window bridges, so that every clip is a window of its own."""
HOURS = 2


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve() as running:
        running.wait_for("ready")
        yield running


def english() -> list[Path]:
    return [path for path in packaged_clips() if path.parent.name == "en"]


def write_recording(path: Path, clips: list[Any]) -> int:
    """Clips in turn with pauses between them, for two hours. Returns how many there are."""
    pause = np.zeros(round(PAUSE_S * RATE_HZ), dtype=np.int16)
    count = 0
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        while file.getnframes() < HOURS * 3_600 * RATE_HZ:
            file.writeframes(clips[count % len(clips)].tobytes())
            file.writeframes(pause.tobytes())
            count += 1
    return count


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def test_two_hours_stream_in_order_and_in_little_memory(
    service: Service, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    paths = english()
    with httpx.Client(base_url=service.url, timeout=1_000) as client:
        alone = [client.post("/transcribe?language=en", content=path.read_bytes()).json()["text"] for path in paths]
        count = write_recording(tmp_path / "long.wav", [load_pcm(path) for path in paths])
        api = psutil.Process(service.process.pid)
        before = api.memory_info().rss
        peak, first_s, segments, whole = before, 0.0, [], {}
        size = (tmp_path / "long.wav").stat().st_size
        sent_at = 0.0

        def body() -> Iterator[bytes]:
            nonlocal sent_at
            with (tmp_path / "long.wav").open("rb") as file:
                while piece := file.read(1 << 20):
                    yield piece
            sent_at = time.perf_counter()

        headers = {"Accept": "application/x-ndjson", "Content-Type": "audio/wav", "Content-Length": str(size)}
        with client.stream("POST", "/transcribe?language=en", content=body(), headers=headers) as response:
            assert response.status_code == 200
            for line in response.iter_lines():
                first_s = first_s or time.perf_counter() - sent_at
                peak = max(peak, api.memory_info().rss)
                item = json.loads(line)
                if item["type"] == "segment":
                    segments.append(item)
                else:
                    whole = item
    record_property("first_text_s", round(first_s, 2))
    record_property("api_memory_growth_mib", round((peak - before) / 2**20))
    assert whole["type"] == "transcript"
    assert whole["duration_s"] >= HOURS * 3_600
    starts = [segment["start"] for segment in segments]
    assert starts == sorted(starts)
    expected = [word for number in range(count) for word in words(alone[number % len(alone)])]
    heard = words(whole["text"])
    # Lengths first: a seam that loses or doubles words shows there, whatever single words the batch has changed.
    assert abs(len(heard) - len(expected)) <= 0.01 * len(expected)
    agreeing = sum(
        sum(block.size for block in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks())
        for ours, theirs in zip(_pieces(heard), _pieces(expected), strict=False)
    )
    assert agreeing >= 0.97 * len(expected)
    assert first_s <= 3, f"the first text came after {first_s:.1f} s"
    assert peak - before <= 300 * 2**20


def _pieces(sequence: list[str], size: int = 1_000) -> Iterator[list[str]]:
    for start in range(0, len(sequence), size):
        yield sequence[start : start + size]
