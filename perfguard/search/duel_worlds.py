"""Simulated pairs of servers with a known difference, to calibrate the duel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from perfguard.search.config import Floats
from perfguard.search.duel import Duel, DuelConfig, DuelResult, DuelVerdict, Question, Side
from perfguard.search.worlds import OUTLIER_FACTOR, OUTLIER_FRAC, STEP_SIZE, WALK_PER_TRIAL, Drift

# What the real servers cost on two cores: starting one of either side at once, and one trial.
START_PAIR_S = 31.0
TRIAL_S = 10.0
# One start in eight is unlucky: its whole life is this much slower.
UNLUCKY_FRAC = 0.125
UNLUCKY_SIZE = 0.12
# The step of the machine's level comes somewhere in these trials; a duel has 12 to 72.
STEP_TRIALS = (4, 24)
HORIZON = 256


class Disturbance(str, Enum):
    """What a trial suffers from; its standard deviation is the world's (that of the bulk for OUTLIERS)."""

    NORMAL = "normal"
    T4 = "t4"
    OUTLIERS = "outliers"
    UNLUCKY = "unlucky start"


class DuelAnswer(str, Enum):
    """How a duel's verdict compares with the truth.

    WRONG: a change is named where there is none, or in the other direction. MISSED: "no change" although there is one
    of the smallest effect or more. SMALL: a change is named that is there, but smaller than was asked for.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    MISSED = "missed"
    SMALL = "small"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class DuelWorld:
    """One cell of a calibration; fractions. `start_sd` is the spread between starts of one server."""

    effect_frac: float = 0.10
    start_sd: float = 0.01
    noise_frac: float = 0.06
    disturbance: Disturbance = Disturbance.T4
    drift: Drift = Drift.NONE
    question: Question = Question.WORSE

    def config(self) -> DuelConfig:
        """Return what the packaged scenarios ask of a duel."""
        return DuelConfig(question=self.question, confidence=0.95, min_effect=math.log1p(0.05))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoughtDuel:
    """How one simulated duel went, and its wall time at the real servers' costs."""

    answer: DuelAnswer
    result: DuelResult
    wall_s: float


class DuelSimulation:
    """One drawn machine; trial after trial of either side, on starts that differ."""

    def __init__(self, world: DuelWorld, seed: int) -> None:
        """Draw everything that `seed` decides."""
        self.world = world
        self._random = np.random.default_rng([seed, round(1e4 * world.effect_frac)])
        self._disturbances = _noise(world, self._random) + _drift(world.drift, self._random)
        self._trials = 0
        self._starts = 0
        self._luck: dict[Side, tuple[int, float]] = {}

    def restart(self) -> None:
        """Start both servers afresh."""
        for side in Side:
            unlucky = self.world.disturbance is Disturbance.UNLUCKY and self._random.random() < UNLUCKY_FRAC
            luck = float(self._random.normal(0.0, self.world.start_sd)) + (UNLUCKY_SIZE if unlucky else 0.0)
            self._luck[side] = (self._starts, luck)
            self._starts += 1

    def measure(self, side: Side) -> tuple[int, float]:
        """Return the start that the next trial of `side` runs on, and what it gives."""
        start, luck = self._luck[side]
        effect = math.log1p(self.world.effect_frac) if side is Side.CANDIDATE else 0.0
        value = effect + luck + float(self._disturbances[self._trials])
        self._trials += 1
        return start, value

    def fight(self, duel: Duel) -> FoughtDuel:
        """Drive `duel` to its end on this machine."""
        wall_s = 0.0
        while (round_ := duel.next_round()) is not None:
            if round_.fresh:
                self.restart()
                wall_s += START_PAIR_S
            for side in round_.order:
                duel.record(side, *self.measure(side))
                wall_s += TRIAL_S
        result = duel.result()
        return FoughtDuel(answer=judge_duel(self.world, result.verdict), result=result, wall_s=wall_s)


def judge_duel(world: DuelWorld, verdict: DuelVerdict) -> DuelAnswer:
    """Hold a verdict against the truth; the world's effect is never an improvement."""
    if verdict is DuelVerdict.UNKNOWN:
        return DuelAnswer.UNKNOWN
    relevant = math.log1p(world.effect_frac) >= world.config().min_effect
    if verdict is DuelVerdict.NO_CHANGE:
        return DuelAnswer.MISSED if relevant else DuelAnswer.CORRECT
    if verdict is DuelVerdict.BETTER or world.effect_frac == 0.0:
        return DuelAnswer.WRONG
    return DuelAnswer.CORRECT if relevant else DuelAnswer.SMALL


def _noise(world: DuelWorld, random: np.random.Generator) -> Floats:
    if world.disturbance is Disturbance.T4:
        # The variance of Student's t with 4 degrees of freedom is 2.
        return random.standard_t(4, HORIZON) * (world.noise_frac / math.sqrt(2.0))
    noise: Floats = world.noise_frac * random.standard_normal(HORIZON)
    if world.disturbance is Disturbance.OUTLIERS:
        noise += math.log(OUTLIER_FACTOR) * (random.random(HORIZON) < OUTLIER_FRAC)
    return noise


def _drift(drift: Drift, random: np.random.Generator) -> Floats:
    if drift is Drift.WALK:
        walk: Floats = np.cumsum(WALK_PER_TRIAL * random.standard_normal(HORIZON), dtype=np.float64)
        return walk
    if drift is Drift.STEP:
        height = math.log1p(STEP_SIZE) * float(random.choice([-1.0, 1.0]))
        step: Floats = height * np.asarray(np.arange(HORIZON) >= random.integers(*STEP_TRIALS), dtype=np.float64)
        return step
    return np.zeros(HORIZON)
