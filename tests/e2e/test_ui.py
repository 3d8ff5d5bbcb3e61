"""The page at /ui in a real Chromium, in front of a scripted engine and a scripted live connection."""

import html
import json
import math
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import webvtt
from playwright.sync_api import Browser, Locator, Page, expect

from asr_service.auth import key_store
from asr_service.auth.grants import Limits
from tests.e2e.browser import SIZES, Visit, chromium, needs_chromium
from tests.e2e.service import Service, serve
from tests.e2e.ui_service import SENTENCES

pytestmark = [pytest.mark.e2e, needs_chromium]
RATE_HZ = 48_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of a tone that swells, which is all that the script needs to hear."""
    path = tmp_path_factory.mktemp("audio") / "Team meeting.wav"
    samples = (int(9000 * math.sin(i * 0.06) * abs(math.sin(i * 0.0001))) for i in range(5 * RATE_HZ))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


@pytest.fixture(scope="module")
def browser(recording: Path) -> Iterator[Browser]:
    with chromium(recording) as running:
        yield running


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The service as it stands on a desk: without authentication."""
    with serve(("tests.e2e.ui_service",), ASR_MAX_UPLOAD_MB="1") as running:
        yield running


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visit]:
    """A visit with an English desktop browser, without complaints and without requests to anybody else."""
    visit = Visit(browser, service)
    yield visit
    visit.end()


def lines(page: Page) -> Locator:
    return page.locator(".asr-lines li:visible")


def test_speech_appears_while_it_is_spoken(visit: Visit) -> None:
    page = visit.open()
    visit.button("Start").click()
    expect(page.locator(".asr-unsettled", has_text="a tests")).to_be_visible()
    expect(page.locator(".asr-settled", has_text="This is")).to_be_visible()
    expect(lines(page).first).to_contain_text("Good morning, everybody.")
    expect(page.get_by_label("Recorded")).to_have_text("0:02")
    assert float(page.locator("meter").evaluate("meter => meter.value")) > 0.2
    visit.button("Stop").click()
    expect(visit.button("Start")).to_be_enabled()
    expect(lines(page).nth(1)).to_contain_text("0:00.6 – 0:01.0")
    expect(lines(page).nth(1)).to_contain_text("This is a test.")
    expect(page.locator(".asr-facts:visible")).to_have_text("Language: EnglishModel: scripted")

    page.get_by_role("button", name="Play 0:00.6 to 0:01.0").click()
    expect(lines(page).nth(1)).to_have_class("asr-playing")
    expect(page.locator(".asr-playing")).to_have_count(0)
    assert visit.download("txt") == "Good morning, everybody.\nThis is a test.\n"
    assert [caption.text for caption in webvtt.from_string(visit.download("vtt")).captions] == [
        "Good morning, everybody.",
        "This is a test.",
    ]
    document = json.loads(visit.download("json"))
    assert document["model"] == "scripted"
    assert [(each["start"], each["end"], len(each["words"])) for each in document["segments"]] == [
        (0.1, 0.48, 3),
        (0.6, 0.95, 4),
    ]


def test_a_second_recording_goes_on_where_the_first_ended(visit: Visit) -> None:
    page = visit.open()
    for done in (1, 2):
        visit.button("Start").click()
        expect(page.locator(".asr-unsettled", has_text="a tests")).to_be_visible()
        visit.button("Stop").click()
        expect(visit.button("Start")).to_be_enabled()
        expect(lines(page)).to_have_count(2 * done)
    starts = [each["start"] for each in json.loads(visit.download("json"))["segments"]]
    assert starts == sorted(starts)
    assert starts[2] > 1.0
    visit.button("Clear").click()
    expect(lines(page)).to_have_count(0)


