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


@pytest.fixture(scope="module")
def window(browser):
    """A window of a size and a colour scheme; one of each is kept, since making one takes longer than most tests."""
    contexts = {}

    def of(width, scheme, script):
        if (width, scheme, script) not in contexts:
            contexts[width, scheme, script] = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
            )
        return contexts[width, scheme, script]

    yield of
    for context in contexts.values():
        context.close()


@pytest.fixture
def visit(window, written):
    """Open a report; unless `watched` is False it must ask for nothing, run nothing and complain of nothing.

    `name` is a sample's, or a path.
    """
    pages, troubles = [], []

    def go(name, *, width=1200, scheme="light", script=True, watched=True, link=""):
        url = (name if isinstance(name, Path) else written(name)).as_uri()
        note = troubles.append if watched else (lambda _trouble: None)

        def route(asked):
            if asked.request.url == url:
                asked.continue_()
            else:
                note(f"request: {asked.request.url}")
                asked.abort()

        page = window(width, scheme, script).new_page()
        pages.append(page)
        page.route("**/*", route)
        page.on("console", lambda message: None if _READBACK in message.text else note(f"console: {message.text}"))
        page.on("pageerror", lambda error: note(f"error: {error}"))
        page.on("dialog", lambda dialog: (note(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(url + link)
        if script and page.locator("#flame-app").count():
            page.locator("#flame-app:not([hidden])").wait_for()
            page.locator("#flame-count", has_text="function").wait_for()
        return page

    yield go
    for page in pages:
        page.close()
    assert troubles == []
