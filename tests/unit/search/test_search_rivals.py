"""The rivals find what is plain, and the worlds are what they say."""

import numpy as np
import pytest

from perfguard.search.rivals import git_bisect, pinpoint_ladder
from perfguard.search.worlds import HORIZON, Drift, Noise, PriorKind, Simulation, World


def exact(culprit, broken=()):
    counter = iter(range(100_000))
    return lambda index: None if index in broken else (0.1 if index >= culprit else 0.0) + 1e-4 * (next(counter) % 7)


@pytest.mark.parametrize("method", [git_bisect, pinpoint_ladder])
@pytest.mark.parametrize("culprit", [1, 13, 31])
def test_without_noise_everyone_finds_it(method, culprit):
    assert method(32, exact(culprit)) == [culprit]


@pytest.mark.parametrize("method", [git_bisect, pinpoint_ladder])
def test_broken_neighbours_are_named_with_it(method):
    assert method(32, exact(13, broken=(12, 13))) == [12, 13, 14]


def test_the_ladder_sees_that_nothing_changed():
    rng = np.random.default_rng(3)
    assert pinpoint_ladder(32, lambda _: rng.standard_normal()) is None


def test_git_bisect_needs_three_trials_a_step():
    simulation = Simulation(World(effect_frac=0.5, noise_frac=0.001), 1)
    assert git_bisect(128, simulation.measure) == [simulation.culprit]
    assert simulation.trials == 3 * (2 + 7)


def test_the_noise_has_the_deviation_it_says():
    for noise in (Noise.NORMAL, Noise.T4):
        simulation = Simulation(World(effect_frac=0.0, noise=noise, noise_frac=0.03), 4)
        values = [simulation.measure(0) for _ in range(HORIZON)]
        assert np.std(values) == pytest.approx(0.03, rel=0.08)
    simulation = Simulation(World(effect_frac=0.0, noise=Noise.OUTLIERS, noise_frac=0.03), 4)
    values = np.array([simulation.measure(0) for _ in range(HORIZON)])
    assert np.mean(values > 0.5) == pytest.approx(0.02, abs=0.007)


def test_drifts_move_as_they_say():
    for drift, spread in ((Drift.NONE, 0.0), (Drift.SINE, 0.05 / np.sqrt(2)), (Drift.STEP, 0.0)):
        simulation = Simulation(World(effect_frac=0.0, noise_frac=1e-9, drift=drift), 2)
        values = np.array([simulation.measure(0) for _ in range(600)])
        assert np.std(values[60:]) == pytest.approx(spread, abs=2e-3)
        if drift is Drift.STEP:
            assert abs(values[-1] - values[0]) == pytest.approx(np.log(1.1))
    walk = Simulation(World(effect_frac=0.0, noise_frac=1e-9, drift=Drift.WALK), 2)
    steps = np.diff([walk.measure(0) for _ in range(2000)])
    assert np.std(steps) == pytest.approx(0.01, rel=0.1)


def test_equal_seeds_are_equal_machines_and_others_are_not():
    world = World(drift=Drift.WALK, untestable_frac=0.2)
    one, same, other = Simulation(world, 5), Simulation(world, 5), Simulation(world, 6)
    draws = [[machine.measure(0) for _ in range(5)] for machine in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]
    assert (one.culprit, one.broken) == (same.culprit, same.broken)


def test_a_fifth_of_the_revisions_is_broken_and_the_ends_never():
    world = World(revisions=1024, untestable_frac=0.2)
    shares = [len(Simulation(world, seed).broken) / 1024 for seed in range(20)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)
    assert all({0, 1023}.isdisjoint(Simulation(world, seed).broken) for seed in range(20))


def test_hints_point_where_they_should():
    good = Simulation(World(prior=PriorKind.INFORMATIVE), 3)
    bad = Simulation(World(prior=PriorKind.MISLEADING), 3)
    assert good.prior[good.culprit] > 5 * np.median(good.prior)
    assert bad.prior[bad.culprit] == 0.0
    assert bad.prior.max() > 5 * np.median(bad.prior)


def test_the_information_limit_is_the_published_one():
    # 10% and 5% at noise 3% with a wrong answer in 200: 20 and 53 trials where the effect is taken as 0.10 and 0.05.
    assert World(effect_frac=np.expm1(0.10)).information_limit_trials(0.005) == pytest.approx(20.3, abs=0.2)
    assert World(effect_frac=np.expm1(0.05)).information_limit_trials(0.005) == pytest.approx(53.6, abs=0.2)
    assert World(effect_frac=0.0).information_limit_trials(0.005) == np.inf


@pytest.mark.parametrize(
    "settings", [{"revisions": 1}, {"effect_frac": -0.1}, {"noise_frac": 0.0}, {"untestable_frac": 0.9}]
)
def test_impossible_worlds_are_refused(settings):
    with pytest.raises(ValueError):
        World(**settings)
