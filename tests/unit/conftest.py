"""What many tests share: a browser, and an environment without a run."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from probeline.lineage import lock
from tests.unit.browser import CHROMIUM, FLAGS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def no_run_of_an_earlier_test() -> Iterator[None]:
    """Who takes the workflow's lock in this process has its children take themselves for jobs of that run."""
    yield
    os.environ.pop(lock.RUN, None)
