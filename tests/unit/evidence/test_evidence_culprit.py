from __future__ import annotations

import pytest

from perfguard.evidence.cost import StackCosts
from perfguard.evidence.culprit import link_culprit
from perfguard.model.profile import Frame
from perfguard.model.revision import Hunk

SCHEDULER = "sglang/srt/managers/scheduler.py"


def frame(function, line, file=SCHEDULER):
    return Frame(function=function, file=file, line=line)


LOOP = frame("loop", 10)
PICKLE = frame("broadcast", 50, "torch/distributed/c10d.py")


def side(working, *, role="rank-0", trials=2):
    costs = StackCosts(role=role, requests=1, samples=500, working=working, polling={}, unsampled_ms=0.0)
    return [{role: costs}] * trials


def hunk(text, *, old=100, new=100, path=f"python/{SCHEDULER}"):
    lines = text.splitlines()
    return Hunk(
        path=path,
        old_start=old,
        old_lines=sum(line[:1] in " -" for line in lines),
        new_start=new,
        new_lines=sum(line[:1] in " +" for line in lines),
        text=text,
    )


def test_growth_under_an_added_line_is_said_with_its_share():
    before = side({(LOOP, frame("handle", 100)): 5.0})
    after = side({(LOOP, frame("handle", 100)): 8.9, (LOOP, frame("handle", 102), PICKLE): 6.1})

    link = link_culprit([hunk(" a\n b\n+    ship(x)\n+    more()\n c")], before, after, label="17a57fd86")

    assert link.growth_ms == pytest.approx(10.0)
    assert link.share == pytest.approx(0.61)
    assert link.lines[0].line == 102
    assert link.sentence == (
        f"17a57fd86 added line 102 of python/{SCHEDULER} (handle); 61% of the growth of 10.00 ms/request is under it."
    )


def test_several_added_lines_count_a_stack_once_for_the_innermost():
    nested = (LOOP, frame("handle", 102), frame("helper", 103), PICKLE)
    after = side({(LOOP,): 1.0, nested: 4.0})

    link = link_culprit([hunk(" a\n b\n+x\n+y")], side({(LOOP,): 1.0}), after)

    assert link.under_ms == pytest.approx(4.0)
    assert (link.share, [(line.line, line.growth_ms) for line in link.lines]) == (1.0, [(103, 4.0)])


def test_a_replaced_line_is_charged_with_what_it_costs_more():
    before = side({(LOOP, frame("handle", 100)): 4.0})
    after = side({(LOOP, frame("handle", 100)): 6.0})

    link = link_culprit([hunk("-old\n+new")], before, after)

    assert link.under_ms == pytest.approx(2.0)
    assert link.lines[0].growth_ms == pytest.approx(2.0)
    assert "changed line 100" in link.sentence
    assert "100% of the growth of 2.00 ms/request" in link.sentence


def test_a_replaced_line_that_costs_the_same_explains_nothing():
    before = side({(LOOP, frame("handle", 100)): 4.0, (LOOP, PICKLE): 1.0})
    after = side({(LOOP, frame("handle", 100)): 4.0, (LOOP, PICKLE): 3.0})

    link = link_culprit([hunk("-old\n+new")], before, after)

    assert link.share == 0.0
    assert link.sentence.startswith("No changed line is on a grown stack")


def test_no_changed_line_on_a_grown_stack_points_at_dependencies():
    hunks = [hunk("+torch==2.13", path="python/pyproject.toml", new=3), hunk("+x", new=900)]

    link = link_culprit(hunks, side({(LOOP, PICKLE): 1.0}), side({(LOOP, PICKLE): 3.0}))

    assert link.manifests == ("python/pyproject.toml",)
    assert link.sentence == (
        "No changed line is on a grown stack; it changes python/pyproject.toml: look at dependencies, settings or data."
    )


def test_a_changed_function_that_grew_is_named_where_none_of_its_changed_lines_was_seen():
    before = side({(LOOP, frame("handle", 101), PICKLE): 1.0})
    after = side({(LOOP, frame("handle", 102), PICKLE): 3.0})

    link = link_culprit([hunk(" a\n+    cache = None\n b")], before, after, label="the commit")

    assert link.functions[0] == f"handle ({SCHEDULER})"
    assert "the commit changed handle" in link.sentence


def test_nothing_grew():
    link = link_culprit([hunk("+x")], side({(LOOP,): 3.0}), side({(LOOP,): 1.0}))

    assert (link.share, link.under_ms) == (0.0, 0.0)
    assert link.sentence == "No role costs more per request after the commit, so there is no growth to explain."


def test_a_commit_without_text():
    link = link_culprit([], side({(LOOP,): 1.0}), side({(LOOP,): 2.0}))

    assert link.sentence == "The commit changes no text: look at dependencies, data or the build."


def test_a_role_that_shrank_hides_no_growth():
    stacks = ({(LOOP,): 5.0}, {(LOOP,): 1.0}), ({(LOOP,): 1.0}, {(LOOP,): 1.0, (LOOP, frame("handle", 100)): 2.0})
    before = [{**side(stacks[0][0], role="tokenizer")[0], **side(stacks[1][0])[0]}]
    after = [{**side(stacks[0][1], role="tokenizer")[0], **side(stacks[1][1])[0]}]

    link = link_culprit([hunk("+x")], before, after)

    assert (link.growth_ms, link.share) == (2.0, 1.0)


def test_roles_add_up():
    def both(cost_ms):
        stacks = {(LOOP, frame("handle", 100), PICKLE): cost_ms} if cost_ms else {(LOOP,): 0.0}
        zero, one = side(stacks)[0], side(stacks, role="rank-1")[0]
        return [{**zero, **one}]

    link = link_culprit([hunk("+x")], both(0.0), both(2.0))

    assert link.growth_ms == pytest.approx(4.0)
    assert {line.role for line in link.lines} == {"rank-0", "rank-1"}
    assert "100% of the growth of 4.00 ms/request" in link.sentence


@pytest.mark.parametrize("file", [SCHEDULER, f"python/{SCHEDULER}", f"/trees/abc/python/{SCHEDULER}"])
def test_frames_name_a_changed_file_in_several_ways(file):
    after = side({(frame("handle", 100, file),): 2.0})

    assert link_culprit([hunk("+x")], side({(LOOP,): 0.0}), after).share == 1.0


@pytest.mark.parametrize("file", ["scheduler2.py", "managers/scheduler.pyx", "", "other/scheduler.py"])
def test_other_files_do_not_match(file):
    after = side({(frame("handle", 100, file),): 2.0})

    assert link_culprit([hunk("+x")], side({(LOOP,): 0.0}), after).lines == ()
