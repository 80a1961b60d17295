"""The flamegraph viewer in a real browser: every interaction does what it says."""

from __future__ import annotations

import re

import pytest
import sample_results as samples
from viewer_page import bar, bars, choose, click, hover, names, pixel, rows, search

from perfguard.report.render import write_report


def crumbs(page):
    return page.locator("#flame-path button").all_inner_texts()


def test_the_difference_opens_on_the_role_that_changed_most_and_colours_it(visit):
    page = visit("bisect")
    grown = bar(page, "broadcast_object_list")
    assert grown["tone"].startswith("grew-")
    assert grown["label"].startswith("+ broadcast_object_list +4.50 ms (")
    # Its callee was not among the tested functions: grey and without a number, whatever its size.
    assert bar(page, "_object_to_tensor")["tone"] == "noise"
    assert bar(page, "_object_to_tensor")["label"].startswith("_object_to_tensor (")
    assert "12.8 after" in page.locator("#flame-status").inner_text()
    page.locator("#flame-all").check()
    assert bar(page, "_object_to_tensor")["tone"].startswith("grew-")


def test_colours_are_blue_and_orange_with_stripes_and_noise_is_grey(visit):
    page = visit("bisect")
    page.locator("#flame-scroll").scroll_into_view_if_needed()

    def seen(text):
        each = bar(page, text)
        return {tuple(pixel(page, each["x"] + each["width"] - 40 + step, each["y"] + 3)) for step in range(16)}

    grown = seen("_process_and_broadcast")
    assert len(grown) > 2  # the stripes
    assert all(red > green > blue for red, green, blue, _ in grown)
    assert len(seen("forward_batch")) == 1
    red, green, blue, _ = seen("forward_batch").pop()
    assert max(red, green, blue) - min(red, green, blue) < 12
    page.locator("#flame-role").select_option("rank-1")
    page.locator("#flame-width").select_option("before")
    assert all(blue > green > red for red, green, blue, _ in seen("from_dict"))


def test_a_place_that_moved_against_its_function_is_grey(visit):
    page = visit("bisect")
    page.evaluate("location.hash = '#flame:role=*ranks&width=both'")
    page.locator("#flame-status", has_text="before").wait_for()
    gone = bar(page, "from_dict")
    # from_dict shrank significantly as a function; here it stands under a caller where it is new.
    places = [each for each in bars(page) if each["name"] == gone["name"]]
    assert sorted(each["tone"].split("-")[0] for each in places) == ["noise", "shrank"]


def test_a_line_that_moved_is_the_same_function(visit):
    page = visit("bisect")
    (loop,) = [each for each in bars(page) if "event_loop_overlap" in each["name"]]
    assert "before 8.20, after 12.8" in loop["spoken"]
    choose(page, "lines", value=True)
    (loop,) = [each for each in bars(page) if "event_loop_overlap" in each["name"]]
    assert "before 0, after 12.8" in loop["spoken"]
    assert ":941)" in loop["label"]


def test_a_removed_stack_shows_by_the_time_before_and_in_its_own_view(visit):
    page = visit("bisect")
    page.locator("#flame-role").select_option("rank-1")
    assert not any("from_dict" in name for name in names(page))
    page.locator("#flame-width").select_option("before")
    assert bar(page, "from_dict")["label"].startswith("- from_dict -2.20 ms")
    page.locator("#flame-width").select_option("after")
    page.locator("[data-view=removed]").click()
    gone = names(page)
    assert any("tensor_hash" in name for name in gone)
    assert not any("forward_batch" in name or "broadcast_object" in name for name in gone)
    page.locator("[data-view=added]").click()
    new = names(page)
    assert any("broadcast_object_list" in name for name in new)
    assert not any("forward_batch" in name or "tensor_hash" in name for name in new)
    whole, part = bars(page)[0], bar(page, "broadcast_object_list")
    assert part["width"] == pytest.approx(whole["width"], abs=0.5)  # all that was added lies under it
    listed = {row[0].split(" ")[0]: row[1:3] for row in rows(page)}
    assert listed.keys() == {"_process_and_broadcast_mm_inputs", "broadcast_object_list"}
    assert all(cost == ["0", "5.20"] for cost in listed.values())


