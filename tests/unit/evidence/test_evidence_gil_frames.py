from __future__ import annotations

from dataclasses import replace

import pytest

from perfguard.evidence.gil_frames import (
    NOBODY,
    UNREAD,
    GilCosts,
    add_costs,
    gil_costs,
    gil_layers,
    most_waiting,
    read_costs,
    top_frames,
    with_names,
)
from perfguard.evidence.stacks import render_folded
from perfguard.model.gil_stacks import GilPair, GilStack, GilStacks
from perfguard.model.profile import Frame, Stack
from perfguard.model.threads import GilAnswer, ProcessTicks, ThreadTicks

LOOP, HELPER = 11, 12
ROOT = "main (server.py:1)"


def thread(tid, name, *, hold, wait, unknown=""):
    """A thread over ten seconds and 100 looks: it ran two seconds, and was blocked in 80 looks."""
    return ThreadTicks(
        tid=tid,
        name=name,
        observed_s=10.0,
        cpu_s=2.0,
        run_delay_s=0.0,
        voluntary_switches=0,
        involuntary_switches=0,
        ticks=100,
        blocked_ticks=80,
        gil_wait_ticks=wait,
        gil_hold_ticks=hold,
        gil_unknown=unknown,
    )


STACKS = GilStacks(
    stacks=(
        GilStack(tid=LOOP, frames=(ROOT, "parse (server.py:7)"), hold_ticks=30, wait_ticks=0),
        GilStack(tid=HELPER, frames=(ROOT, "poll (helper.py:3)"), hold_ticks=0, wait_ticks=30),
        GilStack(tid=HELPER, frames=(ROOT, "poll (helper.py:4)"), hold_ticks=5, wait_ticks=8),
        GilStack(tid=HELPER, frames=(), hold_ticks=5, wait_ticks=0),
    ),
    pairs=(GilPair(waiting=1, holding=0, ticks=30), GilPair(waiting=2, holding=None, ticks=8)),
    unread_hold_ticks=0,
    unread_wait_ticks=2,
)


def process(stacks=STACKS, **changes):
    told = ProcessTicks(
        pid=1,
        role="server",
        python="3.11",
        gil=GilAnswer.WATCHED,
        gil_reason="",
        ticks=100,
        gil_held_ticks=40,
        unknown_holder_ticks=0,
        ended=False,
        threads=(thread(LOOP, "loop", hold=30, wait=0), thread(HELPER, "helper", hold=10, wait=40)),
        gil_stacks=stacks,
    )
    return replace(told, **changes)


def seconds(stacks):
    return {stack.frames[-1]: stack.samples / 1e6 for stack in stacks}


def frame(function, file="", line=0):
    return Frame(function=function, file=file, line=line)


def test_a_thread_s_time_is_divided_by_the_looks_at_its_stacks():
    costs = gil_costs(process())
    # Blocked for eight of ten seconds, half of the blocked looks on the GIL: it waited four seconds, 40 looks.
    assert seconds(costs.waiting) == {
        frame("poll", "helper.py", 3): pytest.approx(3.0),
        frame("poll", "helper.py", 4): pytest.approx(0.8),
        UNREAD: pytest.approx(0.2),
    }
    assert {stack.thread for stack in costs.waiting} == {"helper"}
    assert seconds(costs.holding) == {
        frame("parse", "server.py", 7): pytest.approx(3.0),
        frame("poll", "helper.py", 4): pytest.approx(0.5),
        frame("<no Python code>"): pytest.approx(0.5),
    }
    pairs = {tuple(each.function for each in stack.frames): stack.samples / 1e6 for stack in costs.meanwhile}
    assert pairs == {
        ("poll", "parse"): pytest.approx(3.0),
        ("poll", NOBODY.function): pytest.approx(0.8),
        (UNREAD.function, NOBODY.function): pytest.approx(0.2),
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gil": GilAnswer.UNKNOWN, "gil_reason": "no layout"}, "no layout"),
        ({"gil": GilAnswer.NONE, "gil_reason": "a free-threaded build: there is no GIL"}, "there is no GIL"),
        ({"stacks": GilStacks(unknown="stacks of 3.15 are not known")}, "stacks of 3.15"),
        ({"stacks": None}, "not asked for"),
    ],
)
def test_what_cannot_be_told_has_a_reason_and_no_number(changes, reason):
    costs = gil_costs(process(**changes))
    assert reason in costs.unknown
    assert costs.holding == costs.waiting == ()
    layers = gil_layers([(costs, 10)])
    assert reason in layers.unknown
    assert layers.waiting == ()


