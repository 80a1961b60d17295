"""What repeated measurements on a few server starts say: an effect, with the spread between starts taken in.

A server that was started is measured several times, which costs seconds; starting another costs half a minute. Values
of one start share whatever that start was like (memory layout, placement of threads), so they are not independent:
a group is one start (or one pair of starts), and no number of values in one group outweighs the spread between groups.

The model: value = effect + offset of its group + noise. The noise is Student's t with 4 degrees of freedom (an outlier
must not decide), the offset normal, but now and then that of an unlucky start, which may lie far off: one group that
disagrees is then an unlucky one, not a reason to trust none. Both spreads are unknown and integrated out on a grid,
under a prior of what servers usually do or of what an earlier comparison in the same run has seen.
Source: A. Gelman, "Prior distributions for variance parameters in hierarchical models", Bayesian Analysis 1 (2006).
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

_NOISE_FREEDOM = 4.0
# The usual spread between a server's starts, and of one measurement: log-normal, median and spread of the logarithm.
START_MEDIAN, _START_LOG_SD = 0.012, 0.8
NOISE_MEDIAN, _NOISE_LOG_SD = 0.06, 1.2
_START_GRID = np.geomspace(0.002, 0.256, 8)
_NOISE_GRID = np.geomspace(0.002, 0.5, 16)
# How often a start is unlucky, and how far off such a one lies.
_UNLUCKY_FRAC = 0.1
_UNLUCKY_SD = 0.12
# How much of an earlier comparison's knowledge of the spreads is believed of the next one.
_CARRIED = 0.8
# An effect worth looking for is seldom above 20%; larger ones are found as easily.
EFFECT_SCALE = 0.2
_CELLS = 257
_PADDED = 640
_SMALLEST_SHARE = 1e-14
_REACH = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPosterior:
    """The posterior of an effect (natural log of a ratio) on a grid.

    `effects`, `prior` and `density` have shape `(cells,)`; both sum to one and suppose that there is an effect.
    `log_bayes_factor` weighs that against "none at all". `start_sd` and `noise_sd` are the posterior means of the
    spread between starts and of a single value; `spreads`, shape `(starts, noises)`, is their joint posterior, for
    `carried`.
    """

    effects: Floats
    prior: Floats
    density: Floats
    log_bayes_factor: float
    start_sd: float
    noise_sd: float
    spreads: Floats

    def p_towards(self, sign: int) -> float:
        """Return the probability that there is an effect of that sign, 1 or -1.

        Beforehand an effect of either sign and none at all are equally likely.
        """
        here = float(self.density[sign * self.effects > 0.0].sum())
        # Each sign has half of the symmetric prior: seen alone, its evidence is twice its share.
        log_odds = self.log_bayes_factor + math.log(2.0)
        return here * float(special.expit(log_odds))

    def p_between(self, low: float, high: float) -> float:
        """Return the probability that the effect lies between, supposing that there is one."""
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


def usual_spreads() -> Floats:
    """Return the prior of both spreads, shape `(starts, noises)`, before anything was measured; it sums to one."""
    starts = stats.norm.pdf(np.log(_START_GRID / START_MEDIAN) / _START_LOG_SD)
    noises = stats.norm.pdf(np.log(_NOISE_GRID / NOISE_MEDIAN) / _NOISE_LOG_SD)
    joint: Floats = np.outer(starts, noises) / (starts.sum() * noises.sum())
    return joint


def carried(posterior: EffectPosterior) -> Floats:
    """Return what one comparison's spreads say of the next one's: the same servers, on the same machine."""
    return _CARRIED * posterior.spreads + (1.0 - _CARRIED) * usual_spreads()


def effect_posterior(
    groups: Sequence[Sequence[float]],
    *,
    starts_per_group: int = 2,
    centre: float = 0.0,
    effect_scale: float = EFFECT_SCALE,
    spreads: Floats | None = None,
) -> EffectPosterior:
    """Judge values that come in groups of one start each (or of one start of either side: `starts_per_group` 2).

    `centre` is where "no effect" lies, `effect_scale` the standard deviation of the effect's prior around it, `spreads`
    the prior of both spreads (the usual one where it is None).

    Raises:
        ValueError: no value at all, or one that is not finite.
    """
    filled = [tuple(float(value) for value in group) for group in groups if len(group)]
    if not filled or not all(np.isfinite(group).all() for group in filled):
        raise ValueError("an effect needs finite values, and one at least")
    # The effect lies among the groups' middles; single outliers may lie beyond the grid.
    farthest = max(abs(float(np.median(group)) - centre) for group in filled)
    reach = _REACH * 2.0 ** max(0, math.ceil(math.log2(max(2.0 * farthest, 1e-9) / _REACH)))
    effects = np.linspace(-reach, reach, _CELLS)
    # Shape (starts, noises, cells): the likelihood of every effect.
    log_likelihood = np.zeros((_START_GRID.size, _NOISE_GRID.size, _CELLS))
    for group in filled:
        log_likelihood += _group_likelihood(tuple(value - centre for value in group), reach, starts_per_group)
    with np.errstate(divide="ignore"):
        log_spreads = np.log(usual_spreads() if spreads is None else spreads)
    joint = log_likelihood + log_spreads[:, :, np.newaxis]
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
        spreads=spread_weights,
    )


# A comparison is judged after every round, and all its groups but the last are what they were.
@lru_cache(maxsize=64)
def _group_likelihood(group: tuple[float, ...], reach: float, starts_per_group: int) -> Floats:
    """Return the log likelihood of every effect, shape `(starts, noises, cells)`, from one group's values."""
    effects = np.linspace(-reach, reach, _CELLS)
    # Shape (values, noises, cells): what the group says of its own mean, before the spread between starts blurs it.
    errors = (np.asarray(group)[:, np.newaxis, np.newaxis] - effects) / _NOISE_GRID[:, np.newaxis]
    log_density = -0.5 * (_NOISE_FREEDOM + 1.0) * np.log1p(errors * errors / _NOISE_FREEDOM)
    own = log_density.sum(axis=0) - len(group) * np.log(_NOISE_GRID)[:, np.newaxis]
    peak = own.max()
    spectrum = fft.rfft(np.exp(own - peak), _PADDED, axis=-1)
    blurred = fft.irfft(spectrum * _blurs(reach, starts_per_group), _PADDED, axis=-1)[..., :_CELLS]
    # What lies below is rounding error.
    likelihood: Floats = np.log(np.maximum(blurred, _SMALLEST_SHARE)) + peak
    return likelihood


@lru_cache(maxsize=8)
def _blurs(reach: float, starts_per_group: int) -> Complexes:
    """Return the spectra, shape `(starts, 1, frequencies)`, of the densities of a group's offset."""
    step = 2.0 * reach / (_CELLS - 1)
    # As a circular convolution wants it: 0, 1, 2 ... cells to the right, and from the end those to the left.
    apart: Floats = step * np.fft.fftfreq(_PADDED, 1.0 / _PADDED).astype(np.float64)
    unlucky = 1.0 - (1.0 - _UNLUCKY_FRAC) ** starts_per_group
    kernels = []
    for start_sd in _START_GRID:
        variance = starts_per_group * start_sd**2
        kernels.append((1.0 - unlucky) * _normal(apart, variance) + unlucky * _normal(apart, variance + _UNLUCKY_SD**2))
    spectra: Complexes = fft.rfft(np.array(kernels), axis=-1)[:, np.newaxis, :]
    return spectra


def _normal(apart: Floats, variance: float) -> Floats:
    """Return a normal density of `variance` on a grid, which sums to one."""
    kernel = np.exp(-0.5 * apart * apart / variance)
    density: Floats = kernel / kernel.sum()
    return density