def test_without_any_significant_change_the_busiest_process_opens(visit, tmp_path):
    path = write_report(samples.bisect_result(grown_frames=()), tmp_path / "r.html")
    page = visit(path)
    assert page.locator("#flame-role").input_value() == "rank-1"
    assert {each["tone"] for each in bars(page)} == {"noise"}


def test_the_width_is_the_share(visit):
    page = visit("bisect")
    page.locator("[data-view=after]").click()
    whole = bars(page)[0]["width"]
    assert bar(page, "forward_batch")["width"] / whole == pytest.approx(3.55 / 12.75, abs=0.001)
    page.locator("[data-view=before]").click()
    assert bar(page, "forward_batch")["width"] / whole == pytest.approx(3.6 / 8.2, abs=0.001)
    assert page.locator("[data-view=before]").get_attribute("aria-pressed") == "true"
    assert not page.locator("#flame-legend").is_visible()
    assert {each["tone"][:4] for each in bars(page)[1:]} == {"bar-"}


def test_zoom_path_and_escape(visit):
    page = visit("bisect")
    everything = len(bars(page))
    click(page, "_process_and_broadcast")
    assert bar(page, "_process_and_broadcast")["width"] == pytest.approx(bars(page)[0]["width"])
    assert len(crumbs(page)) == 7
    assert len(bars(page)) < everything
    page.locator("#flame-path button", has_text="handle_generate").click()
    assert len(crumbs(page)) == 6
    page.keyboard.press("Escape")
    assert len(bars(page)) == everything
    assert crumbs(page) == ["all of rank-0"]


def test_search_counts_nothing_twice(visit):
    page = visit("bisect")
    page.locator("[data-view=after]").click()
    page.keyboard.press("/")
    page.keyboard.type("MM_INPUTS")
    matches = page.locator("#flame-matches")
    matches.filter(has_text="1 match").wait_for()
    assert matches.inner_text() == "1 match, 52.5% of the zoom (6.70 ms per request)"
    assert [each["name"][:9] for each in bars(page) if each["isMatch"]] == ["_process_"]
    # handle_generate_request (7.2 ms) holds mm_inputs: together they are 7.2 ms, not 13.9
    page.locator("#flame-regex").check()
    page.locator("#flame-search").fill("handle_generate|mm_inputs")
    matches.filter(has_text="2 matches").wait_for()
    assert "(7.20 ms per request)" in matches.inner_text()
    assert len(rows(page)) == 2
    page.locator("#flame-search").fill("(")
    matches.filter(has_text="not a regular expression").wait_for()
    page.locator("#flame-reset").click()
    assert matches.inner_text() == ""
    assert not any(each["isMatch"] or each["isDim"] for each in bars(page))


def test_a_file_and_line_are_found_exactly(visit):
    page = visit("bisect")
    page.locator("[data-view=after]").click()
    assert search(page, "scheduler.py:1201").startswith("1 match, 56.5%")
    assert page.locator("#flame-lines").is_checked()
    assert search(page, "scheduler.py:120").startswith("0 matches, 0.00%")


def test_next_and_previous_match_walk_around_and_zoom_where_needed(visit):
    page = visit("bisect")
    search(page, "broadcast")
    focused = page.locator("#flame-say")
    page.locator("#flame-next").click()
    assert page.locator("#flame-matches").inner_text().startswith("match 1 of 3 matches")
    first = focused.inner_text()
    page.keyboard.press("n")
    assert page.locator("#flame-matches").inner_text().startswith("match 2 of 3")
    page.keyboard.press("N")
    assert focused.inner_text() == first
    page.locator("#flame-previous").click()
    assert page.locator("#flame-matches").inner_text().startswith("match 3 of 3")
    assert "broadcast_pyobj" in focused.inner_text()
    page.locator("#flame-search").focus()
    page.keyboard.press("Enter")
    assert page.locator("#flame-matches").inner_text().startswith("match 1 of 3")
    assert page.evaluate("document.activeElement.id") == "flame-search"


