"""Speaking to the page: Chromium's microphone plays a recording to the real service, and text grows meanwhile."""

import re
import wave
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from asr_service.auth import key_store
from asr_service.auth.grants import Limits
from asr_service.evaluation.normalise import scale
from tests.e2e.browser import SIZES, Visit, chromium, needs_chromium
from tests.e2e.service import Service, serve
from tests.recordings import load_pcm, packaged_clips

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), needs_chromium]

CLIPS = [path for path in packaged_clips() if path.parent.name == "en" and path.stem in ("quick_brown_fox", "counting")]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sentences with pauses around them; the first second is lost while the page gets ready."""
    path = tmp_path_factory.mktemp("audio") / "speech.wav"
    pause = np.zeros(24_000, np.int16)
    samples = np.concatenate([pause, *(part for clip in CLIPS for part in (load_pcm(clip), pause)), pause])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture(scope="module")
def browser(recording: Path) -> Iterator[Browser]:
    with chromium(recording) as running:
        yield running


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    key, _ = key_store.create(path, "anna", ["transcribe"], Limits(), None)
    return path, key


@pytest.fixture(scope="module")
def service(secret: tuple[Path, str]) -> Iterator[Service]:
    with serve(ASR_AUTH__MODE="required", ASR_AUTH__KEYS_FILE=str(secret[0])) as running:
        running.wait_for("ready")
        yield running


def test_what_is_said_into_the_microphone_is_read_while_it_is_said(
    browser: Browser, service: Service, secret: tuple[Path, str], tmp_path: Path
) -> None:
    visit = Visit(browser, service, size=SIZES["desktop"])
    visit.context.set_default_timeout(30_000)
    page = visit.page
    page.goto(f"{service.url}/ui")
    page.locator("input[type=password]").fill("asr_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.locator("input[type=password]").fill(secret[1])
    page.keyboard.press("Enter")
    expect(page.locator(".asr-model.asr-ready")).to_be_visible()
    visit.button("Start").click()
    # While a sentence is still being said: its line is open, and some of its words have settled.
    expect(page.locator("li.asr-open .asr-settled")).not_to_be_empty(timeout=30_000)
    expect(page.locator(".asr-lines li:not(.asr-open):visible")).to_have_count(2, timeout=60_000)
    visit.button("Stop").click()
    expect(visit.button("Start")).to_be_visible()
    text = visit.download("txt")
    page.screenshot(path=tmp_path / "live.png")
    visit.complaints = [line for line in visit.complaints if "401" not in line]
    visit.end()
    # Digits or words, as the model likes.
    first, second = text.strip().splitlines()
    assert re.search(r"(nine|9)\W+(ten|10)", first.lower())
    normalise = scale("en").normalise
    assert jiwer.wer(normalise(CLIPS[1].with_suffix(".txt").read_text(encoding="utf-8")), normalise(second)) <= 0.15
