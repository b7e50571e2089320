"""A real browser for the tests of pages."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"
)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{}"


class Visit:
    """An opened page, and what it should not have done."""

    def __init__(self, browser: Browser, file: Path, address: str = "", width: int = 1300) -> None:
        self.complaints: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": 800})
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.requests: list[str] = []
        self.page.goto(file.as_uri() + address)

    def shows(self, title: str) -> None:
        expect(self.page.locator("#panel h2")).to_have_text(title)

    def end(self) -> None:
        assert self.complaints == []
        assert len(self.requests) == 1, self.requests  # the file itself
        self.page.close()
