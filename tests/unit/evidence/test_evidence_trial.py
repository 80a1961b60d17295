from __future__ import annotations

import math

import pytest
from evidence_samples import Sources, costs, cpu_result, process, samples_of, stack

from perfguard.evidence.callrules import GENERIC_RULES, make_call_rules
from perfguard.evidence.callsites import CallClass
from perfguard.evidence.metric import EvidenceMetric, evidence_metrics, metric_value
from perfguard.evidence.profiles import merge_roles, prune
from perfguard.evidence.trial import RoleEvidence, TrialEvidence, trial_evidence
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame
from perfguard.model.result import Direction

SERVER = Sources({"app.py": "def serve(x):\n    pickle.dumps(x)\n    compute(x)\n\ndef recv_requests():\n    spin()\n"})
PICKLE = Frame(function="serve", file="app.py", line=2)
COMPUTE = Frame(function="serve", file="app.py", line=3)
RULES = make_call_rules({"poll": {"functions": ["recv_requests"]}}, "test").before(GENERIC_RULES)
SPIN = Frame(function="recv_requests", file="app.py", line=6)
MAIN = Frame(function="main", file="app.py", line=0)

RANK_STACKS = [stack((MAIN, PICKLE), 30, tid=1), stack((MAIN, COMPUTE), 20, tid=1), stack((MAIN, SPIN), 50, tid=1)]
DECODER = process("detokenizer", 0.1, {9: (0.1, 0.0)}, pid=2)
# 8 s on the main thread and 2 s on a transport's own, in 10 s of load.
RANK = process("rank-0", 10.0, {1: (8.0, 4.0), 2: (2.0, 0.0)})
PROFILED_RANK = process("rank-0", 12.0, {1: (9.0, 4.0), 2: (3.0, 0.0)})


def judged(stacks=None, **cpu):
    samples = samples_of(
        cpu_result([RANK, DECODER], **cpu), requests=100, profiled_cpu=cpu_result([PROFILED_RANK, DECODER])
    )
    return trial_evidence(
        samples, {"rank-0": RANK_STACKS, "detokenizer": []} if stacks is None else stacks, SERVER, RULES
    )


def test_costs_come_from_the_profiled_load_by_class_and_site():
    rank = judged().roles["rank-0"]

    assert rank.class_ms == {
        CallClass.PICKLE: pytest.approx(27.0),
        CallClass.OTHER: pytest.approx(18.0),
        CallClass.POLL: pytest.approx(45.0),
    }
    assert rank.site_ms == {
        (CallClass.PICKLE, PICKLE): pytest.approx(27.0),
        (CallClass.POLL, SPIN): pytest.approx(45.0),
    }
    assert rank.costs.working_ms == pytest.approx(45.0)
    assert rank.costs.unsampled_ms == pytest.approx(30.0)


def test_load_comes_from_the_measured_requests_with_polling_taken_off():
    load = judged().loads["rank-0"]

    assert load.cpu_ms_per_request == pytest.approx(100.0)
    assert load.working_ms_per_request == pytest.approx(50.0)
    assert load.busiest_thread_cores == pytest.approx(0.4)
    assert load.run_delay_frac == pytest.approx(4.0 / 12.0)


def test_polling_is_taken_off_the_machine():
    assert judged(busy=0.9).machine_working_frac == pytest.approx(0.9 - 5.0 / 20.0)


def test_a_role_without_stacks_leaves_work_unknown():
    evidence = judged(stacks={"detokenizer": []})

    assert evidence.loads["rank-0"].working_ms_per_request is None
    assert evidence.loads["rank-0"].busiest_thread_cores is None
    assert evidence.machine_working_frac is None
    assert set(evidence.costs) == {"detokenizer"}


def test_an_idle_role_without_stacks_blurs_nothing():
    assert judged(stacks={"rank-0": RANK_STACKS}).machine_working_frac is not None


