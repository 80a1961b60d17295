from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfguard.evidence.calltree import build_call_tree
from perfguard.evidence.cost import StackCosts, cost_stacks
from perfguard.evidence.diff import diff_profiles, top_grown
from perfguard.evidence.profiles import prune
from perfguard.evidence.stacks import merge, parse_folded, render_folded
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame, Stack
from perfguard.model.trial import ProcessCpu, ThreadCpu

fixed = settings(derandomize=True)

# Names as interpreters give them: no separator, no parenthesis without its partner, no line number at a file's end.
plain = st.text(st.characters(exclude_characters=";()\n:", exclude_categories=["Cs"]), min_size=1, max_size=12)
functions = plain.map(lambda name: f"<{name}>") | plain
files = plain.map(lambda name: f"/srv/copy (2)/{name}.py") | plain.map(lambda name: f"<frozen {name}>")
ordinary_frames = st.builds(Frame, function=functions, file=files, line=st.integers(0, 99_999))
ordinary_stacks = st.builds(
    Stack,
    thread=plain.map(lambda name: f"w{name}"),
    tid=st.integers(0, 2**22),
    frames=st.lists(ordinary_frames, max_size=6).map(tuple),
    samples=st.integers(1, 10**6),
)
pieces = st.sampled_from([*'();: "\\\n\x00\u2028é<>0127', 'process 5:"', "thread (9)"])
hostile = st.lists(pieces, max_size=12).map("".join)
hostile_stacks = st.builds(
    Stack,
    thread=hostile,
    tid=st.integers(0, 9),
    frames=st.lists(
        st.builds(Frame, function=hostile, file=hostile, line=st.integers(0, 99)), min_size=1, max_size=4
    ).map(tuple),
    samples=st.integers(1, 9),
)
few_names = st.sampled_from("abcde")
short_paths = st.lists(few_names, min_size=1, max_size=5).map(tuple)
path_costs = st.dictionaries(short_paths, st.floats(0.001, 100.0), min_size=1, max_size=12)


def as_costs(working):
    frames = {
        tuple(Frame(function=name, file="x.py", line=1) for name in names): cost_ms
        for names, cost_ms in working.items()
    }
    return StackCosts(role="rank-0", requests=10, samples=1000, working=frames, polling={}, unsampled_ms=0.0)


@fixed
@given(st.lists(ordinary_stacks, max_size=8))
def test_what_is_rendered_is_read_back(stacks):
    merged = merge(stacks)

    assert parse_folded(render_folded(merged)) == merged


@fixed
@given(st.lists(hostile_stacks, max_size=4))
def test_hostile_names_lose_no_sample_and_are_named_alike_from_then_on(stacks):
    once = parse_folded(render_folded(stacks))

    assert sum(stack.samples for stack in once) == sum(stack.samples for stack in stacks)
    assert render_folded(parse_folded(render_folded(once))) == render_folded(once)


@fixed
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        stacks = parse_folded(text)
    except PerfguardError:
        stacks = ()
    assert all(stack.samples > 0 for stack in stacks)


@fixed
@given(
    st.lists(st.tuples(short_paths, st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=12),
    st.dictionaries(st.integers(1, 3), st.floats(0.0, 10.0), max_size=3),
    st.floats(0.0, 5.0),
    st.sets(few_names),
)
def test_working_polling_and_unsampled_cpu_are_all_cpu(sampled, thread_cpu, ended_s, poll_names):
    stacks = [
        Stack(
            thread="", tid=tid, frames=tuple(Frame(function=name, file="x.py", line=1) for name in names), samples=count
        )
        for names, tid, count in sampled
    ]
    threads = tuple(ThreadCpu(tid=tid, name="", cpu_s=cpu_s, run_delay_s=0.0) for tid, cpu_s in thread_cpu.items())
    total_s = sum(thread_cpu.values()) + ended_s
    process = ProcessCpu(pid=1, role="rank-0", cpu_s=total_s, run_delay_s=0.0, threads=threads)

    costs = cost_stacks(stacks, [process], 7, is_polling=lambda frames: frames[-1].function in poll_names)

    assert costs.working_ms + costs.polling_ms + costs.unsampled_ms == pytest.approx(total_s * 1000.0 / 7)
    assert sum(costs.frame_selfs().values()) == pytest.approx(costs.working_ms)
    assert max(costs.frame_totals().values(), default=0.0) <= costs.working_ms * (1 + 1e-9)


@fixed
@given(st.lists(path_costs, min_size=1, max_size=4))
def test_equal_profiles_have_no_difference(working):
    trials = [{"rank-0": as_costs(trial)} for trial in working]

    frames = diff_profiles(trials, trials, confidence=0.95)

    assert frames
    assert all(frame.before_ms_per_request == frame.after_ms_per_request for frame in frames)
    assert not any(frame.significant for frame in frames)
    assert top_grown(frames) is None


@fixed
@given(st.lists(path_costs, min_size=1, max_size=3), st.lists(path_costs, min_size=1, max_size=3))
def test_a_difference_turned_round_changes_its_sign_only(before, after):
    forward = diff_profiles(
        [{"rank-0": as_costs(trial)} for trial in before],
        [{"rank-0": as_costs(trial)} for trial in after],
        confidence=0.9,
    )
    backward = diff_profiles(
        [{"rank-0": as_costs(trial)} for trial in after],
        [{"rank-0": as_costs(trial)} for trial in before],
        confidence=0.9,
    )

    turned = {frame.frame: frame for frame in backward}
    for frame in forward:
        assert turned[frame.frame].before_ms_per_request == pytest.approx(frame.after_ms_per_request)
        assert turned[frame.frame].significant == frame.significant
        if frame.low_ms is not None:
            assert turned[frame.frame].high_ms == pytest.approx(-frame.low_ms)


@fixed
@given(path_costs, path_costs)
def test_no_function_is_supported_beyond_its_growth(before, after):
    tree = build_call_tree([as_costs(before)], [as_costs(after)])

    for name, growth_ms in tree.growth_ms.items():
        assert tree.supported_ms[name] <= max(growth_ms, 0.0) + 1e-9 or growth_ms < 0.0


@fixed
@given(path_costs, st.integers(1, 12))
def test_pruning_keeps_every_total_of_what_it_keeps(stacks, max_stacks):
    kept = prune(stacks, max_stacks=max_stacks)

    assert sum(kept.values()) == pytest.approx(sum(stacks.values()))
    for root in {names[0] for names in stacks}:
        before = sum(cost_ms for names, cost_ms in stacks.items() if names[0] == root)
        assert sum(cost_ms for names, cost_ms in kept.items() if names[0] == root) == pytest.approx(before)
    for names, cost_ms in kept.items():
        assert cost_ms >= stacks.get(names, 0.0)
