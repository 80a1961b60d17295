"""The files that the page makes itself: they arrive under the page's policy, and hold what the view shows."""

from __future__ import annotations

import csv
import io
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest
import sample_results as samples
from viewer_page import bar, bars, choose, click, search

SCHEMA = Path(__file__).parents[1] / "unit" / "report" / "speedscope-file-format-schema.json"
SVG = "{http://www.w3.org/2000/svg}"


def download(page, form):
    page.locator("details.options").evaluate("each => { each.open = true; }")
    with page.expect_download() as waiting:
        page.locator(f"[data-download={form}]").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_text(encoding="utf-8")


def parse(text):
    return ET.fromstring(text)  # noqa: S314 - our own page made it


def folded(text):
    return {tuple(line.rpartition(" ")[0].split(";")): int(line.rpartition(" ")[2]) for line in text.splitlines()}


def test_folded_stacks_of_the_side_that_is_looked_at(visit):
    page = visit("bisect")
    choose(page, "lines", value=True)
    name, text = download(page, "folded")
    assert name == "perfguard-rank-0-after.folded"
    expected = {frames: round(ms * 1e6) for frames, ms in samples.after_profiles()[0].stacks}
    assert folded(text) == expected
    page.locator("[data-view=before]").click()
    name, text = download(page, "folded")
    assert name == "perfguard-rank-0-before.folded"
    assert sum(folded(text).values()) == pytest.approx(8.2e6)


def test_speedscope_gets_both_sides_by_its_own_schema(visit):
    page = visit("bisect")
    choose(page, "role", "*ranks")
    choose(page, "invert", value=True)  # an inverted picture is still a profile from the root down
    _, text = download(page, "speedscope")
    document = json.loads(text)
    jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="utf-8")))
    totals = [sum(profile["weights"]) for profile in document["profiles"]]
    assert totals == pytest.approx([18.4, 25.85])
    roots = {document["shared"]["frames"][stack[0]]["name"] for stack in document["profiles"][1]["samples"]}
    assert roots == {"<module>"}


def test_csv_of_the_functions_under_the_zoom(visit):
    page = visit("bisect")
    click(page, "_process_and_broadcast")
    name, text = download(page, "csv")
    assert name == "perfguard-rank-0.csv"
    rows = {row["function"].split(" ")[0]: row for row in csv.DictReader(io.StringIO(text))}
    assert len(rows) == 5
    assert float(rows["broadcast_object_list"]["self_after_ms_per_request"]) == pytest.approx(1.4)
    assert rows["broadcast_object_list"]["verdict"] == "significant"
    assert rows["tensor_hash"]["verdict"] == "not tested"


def test_svg_is_the_picture_that_is_seen(visit):
    page = visit("bisect")
    click(page, "handle_generate")
    search(page, "object")
    name, text = download(page, "svg")
    assert name == "perfguard-rank-0.svg"
    root = parse(text)
    titles = [each.text for each in root.iter(f"{SVG}title")]
    assert len(titles) == len(bars(page))
    assert any(title.startswith("broadcast_object_list (") for title in titles)
    assert not list(root.iter(f"{SVG}script"))
    whole = bar(page, "all of")["width"]
    grown = next(
        group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}title").text.startswith("broadcast_object_list")
    )
    drawn = float(grown.find(f"{SVG}rect").get("width")) / 1200
    assert math.isclose(drawn, bar(page, "broadcast_object_list")["width"] / whole, abs_tol=0.002)
    assert grown.findall(f"{SVG}rect")[1].get("fill") == "url(#grew)"


@pytest.mark.parametrize("form", ["folded", "speedscope", "csv", "svg"])
def test_hostile_names_arrive_as_text(visit, form):
    page = visit("hostile")
    _, text = download(page, form)
    if form == "svg":
        assert any(samples.HOSTILE in (each.text or "") for each in parse(text).iter(f"{SVG}title"))
    elif form == "speedscope":
        assert {"name": samples.HOSTILE} in json.loads(text)["shared"]["frames"]
    elif form == "csv":
        assert samples.HOSTILE in {row["function"] for row in csv.DictReader(io.StringIO(text))}
    else:
        assert any(samples.HOSTILE in stack for stack in folded(text))
