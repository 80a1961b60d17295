"""The page in a real browser: nothing leaves it, and it can be read in light, dark, narrow and printed."""

from __future__ import annotations

import re

import pytest

EVERY = ["bisect", "no_change", "unknown", "compare", "run", "hostile"]


@pytest.mark.parametrize("name", EVERY)
def test_every_report_opens_quietly_and_fits_the_window(visit, name):
    for width in (1200, 390):
        page = visit(name, width=width)
        assert page.locator(".banner").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_policy_stops_what_escaping_might_let_through(visit):
    page = visit("bisect", watched=False)  # the browser tells every block on the console
    blocked = page.evaluate(
        """() => new Promise((done) => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (event) => {
              seen.push(event.effectiveDirective);
              if (seen.length === 2) done(seen.sort());
            });
            const script = document.createElement("script");
            script.textContent = "window.foreign = 1";
            document.body.append(script);
            const image = new Image();
            image.src = "https://example.org/x.png";
            document.body.append(image);
        })"""
    )
    assert blocked == ["img-src", "script-src-elem"]
    assert page.evaluate("window.foreign") is None


def test_without_javascript_the_tables_stay(visit):
    page = visit("bisect", script=False)
    assert page.locator("noscript").inner_text().startswith("The flamegraph needs JavaScript")
    assert not page.locator("#flame-app").is_visible()
    assert page.locator("button.show").first.is_hidden()
    assert page.locator("#frames table").is_visible()


def luminance(colour):
    channels = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


CONTRASTS = """() => {
  const colours = [];
  const backdrop = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const written = "p, td, th, h1, h2, h3, li, a, button, .tag, .key, dt, dd, .diff span";
  for (const node of document.querySelectorAll(written)) {
    if (node.offsetParent === null || !node.textContent.trim() || node.disabled || node.closest(":disabled")) continue;
    colours.push([node.className + " " + node.tagName, getComputedStyle(node).color, backdrop(node)]);
  }
  return colours;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["bisect", "unknown"])
def test_text_can_be_read_in_light_and_dark(visit, scheme, name):
    page = visit(name, scheme=scheme)
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 20
    for what, ink, ground in found:
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (what, ink, ground)


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_screenshots_are_not_blank(visit, width, scheme, tmp_path):
    page = visit("bisect", width=width, scheme=scheme)
    shot = page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert len(shot) > 50_000
    assert page.locator("#flame-graph").bounding_box()["width"] <= width
    assert page.locator("#flame-rows tr").count() > 10


def test_print_leaves_out_the_controls(visit):
    page = visit("bisect")
    page.emulate_media(media="print")
    assert not any(each.is_visible() for each in page.locator(".tools, .options, .show, #flame-path").all())
    assert page.locator(".banner .sentence").is_visible()
    assert page.locator("#flame-graph").is_visible()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_first_screen_answers_and_leads_to_the_stack(visit, width, height):
    page = visit("bisect", width=width)
    answers = page.locator(".answers div")
    assert answers.count() == 4
    for place in range(4):
        box = answers.nth(place).bounding_box()
        assert box["y"] + box["height"] <= height
        assert box["x"] + box["width"] <= width
    answers.last.locator("button.show").click()
    assert page.locator("#flame-search").input_value()
    assert "match" in page.locator("#flame-matches").inner_text()


def test_the_first_screen_says_what_to_do_and_leads_there(visit):
    page = visit("bisect")
    assert page.locator(".question").inner_text().startswith("Which of the 127 changes")
    assert page.locator(".effect-bar").is_visible()
    links = page.locator("ol.steps a")
    assert links.count() == 3
    for place in range(links.count()):
        anchor = links.nth(place).get_attribute("href")
        links.nth(place).click()
        assert page.evaluate("location.hash") == anchor
        assert page.locator(anchor).is_visible()
    page = visit("run")
    assert page.locator("ol.steps, .effect-bar").count() == 0


def test_a_page_is_walked_by_the_keyboard_alone(visit):
    page = visit("bisect")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    for _ in range(3):  # past the skip link's target: the first thing in the verdict is the way to the stack
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "show":
            break
    page.keyboard.press("Enter")
    page.locator("#flame-matches", has_text="match").wait_for()
    searched = page.locator("#flame-search").input_value()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "flame-search"
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert searched
    assert page.locator("#flame-search").input_value() == ""
