"""axe-core finds no serious problem on any page, in light and dark, wide and narrow, and with the viewer in use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from importlib import util
from pathlib import Path

import pytest
import sample_results as samples
from gil_report import layers, write_gil_report
from viewer_page import choose, click, hover, search

from perfguard.report.index_page import write_index
from perfguard.report.profile_page import write_profile

NEEDED = "axe-core is missing: `pip install axe-playwright-python`, or set AXE_CORE to its axe.min.js"
RUN = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  const shown = (nodes) => nodes.slice(0, 3).map((node) => node.html.slice(0, 160));
  return violations.map(({ id, impact, nodes }) => [impact, id, shown(nodes)]);
}"""


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """axe-core's source: of AXE_CORE, of the Python package that carries it, or of npm."""
    if named := os.environ.get("AXE_CORE"):
        return Path(named).read_text(encoding="utf-8")
    spec = util.find_spec("axe_playwright_python")
    if spec is not None and spec.origin is not None:
        for found in Path(spec.origin).parent.rglob("axe*.js"):
            return found.read_text(encoding="utf-8")
    if shutil.which("npm"):
        place = tmp_path_factory.mktemp("axe")
        packed = subprocess.run(["npm", "pack", "axe-core@4"], cwd=place, capture_output=True, check=False, timeout=120)
        if packed.returncode == 0:
            (archive,) = place.glob("axe-core-*.tgz")
            with tarfile.open(archive) as opened, opened.extractfile("package/axe.min.js") as source:
                return source.read().decode()
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(NEEDED)
    return pytest.skip(NEEDED)


def problems(page, axe):
    page.evaluate(axe)
    return [each for each in page.evaluate(RUN) if each[0] in {"serious", "critical", "moderate"}]


@pytest.mark.parametrize("name", ["unknown", "compare", "run", "strategies", "hostile"])
def test_every_page(visit, axe, name):
    assert problems(visit(name), axe) == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_light_dark_wide_and_narrow(visit, axe, width, scheme):
    page = visit("bisect", scheme=scheme, width=width)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert problems(page, axe) == []


def test_the_other_pages(visit, axe, tmp_path):
    profile = write_profile(samples.profile_report(), tmp_path / "profile.html")
    index = write_index(samples.index_entries(), tmp_path / "index.html")
    for path, scheme in ((profile, "light"), (index, "dark")):
        assert problems(visit(path, scheme=scheme), axe) == []


def test_the_viewer_in_use(visit, axe):
    page = visit("bisect")
    choose(page, "unit", "share")
    search(page, "object")
    click(page, "broadcast_object_list", shift=True)
    assert problems(page, axe) == []
    page.keyboard.press("?")
    assert problems(page, axe) == []


def test_the_gil_its_layers_and_threads(visit, axe, tmp_path):
    page = visit(write_gil_report(tmp_path / "gil.html", layers(1.0), layers(2.0)), width=390)
    assert page.locator("#gil tbody").first.locator("tr").count() == 2
    choose(page, "layer", "wait")
    choose(page, "thread", "pool_0")
    assert page.locator("#flame-meanwhile").inner_text()
    hover(page, "poll")
    assert problems(page, axe) == []
    page.emulate_media(color_scheme="dark")
    assert problems(page, axe) == []


def test_axe_does_find_what_is_wrong(visit, axe):
    page = visit("bisect")
    page.evaluate(
        "document.getElementById('flame-search').closest('label').replaceWith(document.createElement('input'))"
    )
    assert {each[1] for each in problems(page, axe)} >= {"label"}
