from __future__ import annotations

import numpy as np
import pytest
from evidence_samples import Sources

from perfguard.evidence.cost import StackCosts
from perfguard.evidence.diff import ChangeKind, compare_profiles
from perfguard.evidence.matching import changed_functions, match_functions, rename
from perfguard.model.profile import Frame


def costs(stacks):
    """Costs of stacks given as {"function@file:line function@file": ms}."""
    return StackCosts(
        role="rank-0",
        requests=1,
        samples=1000,
        working={tuple(frame(each) for each in names.split()): cost_ms for names, cost_ms in stacks.items()},
        polling={},
        unsampled_ms=0.0,
    )


def frame(text):
    function, _, place = text.partition("@")
    file, _, line = (place or "app.py").partition(":")
    return Frame(function=function, file=file, line=int(line or 1))


def matched(before, after, sources=None):
    return match_functions([costs(before)], [costs(after)], sources)


def changes(before, after, sources=None):
    sides = [[{"rank-0": costs(side)}] * 3 for side in (before, after)]
    return {each.frame.frame: each for each in compare_profiles(*sides, confidence=0.95, sources=sources)}


def test_a_function_in_another_file_is_matched_by_its_name_and_caller():
    assert matched({"main load@old/io.py": 1.0}, {"main load@new/storage.py": 1.0}) == {
        ("load", "old/io.py"): ("load", "new/storage.py")
    }


def test_one_name_in_unrelated_places_is_not_one_function():
    assert matched({"main run@a.py leaf@a.py": 1.0}, {"other@x.py run@b.py": 1.0, "main": 1.0}) == {}


def test_everybodys_names_need_the_same_file_name():
    assert matched({"main <lambda>@a.py": 1.0}, {"main <lambda>@b.py": 1.0}) == {}
    assert matched({"main <lambda>@x/a.py": 1.0}, {"main <lambda>@y/a.py": 1.0}) == {
        ("<lambda>", "x/a.py"): ("<lambda>", "y/a.py")
    }


def test_several_of_one_name_go_where_their_file_went():
    before = {"main run@a.py helper@a.py": 1.0, "main run@b.py other@b.py": 1.0}
    after = {"main run@new/a.py helper@new/a.py": 1.0, "main run@new/b.py other@new/b.py": 1.0}

    found = matched(before, after)

    assert found["run", "a.py"] == ("run", "new/a.py")
    assert found["run", "b.py"] == ("run", "new/b.py")


def test_a_renamed_function_is_found_by_its_neighbours():
    assert matched({"main pack dump": 1.0}, {"main pack_all dump": 1.0}) == {("pack", "app.py"): ("pack_all", "app.py")}


def test_a_leaf_of_another_name_may_be_anything_without_sources():
    assert matched({"main pack": 1.0}, {"main hash_it": 1.0}) == {}


def test_sources_tell_a_renamed_leaf_from_a_new_one():
    body = "".join(f"    step_{n}(x)\n" for n in range(6))
    old = Sources({"app.py": f"def pack(x):\n{body}\n"})
    renamed = Sources({"app.py": f"def pack_all(x):\n{body}    last(x)\n"})
    new = Sources({"app.py": "def pack_all(x):\n    one(x)\n    two(x)\n    three(x)\n"})

    before, after = {"main pack@app.py:2": 1.0}, {"main pack_all@app.py:2": 1.0}

    assert matched(before, after, (old, renamed)) == {("pack", "app.py"): ("pack_all", "app.py")}
    assert matched(before, after, (old, new)) == {}


def test_renaming_keeps_costs_and_adds_up_what_becomes_one():
    both = costs({"main f@a.py": 1.0, "main f@b.py": 2.0})

    renamed = rename(both, {("f", "a.py"): ("f", "b.py")})

    assert renamed.working == {(frame("main"), frame("f@b.py")): 3.0}
    assert rename(both, {}) is both


def test_a_moved_function_is_compared_with_itself():
    found = changes({"main load@old/io.py": 2.0}, {"main load@new/storage.py": 3.0})

    load = found["load (new/storage.py)"]
    assert (load.frame.before_ms_per_request, load.frame.after_ms_per_request) == (2.0, 3.0)
    assert load.renamed_from == "load (old/io.py)"
    assert "load (old/io.py)" not in found


