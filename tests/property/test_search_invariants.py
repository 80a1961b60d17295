"""What must hold of every search, whatever the machine gives."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perfguard.search import Outcome, Search, SearchConfig
from perfguard.search.worlds import Drift, Noise, Simulation, World

worlds = st.builds(
    World,
    revisions=st.integers(2, 40),
    effect_frac=st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.5]),
    noise_frac=st.sampled_from([0.002, 0.01, 0.03, 0.1]),
    noise=st.sampled_from(Noise),
    drift=st.sampled_from(Drift),
    untestable_frac=st.sampled_from([0.0, 0.2, 0.5]),
)
configs = st.builds(
    SearchConfig,
    max_trials=st.integers(1, 90),
    gate=st.booleans(),
    confirm=st.booleans(),
    shared_level=st.booleans(),
    direction=st.sampled_from(["slower", "faster"]),
)


def values_of(world, seed, count=200):
    """Return what the machine would give at trial t on revision i, so that a replay meets the same machine."""
    simulation = Simulation(world, seed)
    levels = [simulation.measure(0) for _ in range(count)]

    def value(trial, index):
        if index in simulation.broken:
            return Outcome.UNTESTABLE
        slow = simulation.culprit is not None and index >= simulation.culprit
        return levels[trial] + (np.log1p(world.effect_frac) if slow else 0.0)

    return simulation, value


@settings(max_examples=60, deadline=None, derandomize=True)
@given(world=worlds, config=configs, seed=st.integers(0, 2**32))
def test_a_search_keeps_its_promises(world, config, seed):
    simulation, value = values_of(world, seed)
    search, trials = Search(world.revisions, config, seed=seed % 1000), 0
    while (block := search.next_block()) is not None:
        assert block
        assert len(set(block)) == len(block)
        for index in block:
            assert 0 <= index < world.revisions
            search.record(index, value(trials, index))
            trials += 1
        state = search.result()
        assert np.all(state.posterior >= 0.0)
        assert state.posterior[0] == 0.0
        assert abs(state.posterior.sum() + state.p_no_change - 1.0) < 1e-9
    result = search.result()
    assert result.trials == trials <= config.max_trials
    assert result.effect_low <= result.effect <= result.effect_high
    assert result.credible_set == sorted(set(result.credible_set))
    if result.verdict == "culprit":
        assert result.culprit == result.culprits[0]
        assert result.credible_set == [result.culprit]
        assert result.reason == "" or len(result.culprits) >= 1
        # Nobody is named who was not measured, nor whose parent was not.
        if config.confirm:
            assert result.culprit not in simulation.broken
            assert result.culprit - 1 not in simulation.broken
    else:
        assert result.culprit is None
        assert result.culprits == []
        assert result.reason


@settings(max_examples=40, deadline=None, derandomize=True)
@given(world=worlds, config=configs, seed=st.integers(0, 2**32), stop=st.integers(0, 40))
def test_saved_at_any_trial_it_continues_identically(world, config, seed, stop):
    _, value = values_of(world, seed)

    def drive(search, trials, until):
        while trials < until:
            due = search.pending or search.next_block()
            if due is None:
                break
            search.record(due[0], value(trials, due[0]))
            trials += 1
        return trials

    straight = Search(world.revisions, config, seed=seed % 1000)
    drive(straight, 0, 200)
    broken = Search(world.revisions, config, seed=seed % 1000)
    trials = drive(broken, 0, stop)
    resumed = Search.from_json(broken.to_json())
    assert resumed.to_json() == broken.to_json()
    assert resumed.pending == broken.pending
    drive(resumed, trials, 200)
    assert resumed.to_json() == straight.to_json()
    one, other = resumed.result(), straight.result()
    assert np.array_equal(one.posterior, other.posterior)
    assert (one.verdict, one.culprits, one.reason, one.trials) == (
        other.verdict,
        other.culprits,
        other.reason,
        other.trials,
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), effect=st.sampled_from([0.05, 0.1, 0.3]), revisions=st.integers(2, 60))
def test_a_change_for_the_better_is_never_a_culprit(seed, effect, revisions):
    rng = np.random.default_rng(seed)
    at = int(rng.integers(1, revisions))
    search = Search(revisions, SearchConfig(max_trials=100), seed=seed % 1000)
    while (block := search.next_block()) is not None:
        for index in block:
            search.record(index, -effect * (index >= at) + 0.02 * rng.standard_t(4))
    assert search.result().verdict != "culprit"


@settings(max_examples=5, deadline=None, derandomize=True)
@given(first_seed=st.integers(0, 10**6), effect=st.sampled_from([0.05, 0.1]), spikes=st.integers(1, 12))
def test_a_prior_that_is_dead_wrong_costs_little(first_seed, effect, spikes):
    trials = {"uniform": 0, "misleading": 0}
    for seed in range(first_seed, first_seed + 40):
        rng = np.random.default_rng(seed)
        at = int(rng.integers(1, 128))
        wrong = np.zeros(128)
        wrong[rng.choice([k for k in range(1, 128) if k != at], size=spikes, replace=False)] = 1.0
        for name, prior in (("uniform", None), ("misleading", wrong)):
            noise = np.random.default_rng([seed, 1])
            search = Search(128, SearchConfig(), prior=prior, seed=seed % 1000)
            while (block := search.next_block()) is not None:
                for index in block:
                    step = np.log1p(effect) * (index >= at)
                    search.record(index, step + 0.03 * noise.standard_t(4) / np.sqrt(2))
            result = search.result()
            # Whatever it was told beforehand, it blames nobody else.
            assert result.culprit in {None, at}
            trials[name] += result.trials
    assert trials["misleading"] <= 1.3 * trials["uniform"]
