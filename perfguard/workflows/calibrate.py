"""Calibrate: the search and its rivals on simulated worlds with a known truth, tallied cell by cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from perfguard.search import Outcome, Search, SearchConfig
from perfguard.search.rivals import git_bisect, pinpoint_ladder
from perfguard.search.worlds import Simulation, World

# What "wrong" may be at the most; the information limit is told for it.
WRONG_FRAC = 0.005


class Answer(str, Enum):
    """How an answer compares with the truth.

    CORRECT: the culprit, or the broken revisions in a row with it that nobody can tell apart; without an effect, "no
    change". WRONG: an innocent commit was named. MISSED: "no change" although there is one.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    MISSED = "missed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a method answered: the commits that it names (None: none), or that it cannot tell."""

    commits: tuple[int, ...] | None
    unknown: bool = False


Method = Callable[[Simulation, int], Named]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One method on one world: what it answered in how many searches, and the trials of each."""

    world: World
    method: str
    answers: tuple[Answer, ...]
    trials: tuple[int, ...]

    @property
    def searches(self) -> int:
        """How many searches were run."""
        return len(self.trials)

    @property
    def mean_trials(self) -> float:
        """The trials of a search on average."""
        return float(np.mean(self.trials))

    @property
    def p95_trials(self) -> int:
        """The trials that 95% of the searches stay within."""
        return int(np.quantile(self.trials, 0.95, method="higher"))

    @property
    def limit_trials(self) -> float:
        """The information limit of this world, for the same number of wrong answers in 200."""
        return self.world.information_limit_trials(WRONG_FRAC)

    def count(self, answer: Answer) -> int:
        """Return how often the method answered so."""
        return self.answers.count(answer)


def perfguard_search(config: SearchConfig) -> Method:
    """Return our search as a method."""

    def method(simulation: Simulation, seed: int) -> Named:
        search = Search(
            simulation.world.revisions,
            config,
            prior=None if simulation.prior is None else list(simulation.prior),
            seed=seed,
        )
        while (block := search.next_block()) is not None:
            for index in block:
                value = simulation.measure(index)
                search.record(index, Outcome.UNTESTABLE if value is None else value)
        result = search.result()
        if result.verdict == "culprit":
            return Named(commits=tuple(result.culprits))
        if result.verdict == "no_change":
            return Named(commits=None)
        # "One of these": named as far as it can be, when the search itself says so.
        told_apart = "cannot be tested" in result.reason
        return Named(commits=tuple(result.credible_set) if told_apart else None, unknown=not told_apart)

    return method


def bisect_median(simulation: Simulation, _seed: int) -> Named:
    """`git bisect` with the median of three, as a method."""
    return _named(git_bisect(simulation.world.revisions, simulation.measure))


def ladder(simulation: Simulation, _seed: int) -> Named:
    """The Pinpoint-like ladder, as a method."""
    return _named(pinpoint_ladder(simulation.world.revisions, simulation.measure))


def _named(commits: Sequence[int] | None) -> Named:
    return Named(commits=None if commits is None else tuple(commits))


OURS = "perfguard"
METHODS: dict[str, Method] = {
    OURS: perfguard_search(SearchConfig()),
    "git bisect, median of 3": bisect_median,
    "Pinpoint-like ladder": ladder,
}


def judge_answer(simulation: Simulation, named: Named) -> Answer:
    """Hold an answer against the truth."""
    if named.unknown:
        return Answer.UNKNOWN
    if named.commits is None:
        return Answer.CORRECT if simulation.culprit is None else Answer.MISSED
    # Every commit that is named must be one that nobody can tell from the culprit, and the culprit among them.
    right = simulation.culprit in named.commits and simulation.candidates().issuperset(named.commits)
    return Answer.CORRECT if right else Answer.WRONG


def calibrate(world: World, method: str, seeds: Iterable[int], methods: dict[str, Method] | None = None) -> Tally:
    """Run one method on one world, once a seed; equal seeds give every method the same machine."""
    run = (methods or METHODS)[method]
    answers, trials = [], []
    for seed in seeds:
        simulation = Simulation(world, seed)
        answers.append(judge_answer(simulation, run(simulation, seed)))
        trials.append(simulation.trials)
    return Tally(world=world, method=method, answers=tuple(answers), trials=tuple(trials))


def tally_row(tally: Tally) -> dict[str, str | int | float | None]:
    """Return one line of a calibration table; what has no number is None."""
    world = tally.world
    limit = None if math.isinf(tally.limit_trials) else tally.limit_trials
    return {
        "method": tally.method,
        "revisions": world.revisions,
        "effect_frac": world.effect_frac,
        "noise_frac": world.noise_frac,
        "noise": world.noise.value,
        "drift": world.drift.value,
        "untestable_frac": world.untestable_frac,
        "prior": world.prior.value,
        "searches": tally.searches,
        **{answer.value: tally.count(answer) for answer in Answer},
        "mean_trials": round(tally.mean_trials, 1),
        "p95_trials": tally.p95_trials,
        "limit_trials": None if limit is None else round(limit, 1),
        "mean_over_limit": None if limit is None else round(tally.mean_trials / limit, 2),
    }
