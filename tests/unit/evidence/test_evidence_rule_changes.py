"""The rules' tests on few trials: what they find, and how seldom they cry wolf."""

from __future__ import annotations

import numpy as np
import pytest
from evidence_samples import costs, cpu_result
from scipy import stats

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.intervals import steadied_change
from perfguard.evidence.rule_changes import class_change, working_change
from perfguard.evidence.rule_config import RuleConfig
from perfguard.evidence.trial import RoleEvidence, RoleLoad, TrialEvidence

CONFIG = RuleConfig()
GRAIN = 0.01


def test_without_anything_usual_it_is_the_pooled_t_test():
    before, after = [1.0, 1.4, 1.1], [2.0, 2.2, 1.7, 1.9]

    moved = steadied_change(before, after, confidence=0.95, usual_variance=0.0, usual_degrees=0.0)

    expected = stats.ttest_ind(after, before)
    interval = expected.confidence_interval(0.95)
    assert moved.p_value == pytest.approx(expected.pvalue)
    assert (moved.low, moved.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_what_is_usual_is_weighed_by_its_degrees_of_freedom():
    moved = steadied_change([1.0, 1.2], [2.0, 2.2], confidence=0.95, usual_variance=0.05, usual_degrees=2.0)

    # Own squares 0.02 + 0.02 with 2 degrees; usual 2 x 0.05.
    assert moved.error == pytest.approx(((0.04 + 0.1) / 4 * (1 / 2 + 1 / 2)) ** 0.5)


def test_one_trial_on_a_side_and_equal_values():
    one = steadied_change([1.0], [2.0, 2.1], confidence=0.95, usual_variance=0.01, usual_degrees=1.0)
    same = steadied_change([1.0, 1.0], [1.0, 1.0], confidence=0.95, usual_variance=0.0, usual_degrees=0.0)
    apart = steadied_change([1.0, 1.0], [2.0, 2.0], confidence=0.95, usual_variance=0.0, usual_degrees=0.0)

    assert (one.low, one.p_value) == (None, None)
    assert (same.p_value, same.excludes_zero) == (1.0, False)
    assert apart.excludes_zero


def sampled_trial(rng, pickle_ms):
    """A role of forty functions of 0.1 ms and one class of call, counted in samples, in a trial of its own speed."""
    speed = rng.lognormal(0.0, 0.06)
    stacks = {("main", f"f{n}"): rng.poisson(0.1 * speed / GRAIN) * GRAIN for n in range(40)}
    stacks["main", "pickling"] = rng.poisson(pickle_ms * speed / GRAIN) * GRAIN
    samples = round(sum(stacks.values()) / GRAIN)
    return RoleEvidence(
        costs=costs(stacks, samples=samples), class_ms={CallClass.PICKLE: stacks["main", "pickling"]}, site_ms={}
    )


def fired(rng, trials, after_ms, repeats):
    found = [
        class_change(
            CallClass.PICKLE,
            [sampled_trial(rng, 0.4) for _ in range(trials)],
            [sampled_trial(rng, after_ms) for _ in range(trials)],
            CONFIG,
        ).excludes_zero
        for _ in range(repeats)
    ]
    return float(np.mean(found))


def test_a_class_that_doubled_is_found_with_three_trials_a_side_and_mostly_with_two():
    rng = np.random.default_rng(1)

    assert fired(rng, 3, 0.8, 30) > 0.9
    assert fired(rng, 2, 0.8, 30) > 0.5


@pytest.mark.parametrize("trials", [2, 3])
def test_equal_classes_are_called_different_no_more_often_than_the_confidence_says(trials):
    assert fired(np.random.default_rng(2), trials, 0.4, 120) <= 1.0 - CONFIG.confidence + 0.03


def loaded_trial(rng, **working_ms):
    speed = rng.lognormal(0.0, 0.05)
    return TrialEvidence(
        cpu=cpu_result([]),
        requests=100,
        roles={},
        loads={
            role: RoleLoad(
                role=role,
                cpu_ms_per_request=cost,
                working_ms_per_request=cost * speed * rng.lognormal(0.0, 0.05),
                busiest_thread_cores=0.5,
                run_delay_frac=0.1,
            )
            for role, cost in working_ms.items()
        },
        machine_working_frac=0.5,
    )


def test_the_other_roles_steady_what_two_trials_tell_of_one():
    rng = np.random.default_rng(3)
    alone = together = 0
    for _ in range(100):
        before = [loaded_trial(rng, a=5.0, b=3.0, c=3.0, tiny=0.05) for _ in range(2)]
        after = [loaded_trial(rng, a=5.0, b=4.2, c=3.0, tiny=0.05) for _ in range(2)]
        together += working_change("b", before, after, CONFIG).excludes_zero
        values = [[trial.loads["b"].working_ms_per_request for trial in side] for side in (before, after)]
        alone += stats.ttest_ind(*values, equal_var=False).pvalue < 1.0 - CONFIG.confidence

    assert together > 2 * alone


def test_equal_working_cpu_is_called_different_no_more_often_than_the_confidence_says():
    rng = np.random.default_rng(4)
    wrong = sum(
        working_change(
            "b",
            [loaded_trial(rng, a=5.0, b=3.0, c=3.0) for _ in range(3)],
            [loaded_trial(rng, a=5.0, b=3.0, c=3.0) for _ in range(3)],
            CONFIG,
        ).excludes_zero
        for _ in range(400)
    )

    assert wrong / 400 <= 1.0 - CONFIG.confidence + 0.02
