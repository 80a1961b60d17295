"""Paired effects against textbook values and simulated truth."""

import math

import numpy as np
import pytest
from scipy import stats

from perfguard.stats.paired import geometric_interval, paired_effect, summarise_pairs


def test_the_interval_is_students():
    differences = [0.10, 0.14, 0.08, 0.12]
    effect = paired_effect("throughput_rps", differences, 0.95)
    low, high = stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    assert effect.ratio == pytest.approx(math.exp(0.11))
    assert (effect.low, effect.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert effect.pairs == 4


def test_one_pair_has_no_bounds():
    effect = paired_effect("throughput_rps", [0.2], 0.95)
    assert effect.low == 0.0
    assert effect.high == math.inf


def test_the_bayes_factor_agrees_with_numerical_integration():
    differences = np.array([0.11, 0.19, 0.13, 0.16])
    count, spread = differences.size, differences.var(ddof=1)
    # p(d | prior slope variance g s^2) for unknown s with 1/s^2 prior, integrated on a grid of s.
    log_s = np.linspace(-9, 4, 4001)
    scale = np.exp(log_s)

    def evidence(extra):
        covariance_mean = scale**2 * (1 / count + extra)
        density = (
            stats.norm.logpdf(differences.mean(), 0, np.sqrt(covariance_mean))
            - (count - 1) * log_s
            - (count - 1) * spread / (2 * scale**2)
        )
        return np.trapezoid(np.exp(density), log_s)

    assert summarise_pairs(differences).bayes_factor() == pytest.approx(evidence(8.0) / evidence(0.0), rel=1e-3)


def test_the_bayes_factor_knows_the_extremes():
    assert summarise_pairs([0.1]).bayes_factor() == 1.0
    assert summarise_pairs([0.1, 0.1, 0.1]).bayes_factor() == pytest.approx(25.0)
    assert summarise_pairs([0.5, 0.5]).bayes_factor() == pytest.approx(math.sqrt(17.0))
    assert summarise_pairs([0.0, 0.0, 0.0]).bayes_factor() == pytest.approx(0.2)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(20261122)
    covered = 0
    for _ in range(4000):
        effect = paired_effect("m", rng.normal(0.1, 0.05, 5), 0.95)
        covered += effect.low <= math.exp(0.1) <= effect.high
    # 4000 trials at 0.95: six standard deviations are 0.021.
    assert abs(covered / 4000 - 0.95) < 0.021


def test_equivalence_needs_a_narrow_interval():
    assert summarise_pairs([0.001, -0.002, 0.003, 0.0, -0.001]).equivalent_within(0.02, 0.95)
    assert not summarise_pairs([0.05, -0.05, 0.04, -0.06]).equivalent_within(0.02, 0.95)
    assert summarise_pairs([-0.2, -0.21, -0.19]).below(0.02, 0.95)
    assert not summarise_pairs([0.2, 0.21, 0.19]).below(0.02, 0.95)


def test_geometric_interval():
    mean, low, high = geometric_interval([90.0, 100.0, 110.0], 0.95)
    assert mean == pytest.approx((90 * 100 * 110) ** (1 / 3))
    assert low < mean < high
    assert geometric_interval([5.0], 0.95) == (pytest.approx(5.0), None, None)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError):
        summarise_pairs(values)
    with pytest.raises(ValueError):
        geometric_interval([0.0, 1.0], 0.95)
