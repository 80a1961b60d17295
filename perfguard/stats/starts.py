"""What repeated measurements on a few server starts say: an effect, with the spread between starts taken in.

A server that was started is measured several times, which costs seconds; starting another costs half a minute. Values
of one start share whatever that start was like (memory layout, placement of threads), so they are not independent:
a group is one start (or one pair of starts), and no number of values in one group outweighs the spread between groups.

The model: value = effect + offset of its group + noise, the offset normal, the noise Student's t with 4 degrees of
freedom (an outlier must not decide). Both spreads are unknown and integrated out on a grid, the spread between starts
under a half-t prior. Few pairs of starts tell little of that spread, and two that agree by chance look like a steady
server: so the sums of both sides are heard, too, as far as drift of the machine does not explain them. Source:
A. Gelman, "Prior distributions for variance parameters in hierarchical models", Bayesian Analysis 1 (2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, special, stats

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

# Degrees of freedom of the noise of one measurement.
_NOISE_FREEDOM = 4.0
_START_GRID = np.geomspace(0.002, 0.256, 8)
_NOISE_GRID = np.geomspace(0.002, 0.5, 16)
# How far the sum of both sides drifts from one group to the next, and how often: half of the time it does not.
_DRIFTS = np.array([0.0, 0.02, 0.04, 0.08, 0.16])
_DRIFT_WEIGHTS = np.array([0.5, 0.125, 0.125, 0.125, 0.125])
# An effect worth looking for is seldom above 20%; larger ones are found as easily.
EFFECT_SCALE = 0.2
_CELLS = 257
# The effects lie in [-reach, reach]; room beside them, so that a circular convolution does not come round.
_REACH = 0.3
_PADDED = 640
# What a Fourier transform leaves below this share of the peak is rounding error.
_SMALLEST_SHARE = 1e-14


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPrior:
    """What is expected of the spread between starts: half-t of this scale, with these degrees of freedom."""

    scale: float
    freedom: float


# The usual spread of the mean of a start's throughput on a quiet machine: under 2%. A larger one is found where it is,
# by as many starts as were fixed beforehand.
USUAL_STARTS = StartPrior(scale=0.02, freedom=3.0)
# On a busy machine it is 10%, and who looks after every start, to end when they agree, must not take few that do for a
# quiet one: so wide that three pairs do not settle it.
WIDE_STARTS = StartPrior(scale=0.05, freedom=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPosterior:
    """The posterior of an effect (natural log of a ratio) on a grid.

    `effects`, `prior` and `density` have shape `(cells,)`; the latter two sum to one and suppose that there
    is an effect.
    `log_bayes_factor` weighs that against "none at all". `start_sd` and `noise_sd` are the posterior means of the
    spread between starts and of a single value.
    """

    effects: Floats
    prior: Floats
    density: Floats
    log_bayes_factor: float
    start_sd: float
    noise_sd: float

    def p_towards(self, sign: int) -> float:
        """Return the probability that there is an effect of that sign, 1 or -1.

        Beforehand an effect of either sign and none at all are equally likely.
        """
        here = float(self.density[sign * self.effects > 0.0].sum())
        # Each sign has half of the symmetric prior: seen alone, its evidence is twice its share.
        log_odds = self.log_bayes_factor + math.log(2.0)
        return here * float(special.expit(log_odds))

    def p_between(self, low: float, high: float) -> float:
        """Return the probability that the effect lies between, supposing that there is one.

        "No change" is judged by this: that an effect may be none at all must not make it look small.
        """
        return float(self.density[(self.effects > low) & (self.effects < high)].sum())

    def quantile(self, probability: float) -> float:
        """Return a quantile of the effect, supposing that there is one."""
        return float(np.interp(probability, np.cumsum(self.density) - self.density / 2.0, self.effects))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the central interval that holds the effect with probability `confidence`, supposing there is one."""
        return self.quantile(0.5 - confidence / 2.0), self.quantile(0.5 + confidence / 2.0)

    def log_bayes_factor_towards(self, sign: int, expected: EffectPosterior) -> float:
        """Return the log of how much likelier the values are with an effect of that sign than with none.

        Half of the effect's prior is what another comparison `expected`, half is the wide one.
        """
        towards = sign * self.effects > 0.0
        wide = np.where(towards, self.prior, 0.0)
        narrow = np.where(towards, np.interp(self.effects, expected.effects, expected.density, 0.0, 0.0), 0.0)
        prior = 0.5 * wide / wide.sum()
        # Where the other comparison saw nothing on this side, the wide prior is all there is.
        prior = prior + 0.5 * narrow / narrow.sum() if narrow.sum() > 0.0 else 2.0 * prior
        return self.log_bayes_factor + math.log(max(float((self.density / self.prior) @ prior), 1e-300))