def test_work_that_moved_between_siblings_is_moved_on_both_ends():
    before = {"main serve parse": 5.0, "main serve send": 1.0}
    after = {"main serve parse": 1.0, "main serve send": 1.0, "main serve decode": 4.0}

    found = changes(before, after)

    assert found["decode (app.py)"].kind is ChangeKind.MOVED
    assert found["parse (app.py)"].kind is ChangeKind.MOVED
    assert found["serve (app.py)"].kind is ChangeKind.DID_NOT_GROW


def test_work_that_was_added_is_not_moved():
    found = changes({"main serve parse": 5.0}, {"main serve parse": 5.0, "main serve decode": 4.0})

    assert found["decode (app.py)"].kind is ChangeKind.EXPLAINS
    assert found["parse (app.py)"].kind is ChangeKind.DID_NOT_GROW
    assert found["main (app.py)"].kind is ChangeKind.MERE_CALLER


def test_work_that_went_away_did_not_move():
    found = changes({"main serve parse": 5.0, "main serve send": 5.0}, {"main serve send": 5.0})

    assert found["parse (app.py)"].kind is ChangeKind.DID_NOT_GROW
    assert found["parse (app.py)"].frame.significant


@pytest.mark.parametrize("growth", [0.0, 3.0])
def test_kinds_do_not_change_with_the_unit(growth):
    before, after = {"main a": 1.0, "main b": 2.0}, {"main a": 1.0 + growth, "main b": 2.0}
    scaled = [{name: 1000.0 * cost for name, cost in side.items()} for side in (before, after)]

    assert {name: each.kind for name, each in changes(before, after).items()} == {
        name: each.kind for name, each in changes(*scaled).items()
    }


OLD = """import os
def same(x):
    # said otherwise
    return x

def pack(x):
    def inner():
        return 1
    return sorted(inner(), key=lambda each: -each)

def gone():
    return 2
"""
NEW = """import sys
def same(x):
    return x

def pack(x):
    def inner():
        return 3
    return sorted(inner(), key=lambda each: -each)

def came():
    return 2
"""


def test_functions_that_do_not_read_the_same_have_changed():
    before = {
        "<module>@app.py:1 same@app.py:4": 1.0,
        "pack@app.py:9 A.<locals>.inner@app.py:8 c@<frozen>:1": 1.0,
        "gone@app.py:12": 1,
    }
    after = {
        "<module>@app.py:1 same@app.py:3": 1.0,
        "pack@app.py:8 A.<locals>.inner@app.py:7 c@<frozen>:1": 1.0,
        "came@app.py:11": 1,
    }

    found = changed_functions([costs(before)], [costs(after)], (Sources({"app.py": OLD}), Sources({"app.py": NEW})))

    # What is inside a function is part of it; a module is no function, and who has no file cannot have changed.
    assert found == {"pack (app.py)", "A.<locals>.inner (app.py)", "gone (app.py)", "came (app.py)"}


def test_a_file_that_is_new_or_the_same_needs_no_second_look():
    one = [costs({"same@app.py:4 pack@new.py:8": 1.0})]
    trees = (Sources({"app.py": OLD}), Sources({"app.py": OLD, "new.py": NEW}))

    assert changed_functions(one, one, trees) == {"pack (new.py)"}
    assert changed_functions(one, one, (trees[1], trees[1])) == frozenset()


def test_less_growth_is_enough_where_the_source_changed():
    rng = np.random.default_rng(1)
    names = [f"f{n}" for n in range(60)]

    def side(**extra):
        return [
            {"rank-0": costs({f"main {name}": float(rng.poisson(100)) + extra.get(name, 0.0) for name in names})}
            for _ in range(6)
        ]

    before, after = side(), side(f7=47.0)

    def marked(changed):
        found = compare_profiles(before, after, confidence=0.95, changed=changed)
        return {each.frame.frame for each in found if each.frame.significant}

    assert marked(()) == set()
    assert marked({"f7 (app.py)", "f8 (app.py)"}) == {"f7 (app.py)"}
    assert marked({f"{name} (app.py)" for name in names}) == set()
