"""From which size on one way is faster than another: the crossing of two cost curves, with a bootstrap over blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossingEstimate:
    """Natural logs of sizes; minus infinity is "from the smallest size on", infinity "at no size"."""

    log_size: float
    low: float
    high: float
    nowhere_frac: float
    everywhere_frac: float


def crossing(log_sizes: Floats, log_ratios: Floats) -> float:
    """Return the log of the size from which taking the candidate costs least in all.

    `log_sizes` has shape `(sizes,)`, ascending; `log_ratios`, same shape, are log(candidate / baseline) there. The
    candidate is taken at all sizes from a cut on. The best cut leaves the least sum of log ratios; where it lies
    between two sizes, the crossing is where the straight line between their ratios is zero.
    """
    sizes = log_sizes.size
    # gain[k]: what taking the candidate from size k on adds to the log of the cost; k = sizes: never.
    gain = np.concatenate([np.cumsum(log_ratios[::-1])[::-1], [0.0]])
    # The last of equals: a candidate that gains nothing is not taken.
    cut = sizes - int(np.argmin(gain[::-1]))
    if cut == 0:
        return -np.inf
    if cut == sizes:
        return np.inf
    before, after = float(log_ratios[cut - 1]), float(log_ratios[cut])
    share = before / (before - after) if before > after else 1.0
    return float(log_sizes[cut - 1] + share * (log_sizes[cut] - log_sizes[cut - 1]))


def estimate_crossing(
    log_sizes: Floats, log_ratios: Floats, *, confidence: float, seed: int = 0, resamples: int = RESAMPLES
) -> CrossingEstimate:
    """Estimate the crossing from `log_ratios` of shape `(blocks, sizes)`, with a bootstrap over blocks.

    A size that a block lacks is NaN there, and taken from the blocks that have it. A handful of blocks resampled varies
    less than a handful of new ones would: what the resamples deviate is widened by `sqrt(n / (n - 1))` and by how much
    Student's t exceeds the normal distribution, for n blocks. One block gives no interval: it is unbounded.
    Source: T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), on the
    expanded percentile interval.

    Raises:
        ValueError: a size has no finite ratio in any block, or sizes do not ascend.
    """
    if np.isnan(log_ratios).all(axis=0).any() or (np.diff(log_sizes) <= 0).any():
        raise ValueError("every size needs a ratio, and sizes must ascend")
    whole = np.nanmean(log_ratios, axis=0)
    draw = np.random.default_rng(seed)
    blocks = log_ratios.shape[0]
    chosen = draw.integers(blocks, size=(resamples, blocks))
    drawn = log_ratios[chosen]
    known = ~np.isnan(drawn)
    count = known.sum(axis=1)
    # A size that none of the drawn blocks holds keeps what all blocks say of it.
    means = np.where(count > 0, np.where(known, drawn, 0.0).sum(axis=1) / np.maximum(count, 1), whole)
    tail = (1.0 - confidence) / 2.0
    if blocks == 1:
        return CrossingEstimate(
            log_size=crossing(log_sizes, whole), low=-np.inf, high=np.inf, nowhere_frac=0.0, everywhere_frac=0.0
        )
    wider = math.sqrt(blocks / (blocks - 1)) * float(stats.t.isf(tail, blocks - 1) / stats.norm.isf(tail))
    found = np.array([crossing(log_sizes, mean) for mean in whole + wider * (means - whole)])
    low, high = np.quantile(found, [tail, 1.0 - tail], method="nearest")
    return CrossingEstimate(
        log_size=crossing(log_sizes, whole),
        low=float(low),
        high=float(high),
        nowhere_frac=float(np.isposinf(found).mean()),
        everywhere_frac=float(np.isneginf(found).mean()),
    )
