"""A real headless Chromium, and pages opened in it that may not talk to anybody."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "report"))

import sample_results

from perfguard.model.result import RoleProfile
from perfguard.report.render import write_report

_CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_READBACK = "willReadFrequently"  # the browser's advice to tests that read the canvas


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.html)


def _need(what):
    """A missing browser fails in CI, where these tests are the point, and skips elsewhere."""
    message = (
        f"{what} is missing: install Debian's chromium and `pip install playwright`, or set CHROMIUM to the browser"
    )
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(message)
    pytest.skip(message)


# Of a module, not of the session: Playwright's event loop runs as long as it lives, and other tests need their own.
@pytest.fixture(scope="module")
def browser():
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not executable:
        _need("chromium")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not everybody has it
    except ModuleNotFoundError:
        _need("playwright")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=_CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Write each sample report once; gives its path by name."""
    directory = tmp_path_factory.mktemp("reports")

    def write(name):
        path = directory / f"{name}.html"
        if not path.exists():
            write_report(getattr(sample_results, f"{name}_result")(), path)
        return path

    return write


@pytest.fixture
def make_report(tmp_path):
    """Write a comparison whose both sides have these stacks; gives its path."""

    def make(stacks, *, classes=(), threads=()):
        profile = RoleProfile(role="rank-0", samples=100, trials=2, stacks=stacks, classes=classes, threads=threads)
        path = tmp_path / "made.html"
        result = sample_results.compare_result(
            baseline_profiles=(profile,), candidate_profiles=(profile,), grown_frames=()
        )
        return write_report(result, path)

    return make


class _Tab:
    """A page of a window that goes from test to test: opening one takes longer than most tests.

    `allowed` is the one address that it may ask for; `note` takes what it asks for, says or does besides.
    """

    def __init__(self, page, scheme):
        self.page = page
        self._scheme = scheme
        self.rest()
        page.route("**/*", self._route)
        page.on("console", lambda message: None if _READBACK in message.text else self.note(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.note(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.note(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _route(self, asked):
        if asked.request.url == self.allowed:
            asked.continue_()
        else:
            self.note(f"request: {asked.request.url}")
            asked.abort()

    def rest(self):
        """Forget the page that was shown, and what a test did to the window."""
        self.page.goto("about:blank")
        self.page.mouse.move(0, 0)
        self.page.emulate_media(media="screen", color_scheme=self._scheme)
        self.allowed, self.note = "", lambda _trouble: None


@pytest.fixture(scope="module")
def tabs(browser):
    """Lend a tab of a window of a size and a colour scheme; gives (lend, take back)."""
    contexts, resting = {}, {}

    def lend(width, scheme, script):
        key = width, scheme, script
        if resting.get(key):
            return resting[key].pop()
        if key not in contexts:
            contexts[key] = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
            )
        return _Tab(contexts[key].new_page(), scheme)

    def take_back(tab, width, scheme, script):
        tab.rest()
        resting.setdefault((width, scheme, script), []).append(tab)

    yield lend, take_back
    for context in contexts.values():
        context.close()


@pytest.fixture
def visit(tabs, written):
    """Open a report; unless `watched` is False it must ask for nothing, run nothing and complain of nothing.

    `name` is a sample's, or a path.
    """
    lend, take_back = tabs
    lent, troubles = [], []

    def go(name, *, width=1200, scheme="light", script=True, watched=True, link=""):
        tab = lend(width, scheme, script)
        lent.append((tab, width, scheme, script))
        tab.allowed = (name if isinstance(name, Path) else written(name)).as_uri()
        tab.note = troubles.append if watched else tab.note
        page = tab.page
        page.goto(tab.allowed + link)
        if script and page.locator("#flame-app").count():
            page.locator("#flame-app:not([hidden])").wait_for()
            page.locator("#flame-count", has_text="function").wait_for()
        return page

    yield go
    for each in lent:
        take_back(*each)
    assert troubles == []