def test_a_microphone_that_hears_nothing_is_no_error(visit: Visit) -> None:
    page = visit.open()
    visit.button("Start").click()
    visit.button("Stop").click()
    expect(visit.button("Start")).to_be_enabled()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("de", "The connection was lost. What was recognised before is still here."),
        ("zh", "Come back <i>later</i>."),
    ],
)
def test_a_connection_that_ends_can_be_made_again(visit: Visit, language: str, sentence: str) -> None:
    page = visit.open()
    page.get_by_label("Spoken language").select_option(language)
    visit.button("Start").click()
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    expect(visit.button("Start")).to_be_enabled()
    page.get_by_label("Spoken language").select_option("")
    visit.button("Reconnect").click()
    expect(page.locator(".asr-unsettled", has_text="a tests")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


HEARD = """async ([frequency, rate]) => {
  const context = new OfflineAudioContext(2, rate, rate);
  await context.audioWorklet.addModule(new URL("page/worklet.js", document.baseURI));
  const node = new AudioWorkletNode(context, "microphone", {processorOptions: {rate: 16000, chunkSamples: 1600}});
  const samples = [];
  const flushed = new Promise((resolve) => {
    node.port.onmessage = ({data}) => data.flushed ? resolve() : samples.push(...data.pcm);
  });
  const tone = new OscillatorNode(context, {frequency});
  tone.connect(new GainNode(context, {gain: 0.5})).connect(node).connect(context.destination);
  tone.start();
  await context.startRendering();
  node.port.postMessage("flush");
  await flushed;
  return samples;
}"""


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_what_the_microphone_hears_is_resampled_cleanly(visit: Visit, rate: int) -> None:
    page = visit.open()
    samples = page.evaluate(HEARD, [1000, rate])
    assert 15_900 <= len(samples) <= 16_050
    # Away from both ends: the tone as it was, in 16-bit numbers, and next to nothing beside it.
    middle = samples[1000:15_000]
    amplitude, error = _tone(middle, 1000)
    assert amplitude == pytest.approx(0.5 * 32_767, rel=0.005)
    assert error < 0.001 * amplitude
    if rate > 16_000:
        # What 16 kHz cannot hold would come back as another tone.
        assert max(abs(sample) for sample in page.evaluate(HEARD, [10_000, rate])[1000:15_000]) < 0.002 * amplitude


def _tone(samples: list[int], frequency: int) -> tuple[float, float]:
    """The amplitude of a tone in 16 kHz samples that hold whole periods of it, and the root mean square of all else."""
    step = 2 * math.pi * frequency / 16_000
    cosine = 2 / len(samples) * sum(sample * math.cos(step * i) for i, sample in enumerate(samples))
    sine = 2 / len(samples) * sum(sample * math.sin(step * i) for i, sample in enumerate(samples))
    rest = [sample - cosine * math.cos(step * i) - sine * math.sin(step * i) for i, sample in enumerate(samples)]
    return math.hypot(cosine, sine), math.sqrt(sum(each * each for each in rest) / len(rest))


def refusing(name: str) -> str:
    """A script that has the microphone refused with this error, as the browser would."""
    return f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{name}'))"


@pytest.mark.parametrize(
    ("prepared", "sentence"),
    [
        (refusing("NotFoundError"), "No microphone was found."),
        (refusing("NotAllowedError"), "The browser does not let this page use the microphone."),
        (refusing("NotReadableError"), "The microphone cannot be opened."),
        ("Object.defineProperty(window, 'isSecureContext', { value: false })", "Open this page over HTTPS"),
        ("delete window.AudioWorkletNode", "This browser cannot record audio"),
    ],
)
def test_why_there_is_no_microphone(visit: Visit, prepared: str, sentence: str) -> None:
    visit.context.add_init_script(prepared)
    page = visit.open()
    visit.button("Start").click()
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    expect(visit.button("Start")).to_be_enabled()


def test_a_file_is_read_along_while_it_is_transcribed(visit: Visit, recording: Path) -> None:
    page = visit.open()
    visit.tab("File")
    visit.choose(recording)
    page.get_by_label("Spoken language").last.select_option("de")
    visit.button("Transcribe").click()
    expect(page.get_by_role("status").filter(has_text="Transcribing")).to_be_visible()
    for number, sentence in enumerate(SENTENCES):
        expect(lines(page)).to_have_count(number)
        httpx.post(f"{visit.url}/go")
        expect(lines(page).nth(number)).to_contain_text(sentence)
    expect(visit.button("Transcribe")).to_be_enabled()
    expect(page.locator(".asr-facts:visible")).to_have_text("Language: GermanModel: scriptedLength: 0:03")

    page.get_by_role("button", name="Play 0:01.1 to 0:01.9").click()
    expect(lines(page).nth(1)).to_have_class("asr-playing")
    assert 1.1 <= page.locator("audio").evaluate("audio => audio.currentTime") < 1.9
    lines(page).nth(0).get_by_text("morning.").click()
    expect(lines(page).nth(0)).to_have_class("asr-playing")
    assert 0.5 <= page.locator("audio").evaluate("audio => audio.currentTime") < 0.9
    expect(lines(page).nth(2)).to_have_class("asr-playing")

    assert visit.download("txt") == " ".join(SENTENCES) + "\n"
    srt, vtt = visit.download("srt"), visit.download("vtt")
    assert srt.startswith("1\n00:00:00,100 --> 00:00:0")
    shown = [html.unescape(caption.text).replace("\n", " ") for caption in webvtt.from_string(vtt).captions]
    assert shown == list(SENTENCES)
    document = json.loads(visit.download("json"))
    assert document["text"] == " ".join(SENTENCES)
    assert document["segments"][0]["words"][0] == {"word": "Good", "start": 0.1, "end": 0.5}


def test_a_transcription_can_be_cancelled(visit: Visit, recording: Path) -> None:
    page = visit.open()
    visit.tab("File")
    visit.choose(recording)
    page.get_by_label("Spoken language").last.select_option("de")
    visit.button("Transcribe").click()
    visit.button("Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("Cancelled.")
    expect(visit.button("Transcribe")).to_be_enabled()


def test_the_text_can_be_copied(visit: Visit, recording: Path) -> None:
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open()
    visit.tab("File")
    visit.choose(recording)
    visit.button("Transcribe").click()
    visit.button("Copy").last.click()
    expect(visit.button("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == " ".join(SENTENCES)


def test_what_the_service_refuses_is_said_in_its_words(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    visit.tab("File")
    (tmp_path / "long.wav").write_bytes(b"x" * (2 << 20))
    visit.choose(tmp_path / "long.wav")
    expect(page.get_by_role("alert")).to_have_text("This file is larger than the 1 MiB that the service takes.")
    expect(visit.button("Transcribe")).to_be_disabled()
    (tmp_path / "empty.wav").touch()
    visit.choose(tmp_path / "empty.wav")
    visit.button("Transcribe").click()
    expect(page.get_by_role("alert")).to_contain_text("The upload holds no audio")
    # The browser's own line about a status of 400.
    assert [line for line in visit.complaints if "400" not in line] == []
    visit.complaints.clear()


def test_the_page_speaks_chinese_and_remembers_it(browser: Browser, service: Service) -> None:
    visit = Visit(browser, service, locale="zh-CN")
    page = visit.open()
    expect(page.get_by_role("tab", name="麦克风")).to_be_visible()
    expect(visit.button("开始")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    visit.button("English").click()
    expect(visit.button("Start")).to_be_visible()
    expect(page.get_by_role("tab", name="Microphone")).to_be_visible()
    page.get_by_role("button", name="中文").click()
    visit.button("English").click()
    visit.open()
    expect(visit.button("Start")).to_be_visible()
    expect(page.get_by_role("tab", name="File")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    visit.end()


def test_it_can_be_used_by_keyboard(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("tab", name="File").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#asr-input")).to_be_attached()
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"asr-input", "SELECT"} <= reached


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_on_every_screen(
    browser: Browser, service: Service, recording: Path, tmp_path: Path, size: str, scheme: str
) -> None:
    visit = Visit(browser, service, size=SIZES[size], color_scheme=scheme, has_touch=size == "phone")
    page = visit.open()
    visit.button("Start").click()
    expect(page.locator(".asr-unsettled", has_text="a tests")).to_be_visible()
    assert fits(page, tmp_path / "microphone.png")
    visit.button("Stop").click()
    expect(visit.button("Start")).to_be_enabled()
    visit.tab("File")
    visit.choose(recording)
    visit.button("Transcribe").click()
    expect(lines(page)).to_have_count(len(SENTENCES))
    assert fits(page, tmp_path / "file.png")
    red, green, blue = (
        int(part) for part in page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")[:3]
    )
    assert (red + green + blue < 3 * 128) is (scheme == "dark")
    visit.end()


def fits(page: Page, screenshot: Path) -> bool:
    """Whether nothing has to be scrolled sideways; with a picture for those who want to see it."""
    page.screenshot(path=screenshot, full_page=True)
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("locale", [pytest.param("en-GB", marks=pytest.mark.slow), "zh-CN"])
def test_the_page_is_behind_the_services_authentication(browser: Browser, tmp_path: Path, locale: str) -> None:
    path = tmp_path / "keys.json"
    key = key_store.create(path, "web", ["transcribe"], Limits(), None)[0]
    chinese = locale == "zh-CN"
    with serve(("tests.e2e.ui_service",), ASR_AUTH__MODE="required", ASR_AUTH__KEYS_FILE=str(path)) as service:
        visit = Visit(browser, service, locale=locale)
        page = visit.page
        page.goto(f"{service.url}/ui")
        assert page.url == f"{service.url}/ui/login"
        field = page.get_by_label("API 密钥或令牌" if chinese else "API key or token")
        field.fill("guess")
        field.press("Enter")
        wrong = "该 API 密钥或令牌无效。" if chinese else "This API key or token is not valid."
        expect(page.get_by_role("alert")).to_have_text(wrong)
        assert [line for line in visit.complaints if "401" not in line] == []
        visit.complaints.clear()
        field.fill(key)
        field.press("Enter")
        expect(page.locator(".asr-model.asr-ready")).to_be_visible()
        (cookie,) = [each for each in visit.context.cookies() if each["name"] == "asr_credential"]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
        # The calls of the page, the live connection among them, go by the cookie.
        visit.button("开始" if chinese else "Start").click()
        expect(page.locator(".asr-unsettled", has_text="a tests")).to_be_visible()
        visit.button("停止" if chinese else "Stop").click()
        expect(visit.button("开始" if chinese else "Start")).to_be_enabled()
        assert len(visit.download("srt")) > 50
        visit.button("退出登录" if chinese else "Log out").click()
        page.wait_for_url("**/ui/login")
        assert [each for each in visit.context.cookies() if each["name"] == "asr_credential"] == []
        visit.end()


def test_who_is_not_logged_in_any_more_is_led_to_the_login(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = key_store.create(path, "web", ["transcribe"], Limits(), None)[0]
    with serve(("tests.e2e.ui_service",), ASR_AUTH__MODE="required", ASR_AUTH__KEYS_FILE=str(path)) as service:
        visit = Visit(browser, service)
        visit.page.goto(f"{service.url}/ui/login")
        visit.page.get_by_label("API key or token").fill(key)
        visit.button("Log in").click()
        expect(visit.page.locator(".asr-model.asr-ready")).to_be_visible()
        visit.tab("File")
        (tmp_path / "a.wav").write_bytes(b"x")
        visit.choose(tmp_path / "a.wav")
        visit.context.clear_cookies()
        visit.button("Transcribe").click()
        visit.page.wait_for_url("**/ui/login")
        visit.complaints.clear()
        visit.end()
