"""Two steps in one range: both are found, and neither is invented."""

import numpy as np
import pytest

from perfguard.search import Search, SearchConfig


def run(steps, seed, *, noise=0.02, revisions=64, **settings):
    rng = np.random.default_rng(seed)
    search = Search(revisions, SearchConfig(**settings), seed=seed)
    while (block := search.next_block()) is not None:
        for index in block:
            value = sum(effect for at, effect in steps if index >= at) + noise * rng.standard_t(4) / np.sqrt(2)
            search.record(index, value)
    return search.result()


@pytest.mark.parametrize("steps", [[(15, 0.1), (45, 0.1)], [(5, 0.15), (10, 0.1)], [(30, 0.1), (60, 0.2)]])
def test_both_steps_are_found(steps):
    truth, both = {at for at, _ in steps}, 0
    for seed in range(8):
        result = run(steps, seed)
        assert result.verdict == "culprit"
        assert truth.issuperset(result.culprits)
        assert result.culprit == result.culprits[0]
        both += set(result.culprits) == truth
    assert both >= 6


def test_the_larger_step_comes_first_with_its_own_effect():
    results = [run([(15, 0.10), (45, 0.25)], seed) for seed in range(6)]
    complete = [result for result in results if len(result.culprits) == 2]
    assert len(complete) >= 4
    for result in complete:
        assert result.culprits == [45, 15]
        assert result.effect == pytest.approx(0.25, abs=0.06)
        assert result.credible_set == [45]


def test_one_step_is_one_culprit():
    for seed in range(20):
        assert run([(30, 0.15)], seed).culprits == [30]


def test_a_step_back_is_no_culprit():
    for seed in range(8):
        result = run([(20, 0.2), (40, -0.1)], seed)
        assert set(result.culprits) <= {20}


def test_an_exhausted_budget_keeps_the_first_culprit():
    full = run([(15, 0.1), (45, 0.1)], 1)
    assert len(full.culprits) == 2
    short = run([(15, 0.1), (45, 0.1)], 1, max_trials=full.trials - 2)
    assert short.verdict == "culprit"
    assert len(short.culprits) == 1
    assert "what else changed is open" in short.reason