def test_callers_and_callees_of_a_function(visit):
    page = visit("bisect")
    choose(page, "role", "*ranks")
    click(page, "broadcast_object_list", shift=True)
    drawn = {each["name"].split(" ")[0]: each for each in bars(page)}
    middle = drawn["broadcast_object_list"]
    assert drawn["_process_and_broadcast_mm_inputs"]["row"] < middle["row"] < drawn["_object_to_tensor"]["row"]
    assert drawn["handle_generate_request"]["row"] < drawn["_process_and_broadcast_mm_inputs"]["row"]
    # 4.5 ms on rank 0 through one caller, 5.2 on rank 1 directly under handle_generate_request's
    assert middle["spoken"].split(", ")[1:3] == ["before 0", "after 9.70 CPU ms per request"]
    assert "forward_batch_generation" not in drawn
    assert crumbs(page)[-1].startswith("callers and callees of broadcast_object_list")
    relations = {row[0].split(" ")[0]: row[1] for row in rows(page)}
    assert relations == {"_process_and_broadcast_mm_inputs": "caller", "_object_to_tensor": "callee"}
    click(page, "handle_generate_request")
    assert crumbs(page)[-1].startswith("callers and callees of handle_generate_request")
    page.locator("#flame-path button").first.click()
    assert crumbs(page) == ["all of 2 ranks, added up"]


def test_a_recursive_function_is_counted_once_a_stack(visit, make_report):
    stacks = (
        (("main (a.py:1)", "f (a.py:2)", "g (a.py:3)", "f (a.py:2)"), 3.0),
        (("main (a.py:1)", "f (a.py:2)"), 1.0),
    )
    page = visit(make_report(stacks))
    assert {row[0]: row[1:3] for row in rows(page)}["f (a.py)"] == ["4.00", "4.00"]
    page.locator("#flame-rows button", has_text="f (a.py)").first.click()
    root = next(each for each in bars(page) if each["name"] == "f (a.py)" and each["width"] > 100)
    assert "4.00" in root["spoken"]
    assert "main (a.py)" in names(page)


def test_equal_ranks_add_up(visit):
    page = visit("bisect")
    choose(page, "role", "*ranks")
    assert "25.8 after" in page.locator("#flame-status").inner_text()
    assert "10,400 samples" in page.locator("#flame-status").inner_text()
    tip = hover(page, "broadcast_object_list").inner_text()
    assert "rank-0: change: +4.00 to +5.10" in tip
    assert "rank-1: change: +4.70 to +5.90" in tip


def test_library_frames_can_be_hidden_and_the_total_stays(visit):
    page = visit("bisect")
    assert "all but sglang" in page.locator("#flame-own-name").text_content()
    before = page.locator("#flame-status").inner_text()
    choose(page, "own", value=True)
    shown = " ".join(names(page))
    assert "torch/" not in shown
    assert "multiprocessing/" not in shown
    assert "handle_generate_request" in shown
    assert page.locator("#flame-status").inner_text() == before
    assert {row[0].split(" ")[0]: row[5] for row in rows(page)}["_process_and_broadcast_mm_inputs"] == "+4.50"


def test_inverted_puts_what_ends_a_stack_first(visit):
    page = visit("bisect")
    page.locator("[data-view=after]").click()
    choose(page, "invert", value=True)
    first = {each["name"].split(" ")[0]: each for each in bars(page) if each["row"] == 1}
    assert "_object_to_tensor" in first
    assert "run_scheduler_process" not in first
    whole = bars(page)[0]["width"]
    assert first["_object_to_tensor"]["width"] / whole == pytest.approx(3.1 / 12.75, abs=0.001)
    under = min(
        each["row"] for each in bars(page) if each["name"].startswith("broadcast_object_list (") and each["row"] > 1
    )
    assert under == 2


