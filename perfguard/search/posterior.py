"""The posterior over "revision k is the first bad one" and "nothing changed", from trials in the order they ran.

Model: the log metric of a trial is `level + effect * [index >= k] + noise`. The level is a nuisance that wanders from
trial to trial (a random walk whose speed is unknown, and which now and then jumps), so drift of the machine cancels,
and a steady machine needs no trials spent on it. The noise is a mixture close to Student's t with 4 degrees of freedom,
with a share of gross outliers, so one trial never decides. The noise's scale, the walk's speed and the effect's
order of magnitude are integrated out on a grid; the effect itself and the level by a Kalman filter a grid cell.

All k between two neighbouring measured revisions have the same likelihood, so the filters run once an interval of
revisions, and the cost does not grow with the length of the history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Student's t with 4 degrees of freedom as a scale mixture of three normals, fitted by Kullback-Leibler divergence.
NOISE_SCALES = (0.88, 1.76, 4.6)
NOISE_WEIGHTS = (0.64, 0.34, 0.02)
# A trial that went wrong altogether: a neighbour woke up, a first batch was not warm.
GROSS_SCALE = 1.0
GROSS_WEIGHT = 0.005
# A lasting step of the machine's level, at a trial inside a block and at the first of a block.
JUMP_SCALE = 0.15
JUMP_WEIGHT_INSIDE = 0.004
JUMP_WEIGHT_BETWEEN = 0.02
# The walk's step a trial, as a share of the noise's scale.
WALKS = (0.0, 0.1, 0.33, 1.0)
FAST_WALK = 0.2
WALK_WEIGHTS = (0.4, 0.3, 0.2, 0.1)
# Effects by order of magnitude, in units of the smallest effect asked for.
EFFECT_SCALES = (2.0, 10.0, 60.0)
EFFECT_WEIGHTS = (0.4, 0.45, 0.15)
# The prior of the noise's scale: log-normal about 3%, wide enough for 0.5% and for 20%.
NOISE_CENTRE = 0.025
NOISE_LOG_SD = 1.0
NOISE_STEP = 1.6
NOISE_LARGEST = 0.5
# How likely a change for the better is, beside one for the worse.
BETTER_WEIGHT = 0.2
# Grid values of less posterior than this are dropped from time to time.
PRUNE_EVERY = 8
NEGLIGIBLE = 1e-6
NOISE_KEPT_ABOVE = 2.7

_STATE = ("_log", "_level", "_effect", "_var_level", "_cov", "_var_effect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One trial: its number, its block, which revision it measured, and the log of the metric (larger is worse)."""

    trial: int
    block: int
    index: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the trials say; all probabilities are of one posterior.

    `first_bad[k]` is P(revision k is the first bad one), shape `(revisions,)`; `no_change` completes the sum to 1 and
    counts a change of less than half of the smallest effect. `relevant` is P(a change of the smallest effect or more),
    `better` P(a change in the other direction), `wandering` P(the level drifts fast beside the noise). `effect` and
    `effect_sd` are of the log ratio at the most probable k.
    """

    first_bad: Floats
    no_change: float
    relevant: float
    better: float
    effect: float
    effect_sd: float
    wandering: float


class StepPosterior:
    """A bank of Kalman filters over the candidates `low + 1 .. high`, fed trial by trial."""

    def __init__(
        self, low: int, high: int, prior: Floats, *, prior_no_change: float, smallest: float, steady: bool = False
    ) -> None:
        """Begin without trials.

        `prior` has one weight a revision of the whole history; those of `low + 1 .. high` are used. `smallest` is the
        smallest effect that matters, as a log ratio. `steady` says that the level does not wander.
        """
        self._low, self._high = low, high
        weights = prior[low + 1 : high + 1]
        self._prior = np.zeros(prior.size)
        self._prior[low + 1 : high + 1] = weights / weights.sum()
        self._cumulative = np.cumsum(self._prior)
        self._none = prior_no_change
        self._smallest = smallest
        self._steady = steady
        # Rows: intervals (lower, upper] of candidates, and last "no change", whose step lies beyond every index.
        self._lower = np.array([low, high])
        self._upper = np.array([high, np.iinfo(np.int64).max])
        self._make_cells()
        self._summary: Summary | None = None
        self._trials = 0
        self._first: Observation | None = None
        self._last: Observation | None = None

    def _make_cells(self) -> None:
        """Lay out the grid: noise scale x walk x effect scale x "the first trial was a gross outlier"."""
        lowest = min(0.004, self._smallest / 5.0)
        count = int(np.ceil(np.log(NOISE_LARGEST / lowest) / np.log(NOISE_STEP))) + 1
        scales = lowest * NOISE_STEP ** np.arange(count)
        scale_weights = np.exp(-0.5 * (np.log(scales / NOISE_CENTRE) / NOISE_LOG_SD) ** 2)
        walks = WALKS[:1] if self._steady else WALKS
        walk_weights = WALK_WEIGHTS[:1] if self._steady else WALK_WEIGHTS
        axes = (scales, np.array(walks), self._smallest * np.array(EFFECT_SCALES), np.array([0.0, 1.0]))
        masses = (
            scale_weights,
            np.array(walk_weights),
            np.array(EFFECT_WEIGHTS),
            np.array([1.0 - GROSS_WEIGHT, GROSS_WEIGHT]),
        )
        grid = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
        mass = [axis.ravel() for axis in np.meshgrid(*(m / m.sum() for m in masses), indexing="ij")]
        self._noise, self._walk, self._first_gross = grid[0] ** 2, grid[1], grid[3] > 0.0
        self._effect_scale = grid[2]
        self._cell_log_prior = np.log(np.prod(mass, axis=0))
        shape = (2, self._noise.size)
        self._log = np.zeros(shape)
        self._level, self._effect = np.zeros(shape), np.zeros(shape)
        self._var_level, self._cov = np.zeros(shape), np.zeros(shape)
        self._var_effect = np.tile(grid[2] ** 2, (2, 1))

    def add(self, observation: Observation) -> None:
        """Take in the next trial; its index must lie in `low .. high`."""
        self._split(observation.index)
        self._summary = None
        if self._first is None:
            self._begin(observation)
        else:
            self._update(observation)
        self._last = observation
        self._trials += 1
        if self._trials % PRUNE_EVERY == 0:
            self._prune()

    def _prune(self) -> None:
        """Forget grid values that the trials rule out; noise up to some way above the likeliest stays possible."""
        mass = self._weights().sum(axis=0)
        noise = float(self._noise[mass.argmax()])
        near = (self._noise >= noise) & (self._noise <= noise * NOISE_KEPT_ABOVE**2)
        keep = np.full(mass.size, True)
        for axis, always in ((self._noise, near), (self._effect_scale, False), (self._first_gross, False)):
            values, place = np.unique(axis, return_inverse=True)
            share = np.bincount(place, weights=mass, minlength=values.size) / mass.sum()
            keep &= (share[place] > NEGLIGIBLE) | always
        if keep.all():
            return
        for name in ("_noise", "_walk", "_effect_scale", "_first_gross", "_cell_log_prior"):
            setattr(self, name, getattr(self, name)[keep])
        for name in _STATE:
            setattr(self, name, getattr(self, name)[:, keep])

    def _split(self, index: int) -> None:
        """Make `index` the border of two intervals."""
        inside = np.flatnonzero((self._lower < index) & (index < self._upper) & (self._upper <= self._high))
        if inside.size == 0:
            return
        row = int(inside[0])
        self._lower = np.insert(self._lower, row + 1, index)
        self._upper = np.insert(self._upper, row, index)
        for name in _STATE:
            array = getattr(self, name)
            setattr(self, name, np.insert(array, row, array[row], axis=0))

    def _begin(self, observation: Observation) -> None:
        """Let the first trial set the level; where it was a gross outlier it says next to nothing."""
        self._first = observation
        bad = (observation.index >= self._upper).astype(float)[:, None]
        ordinary = float(np.dot(NOISE_WEIGHTS, np.square(NOISE_SCALES))) * self._noise
        spread = np.broadcast_to(np.where(self._first_gross, GROSS_SCALE**2, ordinary), self._log.shape)
        self._level = np.full(self._log.shape, observation.value)
        self._var_level = spread + bad * self._var_effect
        self._cov = -bad * self._var_effect

    def _update(self, observation: Observation) -> None:
        """One step of every filter; the mixture's branches are folded into one normal again (moment matching)."""
        assert self._last is not None  # noqa: S101 - the caller has seen the first trial
        bad = (observation.index >= self._upper).astype(float)[:, None]
        gap = observation.trial - self._last.trial
        fresh = observation.block != self._last.block
        jump_weight = 0.0 if self._steady else JUMP_WEIGHT_BETWEEN if fresh else JUMP_WEIGHT_INSIDE
        jump_weight = min(jump_weight * max(gap, 1), 0.1)
        # Branches: (extra variance of the level, variance of the noise, log weight), the latter two a cell.
        branches = [(0.0, scale**2, 0.0, weight) for scale, weight in zip(NOISE_SCALES, NOISE_WEIGHTS, strict=True)]
        branches.append((0.0, 0.0, GROSS_SCALE**2, GROSS_WEIGHT))
        if jump_weight:
            branches.append((JUMP_SCALE**2, NOISE_SCALES[1] ** 2, 0.0, jump_weight))
        extra = np.array([b[0] for b in branches])[:, None, None]
        noise = (
            np.array([b[1] for b in branches])[:, None, None] * self._noise
            + np.array([b[2] for b in branches])[:, None, None]
        )
        log_weight = np.log([b[3] for b in branches] / np.sum([b[3] for b in branches]))[:, None, None]

        self._var_level = self._var_level + (self._walk**2 * self._noise) * gap
        error = observation.value - self._level - bad * self._effect
        common = self._var_level + bad * (2.0 * self._cov + self._var_effect)
        total = noise + extra + common
        log_branch = log_weight - 0.5 * (np.log(total) + error * error / total)
        peak = log_branch.max(axis=0)
        share = np.exp(log_branch - peak)
        mass = share.sum(axis=0)
        self._log = self._log + peak + np.log(mass)
        share /= mass
        gain_level = (extra + (self._var_level + bad * self._cov)) / total
        gain_effect = (self._cov + bad * self._var_effect) / total
        mean_level, mean_effect = (share * gain_level).sum(axis=0), (share * gain_effect).sum(axis=0)
        # Var = mean of the branches' variances + variance of the branches' means.
        square = error * error
        self._var_level = (
            self._var_level
            + (share * (extra + gain_level * gain_level * (square - total))).sum(axis=0)
            - square * mean_level * mean_level
        )
        self._cov = (
            self._cov
            + (share * gain_level * gain_effect * (square - total)).sum(axis=0)
            - square * mean_level * mean_effect
        )
        self._var_effect = (
            self._var_effect
            + (share * gain_effect * gain_effect * (square - total)).sum(axis=0)
            - square * mean_effect * mean_effect
        )
        self._level = self._level + mean_level * error
        self._effect = self._effect + mean_effect * error

    def summary(self) -> Summary:
        """Return what is known by now."""
        if self._summary is None:
            self._summary = self._summarise()
        return self._summary

    def _row_masses(self) -> Floats:
        """Return the prior of every interval of candidates, given that there is a change."""
        masses: Floats = self._cumulative[self._upper[:-1]] - self._cumulative[self._lower[:-1]]
        return masses

    def _weights(self) -> Floats:
        """Return prior times likelihood of every row and cell, up to a common factor."""
        with np.errstate(divide="ignore"):
            log_prior = np.log(np.append(self._row_masses() * (1.0 - self._none), self._none))
        log_weight = self._log + self._cell_log_prior + log_prior[:, None]
        weights: Floats = np.exp(log_weight - log_weight.max())
        return weights

    def _summarise(self) -> Summary:
        masses, weight = self._row_masses(), self._weights()
        rows = masses.size
        sd = np.sqrt(self._var_effect[:-1])
        mean = self._effect[:-1]
        step = weight[:-1]
        # Half of the normal prior is the slowdown's, hence twice the share; the rest is a change for the better.
        worse = 2.0 * step * ndtr((mean - 0.5 * self._smallest) / sd)
        small = 2.0 * step * ndtr(mean / sd) - worse
        relevant = 2.0 * step * ndtr((mean - self._smallest) / sd)
        # Where the caller knows that the ends differ, they differ in the direction that is looked for.
        better = 2.0 * BETTER_WEIGHT * self._none * float((step * ndtr(-mean / sd)).sum())
        by_row = worse.sum(axis=1)
        none = float(weight[-1].sum())
        total = float(by_row.sum()) + float(small.sum()) + better + none
        first_bad = np.zeros(self._prior.size)
        for row in range(rows):
            inside = slice(int(self._lower[row]) + 1, int(self._upper[row]) + 1)
            if masses[row] > 0.0:
                first_bad[inside] = self._prior[inside] / masses[row] * by_row[row] / total
        best = int(by_row.argmax())
        cells = worse[best] / max(float(by_row[best]), 1e-300)
        effect = float(cells @ mean[best])
        spread = float(cells @ (self._var_effect[best] + np.square(mean[best] - effect)))
        return Summary(
            first_bad=first_bad,
            no_change=max(1.0 - float(first_bad.sum()), 0.0),
            relevant=float(relevant.sum()) / total,
            better=better / total,
            effect=effect,
            effect_sd=float(np.sqrt(max(spread, 0.0))),
            wandering=float(cells @ (self._walk > FAST_WALK)),
        )
