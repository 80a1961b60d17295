"""Duels: right verdicts on simulated servers, fresh starts where they pay, and an end where nothing can be measured."""

import math
from collections import Counter

import numpy as np
import pytest

from perfguard.search import Duel, DuelConfig, DuelVerdict, Outcome, Question, Side, answer
from perfguard.search.duel import UNSTEADY_SD, confidence_to_name
from perfguard.search.duel_worlds import Disturbance, DuelAnswer, DuelSimulation, DuelWorld, judge_duel
from perfguard.search.worlds import Drift
from perfguard.stats.starts import effect_posterior


def fight(effect, *, question=Question.WORSE, start_sd=0.01, noise=0.04, drift=0.01, seed=0, broken=None, rounds=24):
    """Fight one duel; returns the result and the rounds that were asked for."""
    rng = np.random.default_rng(seed)
    config = DuelConfig(question=question, confidence=0.95, min_effect=0.05, max_rounds=rounds)
    duel, level, start, servers, asked = Duel(config, seed=seed), 0.0, 0, {}, []
    while (round_ := duel.next_round()) is not None:
        asked.append(round_)
        if round_.fresh:
            servers = {side: (start + i, rng.normal(0.0, start_sd)) for i, side in enumerate(Side)}
            start += 2
        for side in round_.order:
            number, luck = servers[side]
            if side is broken:
                duel.record(side, number, Outcome.UNTESTABLE)
                break
            level += rng.normal(0.0, drift)
            truth = level + luck + (effect if side is Side.CANDIDATE else 0.0)
            duel.record(side, number, truth + noise * rng.standard_t(4) / math.sqrt(2.0))
    return duel.result(), asked


@pytest.mark.parametrize(
    ("effect", "question", "right"),
    [
        (0.17, Question.WORSE, DuelVerdict.WORSE),
        (0.0, Question.WORSE, DuelVerdict.NO_CHANGE),
        (-0.17, Question.WORSE, DuelVerdict.NO_CHANGE),
        (-0.17, Question.BETTER, DuelVerdict.BETTER),
        (0.17, Question.BETTER, DuelVerdict.NO_CHANGE),
        (0.0, Question.DIFFERENT, DuelVerdict.NO_CHANGE),
        (-0.17, Question.DIFFERENT, DuelVerdict.BETTER),
    ],
)
def test_verdicts_are_right_or_open(effect, question, right):
    verdicts = Counter(fight(effect, question=question, seed=seed)[0].verdict for seed in range(12))
    assert set(verdicts) <= {right, DuelVerdict.UNKNOWN}
    assert verdicts[right] >= 10


def test_nothing_is_decided_on_one_start_and_servers_are_used_more_than_once():
    result, asked = fight(0.4, noise=0.005, start_sd=0.005)
    assert result.verdict is DuelVerdict.WORSE
    assert (result.starts, result.rounds) == (3, 6)
    assert [round_.fresh for round_ in asked] == [True, False] * 3
    assert result.probability > 0.95


def test_the_further_starts_lie_apart_the_surer_a_change_must_be():
    steady, apart, far = (confidence_to_name(0.95, start_sd) for start_sd in (0.0, UNSTEADY_SD, 0.09))
    assert steady == pytest.approx(0.95)
    assert apart == pytest.approx(0.975)
    assert far == pytest.approx(0.995)
    config = DuelConfig(question=Question.WORSE, confidence=0.95, min_effect=0.05)
    groups = [[0.22, 0.24], [0.06, 0.08], [0.18, 0.16], [0.12, 0.14], [0.24, 0.26]]
    posterior = effect_posterior(groups)
    assert 0.95 < posterior.p_towards(1) < confidence_to_name(0.95, posterior.start_sd)
    assert answer(posterior, config) == (DuelVerdict.UNKNOWN, 0.0)


def test_two_pairs_of_starts_that_agree_by_chance_name_nothing():
    duel, start = Duel(DuelConfig(question=Question.WORSE, confidence=0.95, min_effect=0.05)), 0
    for offset, difference in ((0.0, 0.15), (0.2, 0.16), (-0.1, 0.12)):
        start += 2
        for noise in (0.0, 0.01):
            assert duel.next_round() is not None
            duel.record(Side.BASELINE, start, offset + noise)
            duel.record(Side.CANDIDATE, start + 1, offset + difference)
            assert duel.result().verdict is DuelVerdict.UNKNOWN
    assert (duel.result().starts, duel.result().reason) == (3, "")


def test_starts_that_differ_are_answered_with_more_starts():
    lucky = [fight(0.1, start_sd=0.002, noise=0.06, drift=0.0, seed=seed)[0] for seed in range(8)]
    varied = [fight(0.1, start_sd=0.06, noise=0.01, drift=0.0, seed=seed)[0] for seed in range(8)]
    rounds_per_start = [sum(r.rounds for r in some) / sum(r.starts for r in some) for some in (lucky, varied)]
    assert rounds_per_start[0] > rounds_per_start[1]


@pytest.mark.parametrize("side", list(Side))
def test_a_side_that_cannot_be_tested_ends_the_duel(side):
    result, asked = fight(0.2, broken=side)
    assert result.verdict is DuelVerdict.UNKNOWN
    assert result.reason == f"{side.value} cannot be tested"
    assert len(asked) == 2
    assert all(round_.fresh for round_ in asked)


def test_a_failure_on_the_way_starts_afresh_and_goes_on():
    duel = Duel(DuelConfig(question=Question.WORSE, confidence=0.95, min_effect=0.05))
    duel.next_round()
    duel.record(Side.BASELINE, 1, 0.0)
    duel.record(Side.CANDIDATE, 2, Outcome.UNTESTABLE)
    assert duel.next_round().fresh
    assert duel.result().rounds == 0


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_a_spent_budget_is_unknown(rounds):
    result, asked = fight(0.05, rounds=rounds, noise=0.2)
    assert result.verdict is DuelVerdict.UNKNOWN
    assert result.reason
    assert len(asked) == rounds


def test_both_orders_occur():
    _, asked = fight(0.05, seed=3)
    assert len({round_.order for round_ in asked}) == 2


@pytest.mark.parametrize(
    ("effect", "verdict", "answer"),
    [
        (0.0, DuelVerdict.NO_CHANGE, DuelAnswer.CORRECT),
        (0.0, DuelVerdict.WORSE, DuelAnswer.WRONG),
        (0.02, DuelVerdict.WORSE, DuelAnswer.SMALL),
        (0.05, DuelVerdict.NO_CHANGE, DuelAnswer.MISSED),
        (0.10, DuelVerdict.BETTER, DuelAnswer.WRONG),
        (0.10, DuelVerdict.WORSE, DuelAnswer.CORRECT),
        (0.10, DuelVerdict.UNKNOWN, DuelAnswer.UNKNOWN),
    ],
)
def test_answers_are_held_against_the_truth(effect, verdict, answer):
    assert judge_duel(DuelWorld(effect_frac=effect), verdict) is answer


@pytest.mark.parametrize("disturbance", list(Disturbance))
def test_in_every_kind_of_world_a_large_effect_is_named_and_none_is_made_up(disturbance):
    for drift in (Drift.NONE, Drift.WALK, Drift.STEP):
        worlds = [DuelWorld(effect_frac=effect, disturbance=disturbance, drift=drift) for effect in (0.0, 0.2)]
        none, large = (
            Counter(DuelSimulation(world, seed).fight(Duel(world.config(), seed=seed)).answer for seed in range(8))
            for world in worlds
        )
        assert large[DuelAnswer.CORRECT] >= 6
        assert none[DuelAnswer.WRONG] <= 1
