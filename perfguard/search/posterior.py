"""The posterior over "revision k is the first bad one" and "nothing changed", given trials in blocks.

Model: the log metric of a trial is `block + effect * [index >= k] + noise`. Blocks are free nuisances, the effect has
prior N(0, 16 sigma^2) and sigma is integrated out with Jeffreys' prior. A positive effect is a slowdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

SLOPE_VARIANCE_RATIO = 16.0
# The floor of a trial's log-scale variance: two trials that agree to the last digit must not make certainty.
VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One trial: which block it ran in, which revision it measured, and the log of the metric (larger is worse)."""

    block: int
    index: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """`first_bad[k]` is P(revision k is the first bad one), shape `(revisions,)`; index 0 is always 0.

    `no_change` completes the sum to 1. `effect_mean` and `effect_sd` are of the log ratio at the most probable k,
    with `freedom` degrees of freedom.
    """

    first_bad: Floats
    no_change: float
    effect_mean: float
    effect_sd: float
    freedom: int

    def effect_bounds(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval of the log ratio at the most probable k."""
        if self.freedom < 1:
            return -np.inf, np.inf
        half = float(stats.t.ppf(0.5 + confidence / 2.0, self.freedom)) * self.effect_sd
        return self.effect_mean - half, self.effect_mean + half


def posterior(revisions: int, observations: Sequence[Observation], prior: Floats, prior_no_change: float) -> Posterior:
    """Return the posterior over the first bad index, for `revisions` revisions of which 0 is good.

    `prior` has shape `(revisions,)`, its entry 0 is ignored; `prior_no_change` is the prior of "no change".
    """
    values, indices, blocks = _columns(observations)
    centred = _within_blocks(values, blocks)
    freedom = int(values.size - np.unique(blocks).size)
    total = float(centred @ centred) + VARIANCE_FLOOR
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior / prior[1:].sum() * (1.0 - prior_no_change))
    log_prior[0] = -np.inf

    # Rows: one step function a candidate k, over all trials.
    steps = (indices[None, :] >= np.arange(revisions)[:, None]).astype(float)
    steps = _within_blocks(steps.T, blocks).T if values.size else steps
    spread = np.einsum("kt,kt->k", steps, steps) if values.size else np.zeros(revisions)
    cross = steps @ centred if values.size else np.zeros(revisions)
    precision = spread + 1.0 / SLOPE_VARIANCE_RATIO
    slope = cross / precision
    residual = np.maximum(total - cross * slope, VARIANCE_FLOOR)
    slope_sd = np.sqrt(residual / max(freedom, 1) / precision)
    log_likelihood = -0.5 * np.log1p(SLOPE_VARIANCE_RATIO * spread) - 0.5 * freedom * np.log(residual / total)
    # Only a slowdown counts: the slope's prior is the positive half of the normal.
    positive = stats.t.sf(-slope / slope_sd, max(freedom, 1)) if freedom > 0 else np.full(revisions, 0.5)
    with np.errstate(divide="ignore"):
        log_weight = log_prior + log_likelihood + np.log(2.0 * positive)
        log_none = float(np.log(prior_no_change))

    peak = max(float(log_weight.max()), log_none)
    weight, none = np.exp(log_weight - peak), float(np.exp(log_none - peak))
    mass = float(weight.sum()) + none
    best = int(weight.argmax())
    return Posterior(
        first_bad=weight / mass,
        no_change=none / mass,
        effect_mean=float(slope[best]),
        effect_sd=float(slope_sd[best]),
        freedom=freedom,
    )


def _columns(observations: Sequence[Observation]) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return (
        np.array([o.value for o in observations], dtype=np.float64),
        np.array([o.index for o in observations], dtype=np.int64),
        np.array([o.block for o in observations], dtype=np.int64),
    )


def _within_blocks(values: Floats, blocks: npt.NDArray[np.int64]) -> Floats:
    """Subtract each block's mean along axis 0, which has one entry a trial."""
    if values.shape[0] == 0:
        return values
    _, position = np.unique(blocks, return_inverse=True)
    counts = np.bincount(position).astype(np.float64)
    sums = np.zeros((counts.size, *values.shape[1:]))
    np.add.at(sums, position, values)
    means = sums / counts.reshape(-1, *([1] * (values.ndim - 1)))
    centred: Floats = values - means[position]
    return centred
