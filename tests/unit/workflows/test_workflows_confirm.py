"""A night's hysteresis: what is near a threshold is measured again, and judged together."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

import sample_results
from made_trials import make_samples, make_trial

from perfguard.model.result import CompareVerdict
from perfguard.model.scenario import Limits, UserMetric
from perfguard.model.trial import Untestable
from perfguard.workflows.confirm import confirmed, strict

LIMITS = Limits(min_effect_frac=0.03, confidence=0.95, max_trials=120)
BASE, HEAD = "a" * 40, "b" * 40


def measured(verdict, slowdown, *, starts=3, noise=0.01, seed=0, failed=0):
    """A comparison whose trials show `slowdown` on `starts` pairs of starts."""
    rng = random.Random(seed)
    trials, number = [], 0
    for start in range(starts):
        luck = (rng.gauss(0, noise), rng.gauss(0, noise))
        for _ in range(3):
            for side, commit in enumerate((BASE, HEAD)):
                number += 1
                speed = 100 * math.exp(luck[side] - slowdown * side + rng.gauss(0, noise / 2))
                trials.append(
                    make_trial(number, (number + 1) // 2, commit, make_samples(speed), start=2 * start + side)
                )
    for _ in range(failed):
        number += 1
        broken = make_trial(number, number, HEAD, make_samples(1.0))
        trials.append(replace(broken, outcome=Untestable(reason="ImportError", log="")))
    result = sample_results.compare_result()
    return replace(
        result,
        baseline=replace(result.baseline, commit=BASE),
        candidate=replace(result.candidate, commit=HEAD),
        verdict=verdict,
        trials=tuple(trials),
    )


def confirm(*results, is_standing=False):
    """Confirm over these measurements; one more than were given is a failure."""

    def measure(number):
        assert number <= len(results), "measured again"
        return results[number - 1]

    found = confirmed(measure, UserMetric.THROUGHPUT, LIMITS, is_standing=is_standing)
    assert found.first is results[0]
    return found


def test_a_clean_measurement_and_an_overwhelming_one_are_enough():
    clean = measured(CompareVerdict.NO_CHANGE, 0.0, starts=6)
    assert confirm(clean).result is clean
    slow = measured(CompareVerdict.SLOWER, 0.3, starts=5)
    assert confirm(slow).result is slow


def test_a_step_near_the_threshold_is_told_when_both_agree():
    first = measured(CompareVerdict.SLOWER, 0.05, starts=2, noise=0.02, seed=1)
    found = confirm(first, measured(CompareVerdict.SLOWER, 0.06, starts=8, noise=0.01, seed=2))
    assert found.times == 2
    assert found.result.verdict is CompareVerdict.SLOWER
    assert (found.result.effects[0].pairs, found.result.effects[0].starts) == (30, 10)
    numbers = [trial.number for trial in found.result.trials]
    assert numbers == list(range(1, 61))
    assert "is slower than" in found.result.sentence


def test_chance_is_taken_back_by_the_second_measurement():
    lucky = measured(CompareVerdict.SLOWER, 0.05, starts=2, noise=0.02, seed=1)
    clean = [measured(CompareVerdict.NO_CHANGE, 0.0, starts=8, noise=0.01, seed=seed) for seed in (2, 3)]
    found = confirm(lucky, *clean)
    assert (found.times > 1, found.result.verdict) == (True, CompareVerdict.NO_CHANGE)


def test_what_three_measurements_do_not_settle_is_left_to_the_next_night():
    near = [measured(CompareVerdict.UNKNOWN, 0.028, starts=4, noise=0.02, seed=seed) for seed in (1, 2, 3)]
    found = confirm(*near)
    assert (found.times, found.result.verdict) == (3, CompareVerdict.UNKNOWN)
    assert "do not settle" in found.result.sentence


def test_an_unsettled_measurement_is_settled_by_more_of_it():
    unsettled = measured(CompareVerdict.UNKNOWN, 0.01, starts=4, noise=0.02, seed=1)
    found = confirm(unsettled, measured(CompareVerdict.NO_CHANGE, 0.0, starts=8, noise=0.01, seed=2))
    assert (found.times, found.result.verdict) == (2, CompareVerdict.NO_CHANGE)


def test_what_stands_needs_no_second_word_but_its_end_does():
    near = measured(CompareVerdict.SLOWER, 0.05, starts=2, noise=0.02, seed=1)
    assert confirm(near, is_standing=True).result is near
    over = measured(CompareVerdict.NO_CHANGE, 0.015, starts=3, noise=0.005, seed=3)
    assert confirm(over, over, is_standing=True).times == 2


def test_a_head_that_cannot_be_tested_is_not_measured_again():
    broken = measured(CompareVerdict.UNKNOWN, 0.0, starts=1, failed=2)
    assert confirm(broken).result is broken
    nothing = measured(CompareVerdict.UNKNOWN, 0.0, starts=0)
    assert confirm(nothing).result is nothing


def test_one_measurement_needs_fifty_times_less_doubt():
    assert strict(0.95) == pytest.approx(0.999)
