from __future__ import annotations

import numpy as np
import pytest

from perfguard.evidence.cost import StackCosts
from perfguard.evidence.diff import compare_profiles
from perfguard.evidence.moderation import Side, moderated_changes
from perfguard.model.profile import Frame

GRAIN = 0.01


def draw(rng, means, trials, *, trial_noise=0.05, dispersion=0.0):
    """Costs of functions (trials, functions) that were sampled, around `means` in samples."""
    speed = rng.lognormal(0.0, trial_noise, size=trials)
    true = np.array(means)[np.newaxis, :] * speed[:, np.newaxis]
    if dispersion:
        true = true * rng.gamma(1.0 / dispersion, dispersion, size=true.shape)
    counts = rng.poisson(true)
    return Side(costs=counts * GRAIN, totals=speed * 4.0, grains=np.full(trials, GRAIN), sampled=speed * 40.0)


def p_values(before, after):
    return np.array([change.p_value for change in moderated_changes(before, after, confidence=0.95)])


@pytest.mark.parametrize(("trials", "dispersion"), [(3, 0.0), (8, 0.0), (3, 0.02), (8, 0.02)])
def test_equal_sides_are_called_different_no_more_often_than_said(trials, dispersion):
    rng = np.random.default_rng(7)
    means = rng.uniform(10.0, 200.0, size=100)

    found = np.concatenate(
        [
            p_values(draw(rng, means, trials, dispersion=dispersion), draw(rng, means, trials, dispersion=dispersion))
            for _ in range(60)
        ]
    )

    assert 0.005 < (found < 0.05).mean() < 0.06
    assert (found < 0.001).mean() < 0.003


@pytest.mark.parametrize("trials", [3, 8])
def test_intervals_hold_the_true_change(trials):
    rng = np.random.default_rng(8)
    before, after = np.full(80, 50.0), np.full(80, 60.0)

    held = [
        change.low <= 10.0 * GRAIN <= change.high
        for _ in range(40)
        for change in moderated_changes(draw(rng, before, trials), draw(rng, after, trials), confidence=0.9)
    ]

    assert np.mean(held) > 0.88


def test_three_trials_find_what_alone_they_could_not():
    rng = np.random.default_rng(9)
    means = np.append(np.full(60, 40.0), 0.0)
    grown = np.append(np.full(60, 40.0), 15.0)

    found = [p_values(draw(rng, means, 3), draw(rng, grown, 3))[-1] for _ in range(50)]

    assert np.mean(np.array(found) < 0.001) > 0.8


def test_one_trial_on_a_side_has_an_error_and_no_interval():
    side = Side(
        costs=np.array([[4.0, 0.0]]), totals=np.array([10.0]), grains=np.array([0.04]), sampled=np.array([16.0])
    )

    change, nothing = moderated_changes(side, side, confidence=0.95)

    assert (change.low, change.high, change.p_value) == (None, None, None)
    assert change.error == pytest.approx((2 * 4.0 * 0.04 * (1 - 4.0 / 16.0)) ** 0.5)
    assert nothing.error == 0.0


def test_costs_that_are_exact_and_equal_are_no_change():
    side = Side(costs=np.zeros((3, 2)), totals=np.zeros(3), grains=np.zeros(3), sampled=np.zeros(3))

    changes = moderated_changes(side, side, confidence=0.95)

    assert [(change.low, change.high, change.p_value) for change in changes] == [(0.0, 0.0, 1.0)] * 2


def test_a_role_that_slowed_as_a_whole_in_one_trial_is_no_finding():
    def trial(speed):
        frames = {(Frame(function=f"f{n}", file="a.py", line=1),): 1.0 * speed for n in range(20)}
        costs = StackCosts(role="rank-0", requests=1, samples=2000, working=frames, polling={}, unsampled_ms=0.0)
        return {"rank-0": costs}

    changes = compare_profiles([trial(1.0), trial(1.05)], [trial(1.0), trial(1.3)], confidence=0.95)

    assert not any(change.frame.significant for change in changes)


def test_functions_on_the_same_stacks_are_one_question():
    def trial(extra, chain=200):
        deep = tuple(Frame(function=f"c{n}", file="a.py", line=1) for n in range(chain))
        new = (*deep, Frame(function="new", file="a.py", line=1))
        working = {deep: 10.0, **({new: extra} if extra else {})}
        costs = StackCosts(role="rank-0", requests=1, samples=500, working=working, polling={}, unsampled_ms=0.0)
        return {"rank-0": costs}

    found = compare_profiles([trial(0.0)] * 4, [trial(0.35)] * 4, confidence=0.95)

    marked = {change.frame.frame for change in found if change.frame.significant}
    assert "new (a.py)" in marked
