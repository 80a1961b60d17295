"""The search against small simulated worlds with a known culprit."""

import json
import math

import numpy as np
import pytest

from perfguard.search import Outcome, Search, SearchConfig


def drive(search, world, *, untestable=(), stop_after=None):
    trials = 0
    while (block := search.next_block()) is not None:
        for index in block:
            search.record(index, Outcome.UNTESTABLE if index in untestable else world(index))
            trials += 1
            if stop_after is not None and trials >= stop_after:
                return search
    return search


def noisy(rng, culprit, effect, sigma):
    return lambda index: 3.0 + effect * (index >= culprit) + sigma * rng.standard_normal()


@pytest.mark.parametrize("culprit", [1, 5, 17, 31])
def test_a_clear_step_is_found_with_few_trials(culprit):
    found, trials = 0, []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        result = drive(Search(32, SearchConfig(), seed=seed), noisy(rng, culprit, 0.1, 0.02)).result()
        found += result.culprit == culprit
        trials.append(result.trials)
        assert result.verdict != "culprit" or result.culprit == culprit
    assert found >= 9
    assert np.mean(trials) < 60


def test_no_effect_names_nobody():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        result = drive(Search(16, SearchConfig(min_effect=0.05), seed=seed), noisy(rng, 99, 0.0, 0.03)).result()
        assert result.verdict == "no_change"
        assert result.culprit is None
        assert result.credible_set == []


def test_a_speedup_is_not_a_culprit_but_is_one_when_asked_for():
    rng = np.random.default_rng(1)
    slower = drive(Search(8, SearchConfig()), noisy(rng, 3, -0.2, 0.02)).result()
    assert slower.verdict == "no_change"
    faster = drive(Search(8, SearchConfig(direction="faster")), noisy(rng, 3, -0.2, 0.02)).result()
    assert (faster.verdict, faster.culprit) == ("culprit", 3)
    assert faster.effect == pytest.approx(-0.2, abs=0.05)
    assert faster.effect_low < -0.2 < faster.effect_high or abs(faster.effect + 0.2) < 0.05


def test_untestable_neighbours_end_as_a_credible_set():
    rng = np.random.default_rng(2)
    search = drive(Search(16, SearchConfig(), seed=3), noisy(rng, 7, 0.2, 0.02), untestable=(6, 7))
    result = search.result()
    assert result.verdict == "unknown"
    assert result.credible_set == [6, 7, 8]
    assert result.reason == "2 revisions between the last good and the first bad cannot be tested"


def test_an_end_that_cannot_be_tested_is_not_slow():
    result = drive(Search(16, SearchConfig()), lambda _: 1.0, untestable=(15,)).result()
    assert result.verdict == "unknown"
    assert "bad end" in result.reason
    assert result.trials <= 6


def test_drift_between_blocks_cancels():
    rng = np.random.default_rng(4)
    clock = iter(range(10_000))
    result = drive(
        Search(64, SearchConfig(), seed=5),
        lambda index: 0.1 * (index >= 40) + 0.02 * rng.standard_normal() + 0.004 * next(clock),
    ).result()
    assert result.culprit == 40


@pytest.mark.parametrize("stop_after", [1, 2, 7, 11, 20])
def test_a_saved_search_continues_identically(stop_after):
    def world():
        rng = np.random.default_rng(9)
        return noisy(rng, 11, 0.1, 0.02)

    straight = drive(Search(20, SearchConfig(), seed=6), world()).result()
    first_world = world()
    broken = drive(Search(20, SearchConfig(), seed=6), first_world, stop_after=stop_after)
    resumed = Search.from_json(json.dumps(json.loads(broken.to_json())))
    for index in resumed.pending:
        resumed.record(index, first_world(index))
    result = drive(resumed, first_world).result()
    assert result.culprit == straight.culprit
    assert result.trials == straight.trials
    assert np.array_equal(result.posterior, straight.posterior)


def test_the_budget_ends_in_unknown():
    rng = np.random.default_rng(0)
    result = drive(Search(64, SearchConfig(max_trials=9)), noisy(rng, 10, 0.5, 0.2)).result()
    assert result.verdict == "unknown"
    assert result.trials <= 9
    assert "budget of 9 trials" in result.reason


def test_a_misleading_prior_does_not_hide_the_culprit():
    prior = np.zeros(32)
    prior[25] = 1.0
    rng = np.random.default_rng(7)
    result = drive(Search(32, SearchConfig(), prior=list(prior), seed=8), noisy(rng, 9, 0.2, 0.02)).result()
    assert result.culprit == 9


def test_posterior_sums_to_one():
    rng = np.random.default_rng(11)
    result = drive(Search(10, SearchConfig(), seed=1), noisy(rng, 4, 0.1, 0.02)).result()
    assert math.isclose(result.posterior.sum() + result.p_no_change, 1.0, abs_tol=1e-9)
    assert result.posterior[0] == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: Search(1, SearchConfig()),
        lambda: Search(4, SearchConfig(), prior=[1.0, 2.0]),
        lambda: SearchConfig(confidence=1.5),
        lambda: SearchConfig(min_effect=0.0),
        lambda: SearchConfig(direction="sideways"),
        lambda: Search(4, SearchConfig()).record(2, 1.0),
    ],
)
def test_impossible_input_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_told_ends_leave_one_trial_a_step():
    rng = np.random.default_rng(3)
    world = noisy(rng, 9, 3.0, 0.1)
    search = Search(32, SearchConfig(gate=False, confirm=False, shared_level=True), seed=2)
    for end in (0, 31, 0, 31, 0, 31):
        search.observe(end, world(end))
    saved = Search.from_json(search.to_json())
    result = drive(search, world).result()
    assert (result.verdict, result.culprit) == ("culprit", 9)
    assert result.trials <= 7
    assert saved.next_block() is not None
    with pytest.raises(ValueError):
        search.observe(0, 1.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {"colour": 1}, "told": [], "history": []}'])
def test_what_is_no_saved_search_is_refused(text):
    with pytest.raises(ValueError):
        Search.from_json(text)


def test_a_saved_search_that_was_tampered_with_is_refused():
    document = json.loads(Search(4, SearchConfig(), seed=1).to_json())
    document["history"] = [[2, 0.1]]
    with pytest.raises(ValueError, match="not part of the current block"):
        Search.from_json(json.dumps(document))
