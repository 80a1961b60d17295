"""Effects over server starts: right centres, honest widths, and no certainty from one start."""

import math

import numpy as np
import pytest
from scipy import stats

from perfguard.stats.ratios import geometric_interval, ratio_effect
from perfguard.stats.starts import USUAL_STARTS, effect_posterior


def measured(rng, effect, starts, rounds, start_sd, noise):
    lucks = rng.normal(0.0, start_sd * math.sqrt(2.0), starts)
    return [list(effect + luck + noise * rng.standard_t(4, rounds) / math.sqrt(2.0)) for luck in lucks]


@pytest.mark.parametrize(("start_sd", "noise"), [(0.005, 0.05), (0.02, 0.03)])
def test_intervals_hold_the_truth_as_often_as_they_say(start_sd, noise):
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(60):
        low, high = effect_posterior(measured(rng, 0.15, 3, 3, start_sd, noise)).interval(0.95)
        held += low <= 0.15 <= high
    # Binomial(60, 0.95) is 50 or more with odds of all but 1e-3; the seed is fixed.
    assert held >= 50


def straight(groups, starts_per_group):
    """Integrate the model offset by offset (Gauss-Hermite): (effects, their density, log Bayes factor)."""
    effects = np.linspace(-0.3, 0.3, 121)
    nodes, shares = np.polynomial.hermite_e.hermegauss(41)
    likelihood = np.zeros(effects.size)
    for start_sd in np.geomspace(0.002, 0.256, 8):
        means = effects[:, None] + start_sd * math.sqrt(starts_per_group) * nodes
        for noise in np.geomspace(0.002, 0.5, 16):
            product = np.full(effects.size, stats.t.pdf(start_sd / 0.05, 1.0) * start_sd)
            for group in groups:
                errors = (np.array(group)[:, None, None] - means) / noise
                product *= np.prod((1.0 + errors**2 / 4.0) ** -2.5 / noise, axis=0) @ shares
            likelihood += product
    prior = stats.norm.pdf(effects, 0.0, 0.2)
    prior /= prior.sum()
    evidence = likelihood @ prior
    return effects, likelihood * prior / evidence, math.log(evidence / likelihood[effects.size // 2])


@pytest.mark.parametrize(("starts_per_group", "outlier"), [(2, 0.0), (1, 0.0), (2, 1.1)])
def test_the_posterior_is_that_of_the_model(starts_per_group, outlier):
    groups = [[0.07, 0.15, 0.11], [0.02 + outlier, 0.06, 0.12], [0.16, 0.05]]
    posterior = effect_posterior(groups, starts_per_group=starts_per_group)
    effects, density, log_bayes_factor = straight(groups, starts_per_group)
    assert posterior.log_bayes_factor == pytest.approx(log_bayes_factor, abs=0.03)
    for probability in (0.025, 0.5, 0.975):
        expected = np.interp(probability, np.cumsum(density) - density / 2.0, effects)
        # Where an outlier lets a group lie beyond the cells, the widest spreads lose a little there.
        assert posterior.quantile(probability) == pytest.approx(expected, abs=0.008 if outlier else 0.003)


def test_evidence_for_a_sign_expects_what_another_comparison_saw():
    seen = effect_posterior([[0.2, 0.21, 0.19], [0.19, 0.2, 0.22]])
    like, unlike = ([[shift + x for x in (0.02, -0.03, 0.01)], [shift, shift - 0.02]] for shift in (0.2, -0.2))
    posterior, other = effect_posterior(like), effect_posterior(unlike)
    # What was expected is worth more than the wide prior gives it, at the most what half of a sharp one can.
    gain = posterior.log_bayes_factor_towards(1, expected=seen) - posterior.log_bayes_factor
    assert math.log(2.0) < gain < math.log(20.0)
    assert other.log_bayes_factor_towards(1, expected=seen) < 0.0
    assert other.log_bayes_factor_towards(-1, expected=seen) > 2.0


def test_many_values_of_one_start_are_no_many_witnesses():
    rng = np.random.default_rng(5)
    one = effect_posterior([list(0.1 + 0.02 * rng.standard_normal(40))])
    five = effect_posterior([list(0.1 + 0.02 * rng.standard_normal(8)) for _ in range(5)])
    widths = [np.diff(posterior.interval(0.95))[0] for posterior in (one, five)]
    assert widths[0] > 0.05
    assert widths[1] < 0.75 * widths[0]


def test_starts_that_disagree_widen_the_interval():
    agree = effect_posterior([[0.10, 0.11, 0.09], [0.10, 0.11, 0.09]])
    differ = effect_posterior([[0.00, 0.01, -0.01], [0.20, 0.21, 0.19]])
    assert differ.start_sd > 2 * agree.start_sd
    assert np.diff(differ.interval(0.95)) > 2.5 * np.diff(agree.interval(0.95))


def test_sums_tell_whether_starts_that_agree_do_so_by_chance():
    differences = [[0.10, 0.11], [0.10, 0.12], [0.11, 0.09]]
    steady, drifting, varied = (
        effect_posterior(differences, sums=[[9.0 + offset, 9.01 + offset] for offset in offsets])
        for offsets in ((0.0, 0.01, -0.01), (0.0, 0.1, 0.2), (0.2, -0.25, 0.1))
    )
    alone = effect_posterior(differences)
    assert steady.start_sd < alone.start_sd < min(drifting.start_sd, varied.start_sd)
    assert steady.log_bayes_factor > alone.log_bayes_factor > varied.log_bayes_factor
    # What the sums spread may be drift: they widen the interval, and do not void it.
    assert np.diff(varied.interval(0.95)) < 4.0 * np.diff(alone.interval(0.95))
    assert varied.quantile(0.5) == pytest.approx(0.105, abs=0.01)


def test_one_sum_tells_nothing_of_a_spread():
    one = effect_posterior([[0.1, 0.12]], sums=[[9.0, 9.1]])
    assert one.start_sd == effect_posterior([[0.1, 0.12]]).start_sd


def test_who_expects_starts_to_differ_is_less_sure_of_two_that_agree():
    groups = [[0.10, 0.11, 0.09], [0.10, 0.11, 0.09]]
    usual, wide = effect_posterior(groups, starts=USUAL_STARTS), effect_posterior(groups)
    assert np.diff(usual.interval(0.95)) < np.diff(wide.interval(0.95))
    assert usual.p_towards(1) > wide.p_towards(1) > 0.8
    told = ratio_effect("throughput_rps", groups, 0.95)
    assert told.high - told.low < np.diff(np.exp(wide.interval(0.95)))


def test_an_outlier_does_not_decide():
    clean = [[0.01, -0.01, 0.0, 0.01], [0.0, 0.01, -0.01, 0.0]]
    spoilt = [[0.01, -0.01, 0.0, 1.1], [0.0, 0.01, -0.01, 0.0]]
    assert effect_posterior(spoilt).quantile(0.5) == pytest.approx(effect_posterior(clean).quantile(0.5), abs=0.01)


def test_probabilities_add_up_and_follow_the_sign():
    groups = [[0.2, 0.21, 0.19], [0.19, 0.2, 0.22], [0.2, 0.19, 0.21]]
    posterior = effect_posterior(groups)
    turned = effect_posterior([[-value for value in group] for group in groups])
    assert posterior.density.sum() == pytest.approx(1.0)
    assert posterior.p_towards(1) > 0.98
    assert turned.p_towards(-1) > 0.98
    assert turned.p_towards(1) < 0.01
    assert posterior.p_towards(1) + posterior.p_towards(-1) <= 1.0
    assert posterior.quantile(0.5) == pytest.approx(-turned.quantile(0.5), abs=0.01)
    assert posterior.p_between(-math.inf, 0.05) < 0.02 < posterior.p_between(0.1, 0.3)


def test_nothing_speaks_for_no_effect():
    posterior = effect_posterior([[0.004, -0.003, 0.0], [-0.002, 0.001, 0.003], [0.0, 0.002, -0.004]])
    assert posterior.log_bayes_factor < 0.0
    assert posterior.p_between(-0.05, 0.05) > 0.95


@pytest.mark.parametrize("groups", [[], [[]], [[0.1, math.nan]]])
def test_what_is_no_number_is_refused(groups):
    with pytest.raises(ValueError, match="finite"):
        effect_posterior(groups)


def test_a_ratio_counts_pairs_and_starts():
    effect = ratio_effect("throughput_rps", [[-0.2, -0.19], [-0.21, -0.18, -0.2]], 0.95)
    assert (effect.pairs, effect.starts) == (5, 2)
    assert effect.ratio == pytest.approx(math.exp(-0.196), rel=0.02)
    assert effect.low < effect.ratio < effect.high < 1.0


def test_geometric_interval():
    mean, low, high = geometric_interval([[90.0, 92.0], [110.0, 112.0]], 0.95)
    assert mean == pytest.approx(100.5, rel=0.02)
    assert (low < 92.0, high > 110.0) == (True, True)
    assert geometric_interval([[5.0]], 0.95) == (pytest.approx(5.0), None, None)
    for wrong in ([], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match=r"geometric mean|math domain|positive"):
            geometric_interval(wrong, 0.95)
