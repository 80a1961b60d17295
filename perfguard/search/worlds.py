"""Simulated worlds with a known truth, to calibrate the search and its rivals on the same trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from perfguard.search.config import Floats

# The worlds' own constants; the issue of every table says them too.
OUTLIER_FRAC = 0.02
OUTLIER_FACTOR = 3.0
WALK_PER_TRIAL = 0.01
STEP_SIZE = 0.10
STEP_TRIALS = (10, 40)
SINE_AMPLITUDE = 0.05
SINE_PERIOD_TRIALS = 60.0
# Broken revisions come in runs: a broken commit stays broken until its fix.
BROKEN_RUN = 3.0
PRIOR_SHARE = 0.8
PRIOR_COMMITS = 0.05
HORIZON = 4000


class Noise(str, Enum):
    """The distribution of a trial's noise; its standard deviation is the world's (that of the bulk for OUTLIERS)."""

    NORMAL = "normal"
    T4 = "t4"
    OUTLIERS = "outliers"


class Drift(str, Enum):
    """How the machine's level moves from trial to trial."""

    NONE = "none"
    WALK = "walk"
    STEP = "step"
    SINE = "sine"


class PriorKind(str, Enum):
    """What the search is told beforehand: nothing, a good hint, or a hint that is dead wrong."""

    UNIFORM = "uniform"
    INFORMATIVE = "informative"
    MISLEADING = "misleading"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One cell of a calibration; fractions, of which `effect_frac` 0 means that nothing changed."""

    revisions: int = 128
    effect_frac: float = 0.10
    noise_frac: float = 0.03
    noise: Noise = Noise.T4
    drift: Drift = Drift.NONE
    untestable_frac: float = 0.0
    prior: PriorKind = PriorKind.UNIFORM

    def __post_init__(self) -> None:
        """Refuse worlds that cannot be.

        Raises:
            ValueError: a value lies outside its range.
        """
        if self.revisions < 2:  # noqa: PLR2004 - good and bad
            raise ValueError(f"a world needs two revisions at least, not {self.revisions}")
        if not 0.0 <= self.effect_frac < 10.0:  # noqa: PLR2004 - ten times slower needs no search
            raise ValueError(f"an effect must lie between 0 and 10, not {self.effect_frac}")
        if not 0.0 < self.noise_frac <= 1.0:
            raise ValueError(f"the noise must lie between 0 and 1, not {self.noise_frac}")
        if not 0.0 <= self.untestable_frac <= 0.6:  # noqa: PLR2004 - the runs' chain has no larger share
            raise ValueError(f"the untestable share must lie between 0 and 0.6, not {self.untestable_frac}")

    def information_limit_trials(self, wrong_frac: float) -> float:
        """Return the fewest trials on average of any search that splits trials at the middle into good and bad.

        The level, the effect and the noise are taken as known, and the noise as normal; a search that uses the values
        themselves may need fewer. Infinite without an effect.

        Source: M. Ben-Or and A. Hassidim, "The Bayesian learner is optimal for noisy binary search", 2008.
        """
        if self.effect_frac == 0.0:
            return math.inf
        wrong = 0.5 * math.erfc(math.log1p(self.effect_frac) / self.noise_frac / 2.0 / math.sqrt(2.0))
        if wrong in (0.0, 1.0):
            capacity = 1.0
        else:
            capacity = 1.0 + wrong * math.log2(wrong) + (1.0 - wrong) * math.log2(1.0 - wrong)
        return (math.log2(self.revisions) + math.log2(1.0 / wrong_frac)) / capacity


class Simulation:
    """One drawn world: `measure` gives trial after trial, and the truth stands beside it."""

    def __init__(self, world: World, seed: int) -> None:
        """Draw everything that `seed` decides; the same seed gives every method the same machine."""
        random = np.random.default_rng([seed, world.revisions, round(1e4 * world.effect_frac)])
        self.world = world
        self.culprit = int(random.integers(1, world.revisions)) if world.effect_frac > 0.0 else None
        self._disturbance = _noise(world, random) + _drift(world, random)
        self.broken = _broken(world, random)
        self.prior = _prior(world, self.culprit, random)
        self.trials = 0

    def measure(self, index: int) -> float | None:
        """Return the log of the metric of the next trial, or None where the revision cannot be tested."""
        if self.trials >= HORIZON:
            raise ValueError(f"a simulation holds {HORIZON} trials")
        disturbance = float(self._disturbance[self.trials])
        self.trials += 1
        if index in self.broken:
            return None
        slow = self.culprit is not None and index >= self.culprit
        return disturbance + (math.log1p(self.world.effect_frac) if slow else 0.0)

    def candidates(self) -> frozenset[int]:
        """Return the revisions that nobody can tell from the culprit: it, and the broken ones in a row with it."""
        if self.culprit is None:
            return frozenset()
        low, high = self.culprit, self.culprit
        while low - 1 in self.broken:
            low -= 1
        while high in self.broken:
            high += 1
        return frozenset(range(low, high + 1))


def _noise(world: World, random: np.random.Generator) -> Floats:
    if world.noise is Noise.T4:
        # The variance of Student's t with 4 degrees of freedom is 2.
        return random.standard_t(4, HORIZON) * (world.noise_frac / math.sqrt(2.0))
    noise: Floats = world.noise_frac * random.standard_normal(HORIZON)
    if world.noise is Noise.OUTLIERS:
        noise += math.log(OUTLIER_FACTOR) * (random.random(HORIZON) < OUTLIER_FRAC)
    return noise


def _drift(world: World, random: np.random.Generator) -> Floats:
    trials = np.arange(HORIZON)
    if world.drift is Drift.WALK:
        walk: Floats = np.cumsum(WALK_PER_TRIAL * random.standard_normal(HORIZON), dtype=np.float64)
        return walk
    if world.drift is Drift.STEP:
        height = math.log1p(STEP_SIZE) * (1.0 if random.random() < 0.5 else -1.0)  # noqa: PLR2004 - a coin
        step: Floats = height * np.asarray(trials >= random.integers(*STEP_TRIALS), dtype=np.float64)
        return step
    if world.drift is Drift.SINE:
        turn = trials / SINE_PERIOD_TRIALS + random.random()
        sine: Floats = SINE_AMPLITUDE * np.sin(2.0 * math.pi * turn)
        return sine
    return np.zeros(HORIZON)


def _broken(world: World, random: np.random.Generator) -> frozenset[int]:
    """Draw runs of broken revisions, of geometric length; the ends always work."""
    if world.untestable_frac == 0.0:
        return frozenset()
    leave = 1.0 / BROKEN_RUN
    enter = leave * world.untestable_frac / (1.0 - world.untestable_frac)
    broken, inside = set(), False
    for index in range(1, world.revisions - 1):
        inside = random.random() < (1.0 - leave if inside else enter)
        if inside:
            broken.add(index)
    return frozenset(broken)


def _prior(world: World, culprit: int | None, random: np.random.Generator) -> Floats | None:
    """Draw a hint: most of the weight on a few commits, with the culprit among them or not."""
    if world.prior is PriorKind.UNIFORM:
        return None
    count = max(1, round(PRIOR_COMMITS * (world.revisions - 1)))
    chosen = set(map(int, random.choice(np.arange(1, world.revisions), size=count, replace=False)))
    chosen.discard(-1 if culprit is None else culprit)
    if world.prior is PriorKind.INFORMATIVE and culprit is not None:
        chosen.add(culprit)
    weights = np.full(world.revisions, (1.0 - PRIOR_SHARE) / world.revisions)
    weights[sorted(chosen)] += PRIOR_SHARE / max(len(chosen), 1)
    weights[0] = 0.0
    if world.prior is PriorKind.MISLEADING and culprit is not None:
        # Dead wrong: not a grain of weight where it belongs.
        weights[culprit] = 0.0
    return weights