def test_largest_first_and_callers_at_the_bottom(visit):
    page = visit("bisect")
    page.locator("[data-view=after]").click()
    choose(page, "sort", "weight")
    row = bar(page, "forward_batch")["row"]
    widths = [each["width"] for each in sorted(bars(page), key=lambda each: each["x"]) if each["row"] == row]
    assert widths == sorted(widths, reverse=True)
    assert bars(page)[0]["y"] < bar(page, "forward_batch")["y"]
    choose(page, "flip", value=True)
    root = next(each for each in bars(page) if each["name"] == "all of rank-0")
    assert root["y"] > bar(page, "forward_batch")["y"]


def test_units_share_and_samples(visit):
    page = visit("bisect")
    choose(page, "unit", "share")
    assert "100 before" in page.locator("#flame-status").inner_text()
    assert "this unit was not tested" in page.locator("#flame-status").inner_text()
    choose(page, "unit", "samples")
    assert "samples, about: 5,200 before" in page.locator("#flame-status").inner_text()
    assert "total 0 1,835 +1,835 new" in re.sub(r"\s+", " ", hover(page, "broadcast_object_list").inner_text())


def test_kinds_of_work_can_be_told_apart(visit, make_report):
    stacks = ((("f (a.py:1)", "g (a.py:2)"), 3.0), (("f (a.py:1)",), 1.0))
    page = visit(make_report(stacks, classes=("pickle", "other")))
    assert page.locator("#flame-class option").all_text_contents() == ["all work", "other", "pickle"]
    choose(page, "class", "pickle")
    assert "3.00 before" in page.locator("#flame-status").inner_text()
    choose(page, "class", "other")
    assert names(page)[1:] == ["f (a.py)"]
    page = visit("bisect")  # its stacks were not classed
    assert page.locator("#flame-class").is_hidden()


def test_threads_can_be_told_apart(visit, make_report):
    stacks = ((("f (a.py:1)", "g (a.py:2)"), 3.0), (("f (a.py:1)",), 1.0))
    page = visit(make_report(stacks, threads=("MainThread", "pool_0")))
    assert page.locator("#flame-class").is_hidden()
    assert page.locator("#flame-thread option").all_text_contents() == ["all threads", "MainThread", "pool_0"]
    choose(page, "thread", "MainThread")
    assert "3.00 before" in page.locator("#flame-status").inner_text()
    choose(page, "thread", "pool_0")
    assert names(page)[1:] == ["f (a.py)"]
    assert page.evaluate("location.hash") == "#flame:thread=pool_0"
    page.locator("#flame-thread").select_option("")
    assert "4.00 before" in page.locator("#flame-status").inner_text()


def test_the_gil_is_told_beside_the_graph_of_one_process(visit, tmp_path):
    parent, culprit = samples.revision(63), samples.revision(64)
    trials = (
        samples.completed(1, 1, parent, 150.0, gil=(samples.role_gil("rank-0", 0.5, 0.02),)),
        samples.completed(2, 1, culprit, 120.0, gil=(samples.role_gil("rank-0", 0.4, 0.22),)),
    )
    page = visit(write_report(samples.bisect_result(trials=trials), tmp_path / "gil.html"))
    told = page.locator("#flame-gil")
    assert "MainThread, holds it 50.0% → 40.0% and waits for it 2.00% → 22.0% of the time" in told.inner_text()
    page.locator("[data-view=after]").click()
    assert "waits for it 22.0% of the time." in told.inner_text()
    choose(page, "role", "*ranks")
    assert told.inner_text() == ""
    assert page.locator("#gil tbody tr").count() == 2


