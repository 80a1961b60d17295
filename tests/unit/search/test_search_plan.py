"""Plans: what is expected is about what it takes, and is told in one line."""

import math

import numpy as np
import pytest

from perfguard.search import Duel, Question, Search, SearchConfig
from perfguard.search.duel_worlds import DuelSimulation, DuelWorld
from perfguard.search.plan import Costs, Played, likely_effects, make_plan, play_duel, play_search


def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize(("effect", "noise"), [(0.0, 0.03), (0.0, 0.06), (0.10, 0.06), (0.20, 0.06)])
def test_a_duel_takes_about_as_long_as_is_expected(effect, noise):
    world = DuelWorld(effect_frac=effect, noise_frac=noise)
    fought = [DuelSimulation(world, seed).fight(Duel(world.config(), seed=seed)).result for seed in range(16)]
    played = play_duel(world.config(), np.full(256, math.log1p(effect)), rng(), spreads=fought[0].posterior)
    rounds = np.mean([result.rounds for result in fought])
    assert 0.55 < played.trials.mean() / 2.0 / rounds < 1.6
    assert played.found.mean() == pytest.approx(1.0 if effect else 0.0, abs=0.25)


def test_a_search_takes_about_as_long_as_is_expected():
    taken, random = [], rng()
    for seed in range(20):
        search = Search(129, SearchConfig(min_effect=0.05, gate=False, confirm=False, shared_level=True), seed=seed)
        culprit = int(random.integers(1, 129))
        for end in (0, 128, 0, 128, 0, 128):
            search.observe(end, 0.5 * (end >= culprit) + 0.05 * random.standard_normal())
        while (block := search.next_block()) is not None:
            for index in block:
                search.record(index, 0.5 * (index >= culprit) + 0.05 * random.standard_normal())
        taken.append(search.result().trials)
    played = play_search([1.0] * 129, rng(), confidence=0.95)
    assert 0.6 < played.trials.mean() / np.mean(taken) < 1.6


def test_what_is_known_of_revisions_saves_trials():
    even = play_search([1.0] * 129, rng(), confidence=0.95)
    told = play_search([100.0 if k == 5 else 0.1 for k in range(129)], rng(), confidence=0.95)
    assert told.trials.mean() < 0.6 * even.trials.mean()
    assert play_search([0.0, 1.0], rng(), confidence=0.95).trials.max() == 0


def test_a_duel_that_has_begun_takes_less():
    config = DuelWorld().config()
    begun = DuelSimulation(DuelWorld(effect_frac=0.0, noise_frac=0.03), 1).fight(Duel(config)).result
    effects = likely_effects(rng(), Question.WORSE, begun.posterior)
    whole = play_duel(config, effects, rng(), spreads=begun.posterior)
    rest = play_duel(
        config, effects, rng(), spreads=begun.posterior, begun=begun.posterior, rounds=begun.rounds, starts=begun.starts
    )
    assert rest.trials.mean() < whole.trials.mean()


def test_later_stages_come_only_where_something_was_found():
    gate = Played(trials=np.array([4, 6]), pairs_of_starts=np.array([2.0, 3.0]), found=np.array([True, False]))
    rest = Played(trials=np.array([10, 10]), pairs_of_starts=np.array([5.0, 5.0]), found=np.array([True, True]))
    both = gate.then(rest)
    assert both.trials.tolist() == [14, 6]
    assert both.pairs_of_starts.tolist() == [7.0, 3.0]
    assert both.found.tolist() == [True, False]


def test_a_plan_adds_what_is_done_and_is_told_in_one_line():
    played = Played(trials=np.full(8, 10), pairs_of_starts=np.full(8, 3.0), found=np.full(8, True))
    plan = make_plan(played, Costs(), trials_done=12, wall_done_s=307.0, max_trials=120)
    assert plan.describe() == "expects 22 trials (90%: 22 to 22), about 8 minutes (8 to 8)"
    assert make_plan(played, Costs(), trials_done=12, max_trials=15).trials.high == 15


@pytest.mark.parametrize(("question", "signs"), [(Question.WORSE, {0, 1}), (Question.BETTER, {0, -1})])
def test_before_anything_is_known_some_ranges_hold_nothing(question, signs):
    effects = likely_effects(rng(), question, None)
    assert set(np.sign(effects)) == signs
    assert 0.2 < (effects == 0.0).mean() < 0.6
