"""What a confirmation adds to a posterior, and whether what is stated in the end is right as often as it says."""

import math

import numpy as np
import pytest

from perfguard.search import Duel, DuelVerdict, Question, Search, SearchConfig
from perfguard.search.confirmation import METRICS_AGREE, before_confirming, confidence_needed, confirm, doubt_allowed
from perfguard.search.duel_worlds import DuelSimulation, DuelWorld


def test_odds_are_multiplied_by_the_bayes_factor():
    belief = np.array([0.0, 0.04, 0.9, 0.06])
    posterior = confirm(belief, 2, math.log(11.0))
    assert posterior.sum() == pytest.approx(1.0)
    assert posterior[2] / (1.0 - posterior[2]) == pytest.approx(9.0 * 11.0)
    # The others keep their proportions.
    assert posterior[1] / posterior[3] == pytest.approx(0.04 / 0.06)
    assert posterior[0] == 0.0


def test_evidence_for_no_difference_takes_belief_away():
    assert confirm(np.array([0.0, 0.2, 0.8]), 2, math.log(0.1))[2] < 0.3


def test_an_overwhelming_factor_does_not_overflow():
    assert confirm(np.array([0.0, 0.5, 0.5]), 1, 2000.0)[1] == 1.0
    assert confirm(np.array([0.0, 0.5, 0.5]), 1, -2000.0)[1] == pytest.approx(0.0)


def test_another_metric_is_not_believed_outright():
    located = np.array([0.0, 0.0, 0.98, 0.01])
    same = before_confirming(located, other_metric=False)
    assert same[2] == pytest.approx(0.98 / 0.99)
    other = before_confirming(located, other_metric=True)
    assert other.sum() == pytest.approx(1.0)
    assert other[0] == 0.0
    assert other[1] == pytest.approx((1.0 - METRICS_AGREE) / 3.0)


def test_the_duel_is_asked_for_what_is_still_missing():
    assert confidence_needed(0.5, 0.95) == pytest.approx(1.0 - doubt_allowed(0.95))
    assert confidence_needed(0.999, 0.95) == 0.95
    assert 0.99 < confidence_needed(0.1, 0.95) < 1.0


def place_and_confirm(seed, *, revisions=24, agree=METRICS_AGREE):
    """Gate, place on an evidence metric that moves elsewhere now and then, confirm; (stated posterior, right)."""
    rng = np.random.default_rng((5, seed))
    world = DuelWorld(effect_frac=0.18, start_sd=0.015, noise_frac=0.06)
    culprit = int(rng.integers(1, revisions))
    moved = culprit if rng.random() < agree else int(rng.integers(1, revisions))
    gate = DuelSimulation(world, seed).fight(Duel(world.config(), seed=seed)).result
    if gate.verdict is not DuelVerdict.WORSE:
        return None
    # One trial tells less than usual here, so that the search does end at wrong places.
    search = Search(
        revisions,
        SearchConfig(confidence=0.95, min_effect=0.05, gate=False, confirm=False, shared_level=True),
        seed=seed,
    )
    for end in (0, revisions - 1):
        for _ in range(4):
            search.observe(end, (0.3 if end >= moved else 0.0) + 0.1 * rng.standard_normal())
    while (block := search.next_block()) is not None:
        for index in block:
            search.record(index, (0.3 if index >= moved else 0.0) + 0.1 * rng.standard_normal())
    located = search.result()
    if located.culprit is None:
        return None
    belief = before_confirming(located.posterior, other_metric=True)
    pair = DuelWorld(effect_frac=0.18 if located.culprit == culprit else 0.0, start_sd=0.015, noise_frac=0.06)
    needed = confidence_needed(float(belief[located.culprit]), 0.95)
    config = type(world.config())(question=Question.WORSE, confidence=needed, min_effect=math.log1p(0.05))
    fought = DuelSimulation(pair, 10_000 + seed).fight(Duel(config, seed=seed)).result
    if fought.verdict is not DuelVerdict.WORSE:
        return None
    factor = fought.posterior.log_bayes_factor_towards(1, expected=gate.posterior)
    return float(confirm(belief, located.culprit, factor)[located.culprit]), located.culprit == culprit


def test_what_is_stated_is_right_as_often_as_it_says():
    named = [told for seed in range(60) if (told := place_and_confirm(seed)) is not None]
    assert len(named) >= 40
    stated = [posterior for posterior, _ in named]
    assert min(stated) >= 1.0 - doubt_allowed(0.95) - 1e-3
    # Of 60 named at 0.99 or more, four wrong ones would have odds of less than 0.004; the seeds are fixed.
    assert sum(not right for _, right in named) <= 3
