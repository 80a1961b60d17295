"""The posterior over first bad revisions: against numerical integration, and against single mad trials."""

import numpy as np
import pytest
from scipy import stats

from perfguard.search import posterior as posterior_module
from perfguard.search.posterior import (
    EFFECT_SCALES,
    EFFECT_WEIGHTS,
    NOISE_SCALES,
    NOISE_WEIGHTS,
    Observation,
    StepPosterior,
)

SMALLEST = 0.02


def fed(values, high=8, prior=None, blocks=None, **settings):
    model = StepPosterior(
        0, high, np.ones(high + 1) if prior is None else prior, prior_no_change=0.5, smallest=SMALLEST, **settings
    )
    for number, (index, value) in enumerate(values, 1):
        block = number if blocks is None else blocks[number - 1]
        model.add(Observation(trial=number, block=block, index=index, value=value))
    return model.summary()


def test_without_trials_it_is_the_prior():
    prior = np.array([0.0, 1.0, 3.0])
    summary = StepPosterior(0, 2, prior, prior_no_change=0.5, smallest=SMALLEST).summary()
    assert summary.first_bad[2] == pytest.approx(3 * summary.first_bad[1])
    assert summary.first_bad.sum() + summary.no_change == pytest.approx(1.0)


def test_a_steady_pair_agrees_with_numerical_integration(monkeypatch):
    # One noise scale and no gross outliers, so that the sum over everything else can be done by brute force.
    monkeypatch.setattr(posterior_module, "GROSS_WEIGHT", 1e-12)
    monkeypatch.setattr(posterior_module, "NOISE_SCALES", (1.0,))
    monkeypatch.setattr(posterior_module, "NOISE_WEIGHTS", (1.0,))
    good, bad = [0.01, -0.015, 0.02, 0.0], [0.08, 0.05, 0.09, 0.06]
    trials = [pair for values in zip(good, bad, strict=True) for pair in ((0, values[0]), (1, values[1]))]
    summary = fed(trials, high=1, steady=True)

    cells = StepPosterior(0, 1, np.ones(2), prior_no_change=0.5, smallest=SMALLEST, steady=True)
    scales, place = np.unique(np.sqrt(cells._noise), return_inverse=True)
    weights = np.bincount(place, weights=np.exp(cells._cell_log_prior))
    levels = np.linspace(-0.2, 0.3, 1001)

    def evidence(effect, scale):
        """Return the likelihood of all trials, with a flat level summed out."""
        density = sum(stats.norm.logpdf(v, levels, scale) for v in good)
        density = density + sum(stats.norm.logpdf(v, levels + effect, scale) for v in bad)
        return np.exp(density).sum()

    effects = np.linspace(0.0, 0.5, 501)
    prior = sum(
        weight * 2 * stats.norm.pdf(effects, 0, SMALLEST * scale)
        for scale, weight in zip(EFFECT_SCALES, EFFECT_WEIGHTS, strict=True)
    )
    by_effect = np.array([sum(w * evidence(e, s) for s, w in zip(scales, weights, strict=True)) for e in effects])
    none = sum(w * evidence(0.0, s) for s, w in zip(scales, weights, strict=True))
    joint = prior * by_effect * (effects[1] - effects[0])
    matters = joint[effects >= SMALLEST / 2].sum()
    better = summary.better
    expected = matters / (joint.sum() + none) * (1.0 - better)
    assert summary.first_bad[1] == pytest.approx(expected, rel=0.02)
    mean = (joint * effects).sum() / joint.sum()
    assert summary.effect == pytest.approx(mean, rel=0.02)


def test_the_mixture_is_close_to_students_t():
    values = np.linspace(-8, 8, 33)
    mixture = sum(w * stats.norm.pdf(values, 0, s) for s, w in zip(NOISE_SCALES, NOISE_WEIGHTS, strict=True))
    truth = stats.t.pdf(values, 4)
    assert sum(NOISE_WEIGHTS) == pytest.approx(1.0)
    assert np.all(np.abs(np.log(mixture / truth)) < 0.35)


@pytest.mark.parametrize("outlier", [1.1, -1.1])
@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_one_mad_trial_does_not_decide(outlier, at):
    rng = np.random.default_rng(at)
    trials = [((0, 8)[n % 2], 0.02 * rng.standard_normal()) for n in range(16)]
    without = fed(trials[:at] + trials[at + 1 :])
    trials[at] = (trials[at][0], outlier)
    mad = fed(trials)
    # It counts as if it had not been run.
    assert mad.no_change == pytest.approx(without.no_change, abs=0.03)
    assert mad.effect == pytest.approx(without.effect, abs=0.003)


def test_one_mad_trial_does_not_move_the_culprit():
    rng = np.random.default_rng(5)
    indices = [0, 8, 4, 8, 0, 4, 2, 0, 3, 8, 3, 2, 3, 2, 0, 8, 3, 2]
    trials = [(i, 0.1 * (i >= 3) + 0.015 * rng.standard_normal()) for i in indices]
    assert fed(trials).first_bad.argmax() == 3
    for at in (6, 8):
        mad = list(trials)
        mad[at] = (mad[at][0], mad[at][1] + 1.1)
        assert fed(mad).first_bad.argmax() == 3


def test_a_wandering_level_is_recognised_and_is_no_effect():
    rng = np.random.default_rng(6)
    level = np.cumsum(0.02 * rng.standard_normal(60))
    drifting = fed([((0, 8)[n % 2], level[n] + 0.01 * rng.standard_normal()) for n in range(60)])
    assert drifting.no_change > 0.8
    assert drifting.wandering > 0.9
    steady = fed([((0, 8)[n % 2], 0.01 * rng.standard_normal()) for n in range(60)])
    assert steady.wandering < 0.1


def test_a_step_of_the_machine_between_the_ends_is_no_effect():
    # All good ends first and all bad ones later would look the same; in blocks the step is the machine's.
    rng = np.random.default_rng(7)
    values = [((0, 8)[n % 2], 0.1 * (n >= 8) + 0.01 * rng.standard_normal()) for n in range(16)]
    assert fed(values, blocks=[n // 2 for n in range(16)]).no_change > 0.9


def test_a_change_for_the_better_is_not_one_for_the_worse():
    summary = fed([((0, 8)[n % 2], -0.2 * (n % 2) + 0.001 * n) for n in range(10)])
    assert summary.better > 0.95
    assert summary.relevant < 0.01


def test_unmeasured_revisions_share_their_interval_by_the_prior():
    prior = np.array([0.0, 1, 1, 4, 1, 1, 1, 1, 1])
    summary = fed([(0, 0.0), (8, 0.1), (0, 0.0), (8, 0.1), (4, 0.1), (4, 0.1)], prior=prior)
    assert summary.first_bad[3] == pytest.approx(4 * summary.first_bad[1])
    assert summary.first_bad[1:5].sum() > 0.8


def test_the_interval_covers_the_effect():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        trials = [((0, 8)[n % 2], 0.1 * (n % 2) + 0.03 * rng.standard_t(4) / np.sqrt(2)) for n in range(16)]
        summary = fed(trials)
        covered += abs(summary.effect - 0.1) <= 1.96 * summary.effect_sd
    # 200 draws at 0.95, four standard deviations are 0.06; the prior's pull towards 0 costs a little.
    assert covered >= 176
