"""Paired changes: the known interval of a known sample, its coverage, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from perfguard.stats.paired import paired_change


def test_a_known_sample_has_its_known_interval():
    values = [0.1, 0.2, 0.15, 0.25, 0.3]
    found = paired_change(values, confidence=0.95)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.mean, found.pairs, found.excludes_zero) == (pytest.approx(0.2), 5, True)


@pytest.mark.parametrize("pairs", [2, 5])
def test_the_interval_covers_as_often_as_it_says(pairs):
    rng = np.random.default_rng(11)
    draws = 2000
    covered = 0
    for _ in range(draws):
        block = rng.standard_normal(pairs)  # what a block shares is as large as the noise, and cancels
        base = block + 0.5 * rng.standard_normal(pairs)
        arm = block + 0.3 + 1.5 * rng.standard_normal(pairs)  # spreads differ between arms
        found = paired_change(list(arm - base), confidence=0.9)
        covered += found.low <= 0.3 <= found.high
    # Five standard deviations of the count: odds under 1e-6.
    assert abs(covered - 0.9 * draws) < 5 * math.sqrt(draws * 0.9 * 0.1)


def test_one_pair_has_no_interval_and_none_no_answer():
    found = paired_change([0.4], confidence=0.95)
    assert (found.mean, found.low, found.high, found.pairs, found.excludes_zero) == (0.4, None, None, 1, False)
    assert paired_change([], confidence=0.95) is None


def test_equal_differences_are_certain_and_none_is_noise():
    assert paired_change([0.0, 0.0, 0.0], confidence=0.95).excludes_zero is False
    assert paired_change([0.1, 0.1], confidence=0.95).excludes_zero is True


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        paired_change([0.1, math.inf], confidence=0.95)