def effect_posterior(
    groups: Sequence[Sequence[float]],
    *,
    sums: Sequence[Sequence[float]] = (),
    starts: StartPrior = WIDE_STARTS,
    starts_per_group: int = 2,
    centre: float = 0.0,
    effect_scale: float = EFFECT_SCALE,
) -> EffectPosterior:
    """Judge values that come in groups of one start each (or of one start of either side: `starts_per_group` 2).

    Where the values are differences of two sides, `sums` are the sums of the same two, grouped as they are: these say
    nothing of the effect, but tell the spread between starts a second time. `starts` is what is expected of that
    spread. `centre` is where "no effect" lies,
    `effect_scale` the standard deviation of the effect's prior around it.

    Raises:
        ValueError: no value at all, or one that is not finite.
    """
    filled = [tuple(float(value) for value in group) for group in groups if len(group)]
    if not filled or not all(np.isfinite(group).all() for group in filled):
        raise ValueError("an effect needs finite values, and one at least")
    reach = _reach(filled, centre)
    effects = np.linspace(-reach, reach, _CELLS)
    log_likelihood = _likelihood(filled, centre, reach, starts_per_group)
    # The two spreads' joint prior; the noise is flat in its logarithm.
    log_spreads = stats.t.logpdf(_START_GRID / starts.scale, starts.freedom) + np.log(_START_GRID)
    log_spreads = log_spreads + _told_by_sums([tuple(map(float, group)) for group in sums if len(group)])
    joint = log_likelihood + log_spreads[:, np.newaxis, np.newaxis]
    prior = np.maximum(stats.norm.pdf(effects, 0.0, effect_scale), 1e-300)
    prior /= prior.sum()
    peak = float(joint.max())
    mass = np.exp(joint - peak)
    posterior = mass.sum(axis=(0, 1)) * prior
    evidence = float(posterior.sum())
    spread_weights = mass @ prior / evidence
    return EffectPosterior(
        effects=effects + centre,
        prior=prior,
        density=posterior / evidence,
        log_bayes_factor=math.log(evidence) - math.log(max(float(mass[:, :, _CELLS // 2].sum()), 1e-300)),
        start_sd=float(spread_weights.sum(axis=1) @ _START_GRID),
        noise_sd=float(spread_weights.sum(axis=0) @ _NOISE_GRID),
    )


def differences_of(groups: Sequence[Sequence[tuple[float, float]]]) -> list[list[float]]:
    """Return the differences of paired values, candidate minus baseline, grouped as they are."""
    return [[candidate - baseline for baseline, candidate in group] for group in groups]


def sums_of(groups: Sequence[Sequence[tuple[float, float]]]) -> list[list[float]]:
    """Return the sums of paired values, grouped as they are: what tells the spread between starts a second time."""
    return [[candidate + baseline for baseline, candidate in group] for group in groups]


def _reach(groups: Sequence[Sequence[float]], centre: float) -> float:
    """Return how far from `centre` the cells must go: among the groups' middles, though not to single outliers."""
    farthest = max(abs(float(np.median(group)) - centre) for group in groups)
    return _REACH * 2.0 ** max(0, math.ceil(math.log2(max(2.0 * farthest, 1e-9) / _REACH)))


def _likelihood(groups: Sequence[tuple[float, ...]], centre: float, reach: float, starts_per_group: int) -> Floats:
    """Return the log likelihood of every mean, shape `(starts, noises, cells)`."""
    log_likelihood = np.zeros((_START_GRID.size, _NOISE_GRID.size, _CELLS))
    for group in groups:
        log_likelihood += _group_likelihood(tuple(value - centre for value in group), reach, starts_per_group)
    return log_likelihood


def _told_by_sums(sums: Sequence[tuple[float, ...]]) -> Floats:
    """Return the log of what the sums say of every spread between starts, shape `(starts,)`.

    A sum has the offsets of both starts, as a difference has, about a level of which nothing is known. That level may
    have drifted from group to group, and inside a group, which counts as noise: hence a noise of its own.
    """
    if len(sums) < 2:  # noqa: PLR2004 - a spread needs two
        return np.zeros(_START_GRID.size)
    centre = float(np.median(sums[0]))
    log_likelihood = _likelihood(sums, centre, _reach(sums, centre), 2)
    by_spread = special.logsumexp(log_likelihood, axis=(1, 2))
    # Drift widens what the offsets spread: as starts of a larger spread would.
    wider = np.hypot(_START_GRID[:, np.newaxis], _DRIFTS / math.sqrt(2.0))
    told = np.interp(np.log(wider), np.log(_START_GRID), by_spread)
    told_by_drift: Floats = special.logsumexp(told, axis=1, b=_DRIFT_WEIGHTS)
    return told_by_drift


# A comparison is judged after every round, and all its groups but the last are what they were.
@lru_cache(maxsize=64)
def _group_likelihood(group: tuple[float, ...], reach: float, starts_per_group: int) -> Floats:
    """Return the log likelihood of every effect, shape `(starts, noises, cells)`, from one group's values."""
    effects = np.linspace(-reach, reach, _CELLS)
    # Shape (values, noises, cells): what the group says of its own mean, before the spread between starts blurs it.
    errors = (np.asarray(group)[:, np.newaxis, np.newaxis] - effects) / _NOISE_GRID[:, np.newaxis]
    log_density = -0.5 * (_NOISE_FREEDOM + 1.0) * np.log1p(errors * errors / _NOISE_FREEDOM)
    own = log_density.sum(axis=0) - len(group) * np.log(_NOISE_GRID)[:, np.newaxis]
    peak = own.max(axis=-1, keepdims=True)
    spectrum = fft.rfft(np.exp(own - peak), _PADDED, axis=-1)
    blurred = fft.irfft(spectrum * _blurs(reach, starts_per_group), _PADDED, axis=-1)[..., :_CELLS]
    likelihood: Floats = np.log(np.maximum(blurred, _SMALLEST_SHARE)) + peak
    return likelihood


@lru_cache(maxsize=8)
def _blurs(reach: float, starts_per_group: int) -> Complexes:
    """Return the spectra, shape `(starts, 1, frequencies)`, of the densities of a group's offset."""
    step = 2.0 * reach / (_CELLS - 1)
    # As a circular convolution wants it: 0, 1, 2 ... cells to the right, and from the end those to the left.
    apart: Floats = step * np.fft.fftfreq(_PADDED, 1.0 / _PADDED).astype(np.float64)
    spreads = math.sqrt(starts_per_group) * _START_GRID[:, np.newaxis]
    kernels = np.exp(-0.5 * np.square(apart / spreads))
    # The widest reach beyond the cells, the narrowest lie between two: the larger of both sums is right.
    whole = np.maximum(kernels.sum(axis=-1, keepdims=True), math.sqrt(2.0 * math.pi) * spreads / step)
    spectra: Complexes = fft.rfft(kernels / whole, axis=-1)[:, np.newaxis, :]
    return spectra
