"""The calibration judges answers rightly."""

import json

import pytest

from perfguard.search import SearchConfig
from perfguard.search.worlds import Simulation, World
from perfguard.workflows.calibrate import METHODS, Answer, Named, calibrate, judge_answer, perfguard_search, tally_row


def seeded(world, *, wanted):
    return next(simulation for seed in range(1000) if wanted(simulation := Simulation(world, seed)))


def test_answers_are_held_against_the_truth():
    plain, quiet = Simulation(World(), 0), Simulation(World(effect_frac=0.0), 0)
    assert judge_answer(plain, Named(commits=(plain.culprit,))) is Answer.CORRECT
    assert judge_answer(plain, Named(commits=(plain.culprit, plain.culprit % 126 + 1))) is Answer.WRONG
    assert judge_answer(plain, Named(commits=None)) is Answer.MISSED
    assert judge_answer(plain, Named(commits=None, unknown=True)) is Answer.UNKNOWN
    assert judge_answer(quiet, Named(commits=None)) is Answer.CORRECT
    assert judge_answer(quiet, Named(commits=(5,))) is Answer.WRONG


def test_a_broken_culprit_is_told_with_those_it_cannot_be_told_from():
    broken = seeded(World(untestable_frac=0.2), wanted=lambda simulation: simulation.culprit in simulation.broken)
    row = sorted(broken.candidates())
    assert len(row) >= 2
    assert judge_answer(broken, Named(commits=tuple(row))) is Answer.CORRECT
    assert judge_answer(broken, Named(commits=(*row, row[-1] + 1))) is Answer.WRONG
    without = tuple(index for index in row if index != broken.culprit)
    assert judge_answer(broken, Named(commits=without)) is Answer.WRONG


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_is_counted(method):
    tally = calibrate(World(revisions=16, effect_frac=0.5, noise_frac=0.01), method, range(5))
    # A test at p < 0.01 with ten looks a search now and then names one too many.
    assert tally.count(Answer.CORRECT) >= (3 if "ladder" in method else 5)
    row = tally_row(tally)
    assert (row["correct"], row["searches"]) == (tally.count(Answer.CORRECT), 5)
    assert row["p95_trials"] == max(tally.trials)
    assert json.dumps(row, allow_nan=False)


def test_the_search_meets_its_figures_on_a_small_sample():
    # The checked-in table has a thousand a cell; this is the alarm that goes off when something breaks.
    for effect, most in ((0.10, 40.0), (0.0, 30.0)):
        tally = calibrate(World(effect_frac=effect), "perfguard", range(60))
        assert tally.count(Answer.WRONG) == 0
        assert tally.count(Answer.CORRECT) >= 57
        assert tally.mean_trials <= most


def test_a_budget_that_is_too_small_is_told_as_unknown():
    methods = {"short": perfguard_search(SearchConfig(max_trials=8))}
    tally = calibrate(World(effect_frac=0.2), "short", range(5), methods)
    assert tally.count(Answer.UNKNOWN) == 5