def test_the_tooltip_tells_both_sides(visit):
    page = visit("bisect")
    tip = hover(page, "broadcast_object_list")
    assert tip.is_visible()
    text = re.sub(r"\s+", " ", tip.inner_text())
    assert "broadcast_object_list (torch/distributed/distributed_c10d.py)" in text
    assert "total 0 4.50 +4.50 new" in text
    assert "self 0 1.40 +1.40 new" in text
    assert "of the whole 0.00% 35.3%" in text
    assert "change: +4.00 to +5.10 ms per request (whole function), significant" in text
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1200


def test_the_keyboard_walks_zooms_and_helps(visit):
    page = visit("bisect")
    said = page.locator("#flame-say")
    page.locator("#flame-graph").focus()
    for _ in range(5):
        page.keyboard.press("ArrowDown")
    assert said.inner_text().startswith("handle_generate_request")
    page.keyboard.press("ArrowLeft")
    assert said.inner_text().startswith("forward_batch")
    page.keyboard.press("ArrowLeft")  # nothing further left
    assert said.inner_text().startswith("forward_batch")
    page.keyboard.press("ArrowRight")
    assert page.locator("#flame-tip").is_visible()
    page.keyboard.press("Enter")
    assert crumbs(page)[-1].startswith("handle_generate_request")
    assert page.evaluate("document.activeElement.id") == "flame-graph"
    page.keyboard.press("ArrowUp")
    assert said.inner_text().startswith("event_loop_overlap")
    page.keyboard.press("s")
    assert crumbs(page)[-1].startswith("callers and callees of event_loop_overlap")
    page.keyboard.press("?")
    assert page.locator("#flame-help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#flame-help").is_visible()
    assert crumbs(page)[-1].startswith("callers and callees")  # that Escape closed the help only
    page.keyboard.press("Escape")
    assert crumbs(page) == ["all of rank-0"]


REACHABLE = """() => {
  const all = document.querySelectorAll("#flame-app :is(button, select, input), #flame-graph");
  return [...all].filter((each) => each.offsetParent && !each.disabled).map((each) => each.id || each.textContent);
}"""


def test_a_keyboard_alone_reaches_every_control(visit):
    page = visit("bisect")
    page.locator("details.options").evaluate("each => { each.open = true; }")
    wanted = set(page.evaluate(REACHABLE))
    page.locator("#flame-role").focus()
    reached = set()
    for _ in range(120):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    assert len(wanted) > 25
    assert wanted <= reached


def test_the_table_sorts_and_says_so(visit):
    page = visit("bisect")
    assert rows(page)[0][0].startswith("_object_to_tensor")  # its own code grew most
    heading = page.locator("#flame-columns th", has_text="Before")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    values = [float(row[1]) for row in rows(page)]
    assert values == sorted(values, reverse=True)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(row[1]) for row in rows(page)] == values[::-1]
    assert page.evaluate("document.activeElement.textContent").startswith("Before")
    page.locator("#flame-columns button", has_text="Function").click()
    listed = [row[0] for row in rows(page)]
    assert listed == sorted(listed)
    assert page.locator("#flame-count").get_attribute("aria-live") == "polite"
    assert page.locator("#flame-count").inner_text().startswith("13 functions")
    click(page, "_process_and_broadcast")
    assert len(rows(page)) == 5
    assert page.locator("#flame-caption").inner_text().startswith("Functions under _process_and_broadcast_mm_inputs")


def test_a_link_brings_the_view_back_also_to_a_report_made_anew(visit, make_report):
    page = visit("bisect")
    choose(page, "width", "both")
    choose(page, "lines", value=False)
    click(page, "_process_and_broadcast")
    search(page, "object")
    link = page.evaluate("location.hash")
    again = visit("bisect", link=link)
    assert crumbs(again) == crumbs(page)
    assert names(again) == names(page)
    assert again.locator("#flame-width").input_value() == "both"
    assert again.locator("#flame-matches").inner_text() == page.locator("#flame-matches").inner_text()
    # The path ends where the new report's stacks end; other numbers, other frames, same names above.
    stacks = tuple(
        (frames, 2 * ms) for frames, ms in samples.after_profiles()[0].stacks if "_process_and" not in str(frames)
    )
    other = visit(make_report(stacks), link=link)
    assert crumbs(other)[-1].startswith("handle_generate_request")
    assert "handle_generate_request" in names(other)[-1] or len(crumbs(other)) == 6
    page.evaluate("location.hash = '#flame:view=after&role=rank-1&zoom=nonsense&unit=bad&before=99&x=1'")
    page.locator("#flame-status", has_text="13.1").wait_for()
    assert crumbs(page) == ["all of rank-1"]


