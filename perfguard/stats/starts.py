"""What repeated measurements on a few server starts say: an effect, with the spread between starts taken in.

A server that was started is measured several times, which costs seconds; starting another costs half a minute. Values
of one start share whatever that start was like (memory layout, placement of threads), so they are not independent:
a group is one start (or one pair of starts), and no number of values in one group outweighs the spread between groups.

The model: value = effect + offset of its group + noise, the offset normal, the noise Student's t with 4 degrees of
freedom (an outlier must not decide). Both spreads are unknown and integrated out on a grid, the spread between starts
under a half-t prior. Source: A. Gelman, "Prior distributions for variance parameters in hierarchical models",
Bayesian Analysis 1 (2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]

# Degrees of freedom of the noise of one measurement, and of the half-t prior of the spread between starts.
_NOISE_FREEDOM = 4.0
_START_FREEDOM = 3.0
# The usual spread of the mean of a start's throughput on a quiet machine: under 2%. A larger one is found where it is.
START_SCALE = 0.02
_START_GRID = np.geomspace(0.002, 0.256, 8)
_NOISE_GRID = np.geomspace(0.002, 0.5, 16)
# An effect worth looking for is seldom above 20%; larger ones are found as easily.
EFFECT_SCALE = 0.2
_CELLS = 257


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPosterior:
    """The posterior of an effect (natural log of a ratio) on a grid.

    `effects` and `density` have shape `(cells,)`; `density` sums to one and supposes that there is an effect, of prior
    N(0, `EFFECT_SCALE`). `log_bayes_factor` weighs that against "none at all". `start_sd` and `noise_sd` are the
    posterior means of the spread between starts and of a single value.
    """

    effects: Floats
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


def effect_posterior(
    groups: Sequence[Sequence[float]],
    *,
    starts_per_group: int = 2,
    centre: float = 0.0,
    effect_scale: float = EFFECT_SCALE,
) -> EffectPosterior:
    """Judge values that come in groups of one start each (or of one start of either side: `starts_per_group` 2).

    `centre` is where "no effect" lies, `effect_scale` the standard deviation of the effect's prior around it.

    Raises:
        ValueError: no value at all, or one that is not finite.
    """
    filled = [np.asarray(group, dtype=float) for group in groups if len(group)]
    if not filled or not all(np.isfinite(group).all() for group in filled):
        raise ValueError("an effect needs finite values, and one at least")
    everything = np.concatenate([*filled, np.array([centre])])
    reach = max(0.3, 1.5 * float(np.ptp(everything)))
    middle = (everything.min() + everything.max()) / 2.0
    effects = np.linspace(middle - reach, middle + reach, _CELLS)
    # Shape (starts, noises): the two spreads' joint prior; the noise is flat in its logarithm.
    log_prior = stats.t.logpdf(_START_GRID / START_SCALE, _START_FREEDOM) + np.log(_START_GRID)
    log_weight = np.repeat(log_prior[:, np.newaxis], _NOISE_GRID.size, axis=1)
    # Shape (starts, noises, cells): the likelihood of every effect.
    log_likelihood = np.zeros((_START_GRID.size, _NOISE_GRID.size, _CELLS))
    blurs = [_blur(effects, sd * math.sqrt(starts_per_group)) for sd in _START_GRID]
    for group in filled:
        # Shape (noises, cells): the group's own mean, before the spread between starts blurs it.
        own = sum(
            stats.t.logpdf((value - effects[np.newaxis, :]) / _NOISE_GRID[:, np.newaxis], _NOISE_FREEDOM)
            - np.log(_NOISE_GRID)[:, np.newaxis]
            for value in group
        )
        peak = own.max()
        scaled = np.exp(own - peak)
        for index, blur in enumerate(blurs):
            # Not `@`: for matrices this small the threads of a BLAS cost ten times what they save.
            blurred = np.einsum("nc,cd->nd", scaled, blur)
            log_likelihood[index] += np.log(np.maximum(blurred, 1e-300)) + peak
    joint = log_likelihood + log_weight[:, :, np.newaxis]
    prior = stats.norm.pdf(effects, centre, effect_scale)
    log_prior_of_effects = np.log(np.maximum(prior / prior.sum(), 1e-300))
    log_posterior = special.logsumexp(joint, axis=(0, 1)) + log_prior_of_effects
    log_evidence = float(special.logsumexp(log_posterior))
    nearest = int(np.abs(effects - centre).argmin())
    spread_weights = np.exp(special.logsumexp(joint + log_prior_of_effects, axis=2) - log_evidence)
    return EffectPosterior(
        effects=effects,
        density=np.exp(log_posterior - log_evidence),
        log_bayes_factor=log_evidence - float(special.logsumexp(joint[:, :, nearest])),
        start_sd=float(spread_weights.sum(axis=1) @ _START_GRID),
        noise_sd=float(spread_weights.sum(axis=0) @ _NOISE_GRID),
    )


def _blur(effects: Floats, sd: float) -> Floats:
    """Return the matrix, shape `(cells, cells)`, that spreads each cell over its neighbours: a normal of `sd`."""
    kernel = np.exp(-0.5 * ((effects[:, np.newaxis] - effects[np.newaxis, :]) / sd) ** 2)
    spread: Floats = kernel / kernel.sum(axis=0, keepdims=True)
    return spread