def test_threads_of_another_gil_are_left_out():
    threads = (thread(HELPER, "helper", hold=10, wait=40, unknown="a GIL of its own"),)
    assert gil_costs(process(threads=threads)).waiting == ()


def test_layers_are_means_over_the_trials_that_could_be_told():
    costs = gil_costs(process())
    layers = gil_layers([(costs, 100), (costs, 50), (GilCosts(looks=0, unknown="denied"), 100)])
    assert layers.unknown == ""
    assert layers.looks == 200
    waiting = dict(layers.waiting)
    assert waiting[ROOT, "poll (helper.py:3)"] == pytest.approx((30.0 + 60.0) / 2)
    assert waiting["<stack could not be read>",] == pytest.approx((2.0 + 4.0) / 2)
    assert layers.waiting_threads == ("helper",) * 3
    assert layers.meanwhile[0] == ("poll (helper.py)", "parse (server.py)", pytest.approx(45.0))
    assert gil_layers([]) is None


def test_a_sentence_says_where_most_of_the_waiting_is():
    said = most_waiting(gil_layers([(gil_costs(process()), 100)]))
    assert said == "Most of the waiting (75% of 40 ms/request): poll (helper.py), while parse (server.py) holds it."
    assert most_waiting(None) == most_waiting(gil_layers([(GilCosts(looks=0, unknown="denied"), 1)])) == ""


def test_costs_survive_their_files_and_take_python_s_names():
    costs = gil_costs(process())
    texts = {name: render_folded(getattr(costs, name)) for name in ("holding", "waiting", "meanwhile")}
    read = read_costs(texts, looks=100, unknown="")
    assert gil_layers([(read, 1)]) == gil_layers([(costs, 1)])
    named = with_names(read, [Stack(thread="AsyncIO helper", tid=HELPER, frames=(), samples=1)])
    assert {stack.thread for stack in named.waiting} == {"AsyncIO helper"}
    assert {stack.thread for stack in named.holding} == {"AsyncIO helper", "loop"}
    stripped = read_costs(
        {"waiting": "thread (1): a;f (/site/pkg/a.py:3) 5\n"}, looks=1, unknown="", strip_prefixes=["/site"]
    )
    assert str(stripped.waiting[0].frames[0]) == "f (pkg/a.py:3)"


def test_processes_of_a_role_add_up():
    costs = gil_costs(process())
    added = add_costs([costs, costs, GilCosts(looks=5, unknown="denied")])
    assert added.unknown == ""
    assert added.looks == 200
    assert sum(stack.samples for stack in added.waiting) == 2 * sum(stack.samples for stack in costs.waiting)
    assert add_costs([GilCosts(looks=5, unknown="denied")]).unknown == "denied"


def test_the_top_functions_say_who_held_meanwhile():
    top = {each.frame: each for each in top_frames(gil_costs(process()), most=5)}
    assert next(iter(top)) == "poll (helper.py)"
    poll = top["poll (helper.py)"]
    assert (poll.wait_s, poll.hold_s) == (pytest.approx(3.8), pytest.approx(0.5))
    assert [(held.frame, round(held.wait_frac, 3)) for held in poll.held_meanwhile] == [
        ("parse (server.py)", 0.789),
        (NOBODY.function, 0.211),
    ]
    assert top["parse (server.py)"].hold_s == pytest.approx(3.0)
    assert top["parse (server.py)"].held_meanwhile == ()
