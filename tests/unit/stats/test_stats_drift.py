"""Drift over many nights: parts add, two estimates of the same thing are averaged by their precision."""

from __future__ import annotations

import math
import random

import pytest

from perfguard.model.result import Effect
from perfguard.stats.drift import NO_DRIFT, Drift, drift_of


def an_effect(ratio, low, high, confidence=0.95):
    return Effect(
        metric="throughput_rps", ratio=ratio, low=low, high=high, confidence=confidence, pairs=9, starts=3
    )  # fmt: skip


def test_parts_add_and_their_variances_too():
    drift = Drift(mean=0.01, sd=0.03).then(Drift(mean=0.02, sd=0.04))
    assert (drift.mean, drift.sd) == (pytest.approx(0.03), pytest.approx(0.05))
    assert NO_DRIFT.then(drift) == drift


def test_a_precise_estimate_outweighs_a_vague_one():
    fused = Drift(mean=0.0, sd=0.03).fused(Drift(mean=0.04, sd=0.01))
    assert fused.mean == pytest.approx(0.036)
    assert fused.sd == pytest.approx(1 / math.sqrt(1 / 0.03**2 + 1 / 0.01**2))


def test_the_probability_of_a_bound():
    assert Drift(mean=0.03, sd=0.01).p_above(0.03) == pytest.approx(0.5)
    assert Drift(mean=0.03, sd=0.01).p_above(0.01) == pytest.approx(0.97725, abs=1e-4)
    assert (NO_DRIFT.p_above(0.0), NO_DRIFT.p_above(-0.1)) == (0.0, 1.0)


def test_larger_is_worse_whatever_the_metric():
    slower = drift_of(an_effect(0.96, 0.95, 0.97), larger_is_better=True)
    assert slower.mean == pytest.approx(-math.log(0.96))
    assert slower.sd == pytest.approx(math.log(0.97 / 0.95) / (2 * 1.959964), rel=1e-6)
    assert drift_of(an_effect(1.04, 1.03, 1.05), larger_is_better=False).mean == pytest.approx(math.log(1.04))


def test_an_interval_without_width_is_refused():
    with pytest.raises(ValueError, match="no standard deviation"):
        drift_of(an_effect(1.0, 1.0, 1.0), larger_is_better=True)


def test_the_stated_error_is_the_real_one():
    rng = random.Random(3)
    errors = []
    for _ in range(4000):
        drift = NO_DRIFT
        for _ in range(5):
            drift = drift.then(Drift(mean=rng.gauss(0.01, 0.02), sd=0.02))
        drift = drift.fused(Drift(mean=rng.gauss(0.05, 0.01), sd=0.01))
        errors.append((drift.mean - 0.05) / drift.sd)
    # The standard error of a standard deviation over 4000 is 0.011; five of them are odds of 1e-6.
    assert abs(sum(error**2 for error in errors) / 4000 - 1.0) < 0.12
