"""Duels: right verdicts on simulated servers, fresh starts where they pay, and an end where nothing can be measured."""

import math
from collections import Counter

import numpy as np
import pytest

from perfguard.search import Duel, DuelConfig, DuelVerdict, Outcome, Question, Side
from perfguard.search.duel_worlds import Disturbance, DuelAnswer, DuelSimulation, DuelWorld, judge_duel
from perfguard.search.worlds import Drift


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
    assert (result.starts, result.rounds) == (2, 6)
    assert [round_.fresh for round_ in asked] == [True, False, False, True, False, False]
    assert result.probability > 0.95


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