def test_without_profiling_there_are_no_roles():
    evidence = trial_evidence(samples_of(cpu_result([RANK]), requests=100), {"rank-0": RANK_STACKS}, SERVER, RULES)

    assert evidence.roles == {}
    assert evidence.loads["rank-0"].cpu_ms_per_request == pytest.approx(100.0)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(PerfguardError, match="not one request"):
        trial_evidence(samples_of(cpu_result([RANK]), requests=0), {}, SERVER, RULES)
    with pytest.raises(PerfguardError, match="stacks of tokenizer"):
        judged(stacks={"tokenizer": RANK_STACKS})


def of_costs(*roles):
    return TrialEvidence(
        cpu=cpu_result([]),
        requests=100,
        roles={role.role: RoleEvidence(costs=role, class_ms={}, site_ms={}) for role in roles},
        loads={},
        machine_working_frac=None,
    )


def test_merging_takes_the_mean_over_the_trials_that_have_a_role():
    trials = [
        of_costs(costs({("main", "f"): 1.0}, samples=10), costs({("main",): 4.0}, role="tokenizer", samples=5)),
        of_costs(costs({("main", "f"): 3.0, ("main", "g"): 2.0}, samples=20)),
    ]

    rank, tokenizer = merge_roles(trials)

    assert (rank.role, rank.trials, rank.samples) == ("rank-0", 2, 30)
    assert rank.stacks == ((("main (app.py:1)", "f (app.py:1)"), 2.0), (("main (app.py:1)", "g (app.py:1)"), 1.0))
    assert (tokenizer.trials, tokenizer.stacks) == (1, ((("main (app.py:1)",), 4.0),))


def test_merged_stacks_keep_what_they_were_doing():
    trials = [judged(), judged()]

    rank = next(profile for profile in merge_roles(trials) if profile.role == "rank-0")

    classes = {" > ".join(frames): name for (frames, _), name in zip(rank.stacks, rank.classes, strict=True)}
    evidence = trials[0].roles["rank-0"]
    assert classes == {
        " > ".join(str(frame) for frame in frames): evidence.stack_class[frames].value
        for frames in evidence.costs.working
    }
    assert "pickle" in classes.values()


def test_a_caller_that_rare_stacks_were_folded_into_has_no_class():
    trials = [judged()]

    (rank,) = (p for p in merge_roles(trials, max_stacks=1) if p.role == "rank-0")

    assert len(rank.classes) == len(rank.stacks) > 1
    assert "" in rank.classes
    assert merge_roles([of_costs(costs({("main",): 4.0}))])[0].classes == ()


def test_pruning_folds_a_rare_stack_into_the_frame_it_ran_under():
    stacks = {("main", "f", "hot"): 9.0, ("main", "f", "rare", "rarer"): 0.5, ("main", "g"): 0.25, ("other", "x"): 0.1}

    assert prune(stacks, max_stacks=1) == {
        ("main", "f", "hot"): 9.0,
        ("main", "f"): 0.5,
        ("main",): 0.25,
        ("other",): 0.1,
    }
    with pytest.raises(PerfguardError, match="max_stacks is 0"):
        prune(stacks, max_stacks=0)


GOOD = {("main", "handle", "from_dict"): 1.0, ("main", "forward"): 5.0, ("main", "noisy"): 2.0}
BAD = {("main", "handle", "share", "pack"): 1.5, **GOOD}


def endpoints(profile, *noise):
    return [of_costs(costs({**profile, ("main", "noisy"): 2.0 + extra})) for extra in noise]


def test_the_metric_is_what_moved_most_over_its_noise():
    before, after = endpoints(GOOD, -0.5, 0.3, 0.2), endpoints(BAD, 0.9, 1.8, 2.4)

    metric = evidence_metrics(before, after)[0]

    # `noisy` grew by more, but less surely; of the chain of equals any is right.
    assert metric.role == "rank-0"
    assert metric.function in {"handle (app.py)", "share (app.py)", "pack (app.py)"}
    assert [metric_value(trial, metric) for trial in after] == [
        pytest.approx(after[0].costs["rank-0"].frame_totals()[metric.function])
    ] * 3
    assert metric_value(before[0], metric) < metric_value(after[0], metric)


