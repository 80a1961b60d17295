from __future__ import annotations

import pytest
from evidence_samples import costs
from scipy import stats

from perfguard.evidence.calltree import build_call_tree
from perfguard.evidence.diff import diff_profiles, top_grown
from perfguard.evidence.intervals import change
from perfguard.model.errors import PerfguardError

MAIN = ("main", "loop")


def trials(*profiles, role="rank-0"):
    return [{role: costs(profile, role=role)} for profile in profiles]


def scaled(profile, *factors):
    return [{functions: cost_ms * factor for functions, cost_ms in profile.items()} for factor in factors]


GOOD = {(*MAIN, "handle", "from_dict"): 1.0, (*MAIN, "forward"): 5.0, (*MAIN,): 0.5}
BAD = {
    (*MAIN, "handle", "share", "from_dict"): 1.0,
    (*MAIN, "handle", "share", "send_objects", "pack"): 1.5,
    (*MAIN, "handle", "share", "send_objects", "wait"): 1.2,
    (*MAIN, "forward"): 5.0,
    (*MAIN,): 0.5,
}
NOISE = (0.99, 1.0, 1.01, 1.0)


def test_welchs_interval_agrees_with_scipy():
    before, after = [1.0, 1.2, 0.9, 1.1], [1.9, 2.6, 2.2]

    moved = change(before, after, confidence=0.95)

    reference = stats.ttest_ind(after, before, equal_var=False)
    interval = reference.confidence_interval(0.95)
    assert (moved.low, moved.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert moved.p_value == pytest.approx(reference.pvalue)
    assert moved.excludes_zero


def test_one_trial_on_a_side_has_no_interval():
    moved = change([1.0], [2.0, 2.1], confidence=0.95)

    assert (moved.low, moved.high, moved.p_value, moved.excludes_zero) == (None, None, None, False)


def test_trials_that_agree_by_chance_are_no_surer_than_their_samples():
    exact = change([1.0, 1.0], [1.2, 1.2], confidence=0.95)
    counted = change([1.0, 1.0], [1.2, 1.2], confidence=0.95, grain_before=[0.1, 0.1], grain_after=[0.1, 0.1])

    assert exact.excludes_zero
    assert not counted.excludes_zero
    assert counted.error == pytest.approx(((1.0 * 0.1 + 1.2 * 0.1) / 2) ** 0.5)


def test_the_function_that_enters_the_new_work_comes_first():
    frames = diff_profiles(trials(*scaled(GOOD, *NOISE)), trials(*scaled(BAD, *NOISE)), confidence=0.95)

    top = top_grown(frames)
    assert top == frames[0]
    assert top.frame == "share (app.py)"
    assert top.significant
    assert (top.before_ms_per_request, top.after_ms_per_request) == (0.0, pytest.approx(3.7))
    assert top.low_ms < 3.7 < top.high_ms
    order = [frame.frame.partition(" ")[0] for frame in frames]
    assert order.index("send_objects") < order.index("main")
    assert order.index("pack") < order.index("loop")


def test_selfs_and_totals_are_told_apart():
    frames = {frame.frame: frame for frame in diff_profiles(trials(GOOD), trials(BAD), confidence=0.95)}

    loop = frames["loop (app.py)"]
    assert (loop.before_self_ms_per_request, loop.after_self_ms_per_request) == (0.5, 0.5)
    assert (loop.before_ms_per_request, loop.after_ms_per_request) == (pytest.approx(6.5), pytest.approx(9.2))
    assert frames["from_dict (app.py)"].after_self_ms_per_request == pytest.approx(1.0)


def test_old_work_that_became_dearer_is_named_at_its_innermost_function():
    dearer = {**GOOD, (*MAIN, "handle", "from_dict"): 3.0}

    top = top_grown(diff_profiles(trials(*scaled(GOOD, *NOISE)), trials(*scaled(dearer, *NOISE)), confidence=0.95))

    assert top.frame == "from_dict (app.py)"


@pytest.mark.parametrize("moved_to", ["renamed", "wrapper"])
def test_work_that_only_moved_is_not_named(moved_to):
    good = {(*MAIN, "handle", "old"): 3.0, (*MAIN, "forward"): 2.0}
    path_after = (*MAIN, "handle", "renamed") if moved_to == "renamed" else (*MAIN, "handle", "wrapper", "old")
    bad = {path_after: 3.05, (*MAIN, "forward"): 2.6}

    frames = diff_profiles(trials(*scaled(good, *NOISE)), trials(*scaled(bad, *NOISE)), confidence=0.95)

    assert top_grown(frames).frame == "forward (app.py)"
    order = [frame.frame for frame in frames if frame.after_ms_per_request > frame.before_ms_per_request]
    assert order.index("forward (app.py)") < order.index(f"{moved_to} (app.py)")


def test_a_role_that_got_cheaper_has_no_explaining_function():
    tree = build_call_tree([costs(BAD)], [costs({**GOOD, ("stray",): 0.1})])

    assert tree.explaining() is None


def test_recursion_counts_once_in_what_is_supported():
    good = {("main", "walk", "leaf"): 1.0}
    bad = {("main", "walk", "walk", "leaf"): 3.0}

    tree = build_call_tree([costs(good)], [costs(bad)])

    assert tree.growth_ms["walk (app.py)"] == pytest.approx(2.0)
    assert tree.supported_ms["walk (app.py)"] == pytest.approx(2.0)


def test_noise_alone_is_not_significant():
    before = trials(*scaled(GOOD, 0.9, 1.0, 1.1, 1.05))
    after = trials(*scaled(GOOD, 1.02, 0.93, 1.08, 1.0))

    frames = diff_profiles(before, after, confidence=0.95)

    assert not any(frame.significant for frame in frames)
    assert top_grown(frames) is None


def test_one_trial_a_side_still_names_what_grew_most():
    frames = diff_profiles(trials(GOOD), trials(BAD), confidence=0.95)

    assert not any(frame.significant for frame in frames)
    assert top_grown(frames).frame == "share (app.py)"


def test_rare_functions_are_listed_but_not_tested():
    rare = {**GOOD, (*MAIN, "rare"): 0.01}

    frames = diff_profiles(trials(GOOD, GOOD), trials(rare, rare), confidence=0.95)

    (listed,) = [frame for frame in frames if frame.frame == "rare (app.py)"]
    assert not listed.significant


def test_roles_are_kept_apart_and_a_lost_role_is_left_out():
    before = [{"rank-0": costs(GOOD), "tokenizer": costs({("main", "tokenize"): 1.0}, role="tokenizer")}]
    after = [{"rank-0": costs(BAD)}, {"rank-0": costs(BAD)}]

    frames = diff_profiles(before, after, confidence=0.95)

    assert {frame.role for frame in frames} == {"rank-0"}
    assert top_grown(frames, role="tokenizer") is None


def test_a_side_without_profiles_is_refused():
    with pytest.raises(PerfguardError, match="second revision"):
        diff_profiles(trials(GOOD), [], confidence=0.95)