def test_a_changed_function_and_a_finding_lead_to_their_frames(visit):
    page = visit("bisect")
    page.locator("tr", has_text="from_dict").locator("button.show").first.click()
    assert page.locator("#flame-role").input_value() == "rank-1"
    page.locator("#flame-matches").filter(has_text="1 match").wait_for()
    page.locator(".finding button.show").first.click()
    assert page.locator("#flame-role").input_value() == "rank-0"
    assert page.locator("#flame-search").input_value() == samples.OBJECT_LIST
    assert page.locator("#flame-matches").inner_text().startswith("1 match, 35.3%")


def test_sides_can_be_chosen_in_a_table_of_revisions(visit):
    page = visit("run")
    assert page.locator("#flame-before").is_hidden()  # two revisions have profiles
    assert "No function's change was tested" in page.locator("#flame-status").inner_text()
    assert samples.revision(2).label in page.locator("#flame-status").inner_text()


def test_every_bar_says_what_it_is(visit):
    page = visit("bisect")
    assert all("ms per request" in each["spoken"] for each in bars(page))
    assert page.locator("#flame-graph").get_attribute("aria-roledescription") == "flamegraph"
    assert page.locator("svg.chart[role=img]").last.get_attribute("aria-label").startswith("Throughput per revision")


def test_hostile_names_stay_names(visit):
    page = visit("hostile")
    assert page.locator("img, iframe, object, embed").count() == 0
    assert page.evaluate("document.scripts.length") == 2
    assert samples.HOSTILE in bar(page, samples.HOSTILE[:20])["label"]
    click(page, "inner of __proto__")
    assert crumbs(page)[-1] == "inner of __proto__"
    page.keyboard.press("Escape")
    page.locator("#flame-role").select_option("__proto__")
    assert len(bars(page)) > 10
    assert samples.HOSTILE in hover(page, samples.HOSTILE[:20]).inner_text()
    search(page, "</script>")
    assert any(each["isMatch"] for each in bars(page))
    choose(page, "invert", value=True)
    assert any(samples.HOSTILE in row[0] for row in rows(page))


def test_a_stack_deeper_than_any_canvas_scrolls(visit, make_report):
    deep = tuple(f"f{n} (a.py:{n})" for n in range(3_000))
    page = visit(make_report(((deep, 1.0),)))
    assert len(bars(page)) == 3_001
    assert page.locator("#flame-scroll").bounding_box()["height"] < 800
    page.locator("#flame-graph").focus()
    for _ in range(60):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.getElementById('flame-scroll').scrollTop") > 300
    assert page.locator("#flame-say").inner_text().startswith("f59 ")
    focused = bar(page, "f59 ")
    assert page.locator("#flame-scroll").bounding_box()["y"] <= focused["y"]
    assert max(pixel(page, focused["x"] + 300, focused["y"] + 10)) > 0  # it was drawn there


def test_colours_follow_dark_and_print(visit):
    page = visit("bisect", scheme="dark")
    page.locator("#flame-scroll").scroll_into_view_if_needed()

    def brightness():
        each = bar(page, "forward_batch")
        return sum(pixel(page, each["x"] + each["width"] - 4, each["y"] + 3)[:3])

    assert brightness() < 300
    page.emulate_media(media="print")
    page.wait_for_timeout(50)
    assert brightness() > 500
    page.emulate_media(media="screen", color_scheme="light")
    page.wait_for_timeout(50)
    assert brightness() > 500