def test_an_improvement_is_followed_by_what_shrank():
    before, after = endpoints(BAD, 0.0, 0.1), endpoints(GOOD, 0.0, 0.1)

    assert evidence_metrics(before, after) == ()
    assert evidence_metrics(before, after, direction=Direction.IMPROVEMENT)[0].function != "noisy (app.py)"


def test_moved_work_is_no_metric():
    before = [of_costs(costs({("main", "handle", "old"): 3.0, ("main", "forward"): 5.0}))] * 3
    after = [of_costs(costs({("main", "handle", "wrapper", "old"): 3.0, ("main", "forward"): 5.0}))] * 3

    assert evidence_metrics(before, after) == ()


def test_work_that_moved_below_a_new_entry_of_the_program_is_no_metric():
    # A real one: a server's entry got a function of its own, and its images moved to another task of the same loop.
    loop, loop_after = ("main", "launch", "loop"), ("main", "run", "launch", "loop")
    before = [of_costs(costs({(*loop, "handle", "prepare"): 2.0, loop: 3.0}, samples=10**6))] * 3
    moved = [of_costs(costs({(*loop_after, "task", "prepare"): 2.0, loop_after: 3.01}, samples=10**6))] * 3
    dearer = [of_costs(costs({(*loop_after, "task", "prepare"): 4.0, loop_after: 3.01}, samples=10**6))] * 3

    assert evidence_metrics(before, moved) == ()
    assert "task (app.py)" in {metric.function for metric in evidence_metrics(before, dearer)}


def test_what_carries_much_of_the_growth_comes_before_what_moved_surely():
    before = [of_costs(costs({("main", "forward"): 5.0}, samples=10**6))] * 3
    after = [
        of_costs(costs({("main", "forward"): 5.0 + extra, ("main", "a"): 0.4}, samples=10**6))
        for extra in (1.2, 2.0, 2.8)
    ]

    functions = [metric.function for metric in evidence_metrics(before, after)]

    assert functions[0] != "a (app.py)"
    assert "a (app.py)" in functions


def test_a_change_too_small_to_search_by_is_no_metric():
    tiny = {**GOOD, ("main", "tiny"): 0.05}

    assert (
        evidence_metrics([of_costs(costs(GOOD, samples=10**9))] * 3, [of_costs(costs(tiny, samples=10**9))] * 3) == ()
    )


def test_the_metric_of_a_trial_without_the_role_is_unknown_and_of_an_absent_function_zero():
    trial = of_costs(costs(GOOD))

    assert metric_value(trial, EvidenceMetric(role="rank-0", function="share (app.py)", score=9.0)) == 0.0
    assert math.isnan(metric_value(trial, EvidenceMetric(role="rank-7", function="share (app.py)", score=9.0)))


def test_recursion_counts_once_in_the_metric():
    trial = of_costs(costs({("main", "walk", "walk"): 2.0}))

    assert metric_value(trial, EvidenceMetric(role="rank-0", function="walk (app.py)", score=9.0)) == 2.0


def test_a_merged_stack_names_the_thread_that_it_was_seen_in_most():
    stacks = [
        stack((MAIN, PICKLE), 30, tid=1, thread="MainThread"),
        stack((MAIN, PICKLE), 40, tid=2, thread="pool_0"),
        stack((MAIN, COMPUTE), 20, tid=1, thread="MainThread"),
        stack((MAIN,), 5, tid=1),
    ]
    (rank,) = (p for p in merge_roles([judged({"rank-0": stacks, "detokenizer": []})]) if p.role == "rank-0")
    named = {frames: thread for (frames, _), thread in zip(rank.stacks, rank.threads, strict=True)}
    assert named == {
        (str(MAIN),): "",
        (str(MAIN), str(PICKLE)): "pool_0",
        (str(MAIN), str(COMPUTE)): "MainThread",
    }
    assert merge_roles([of_costs(costs({("main",): 4.0}))])[0].threads == ()
