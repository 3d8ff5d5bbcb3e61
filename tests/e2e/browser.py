"""A real Chromium with a microphone that plays a recording, and visits of the page at /ui with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.e2e.service import Service

CHROMIUM = Path("/usr/bin/chromium")
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Debian's chromium ({CHROMIUM})")
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@contextmanager
def chromium(recording: Path) -> Iterator[Browser]:
    """Chromium whose microphone plays the recording once, and may be used by pages."""
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


class Visit:
    """A visit of the page, and all that the browser did and complained about meanwhile."""

    def __init__(self, browser: Browser, service: Service, **options: Any) -> None:
        size = options.pop("size", SIZES["desktop"])
        viewport = {"width": size[0], "height": size[1]}
        self.context: BrowserContext = browser.new_context(**{"viewport": viewport, "locale": "en-GB"} | options)
        self.context.set_default_timeout(20_000)
        self.page: Page = self.context.new_page()
        self.url = service.url
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None,
        )

    def open(self) -> Page:
        self.page.goto(f"{self.url}/ui")
        expect(self.page.locator(".asr-model.asr-ready")).to_be_visible()
        return self.page

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def choose(self, recording: Path) -> None:
        self.page.locator("#asr-input").set_input_files(recording)

    def download(self, kind: str) -> str:
        with self.page.expect_download() as download:
            self.page.locator(f"[data-format={kind}]:visible").click()
        assert download.value.suggested_filename.endswith(f".{kind}")
        return Path(download.value.path()).read_text(encoding="utf-8")

    def end(self) -> None:
        self.context.close()
        own = urlsplit(self.url).netloc
        # What the page makes itself (`blob:`, `data:`) has no host.
        assert self.hosts - {""} == {own}
        assert self.complaints == []
