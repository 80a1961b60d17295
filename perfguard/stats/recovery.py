"""How much of a loss something takes back, with an interval that holds for a handful of measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

GOOD, BAD = 0, 1
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """(arm - bad) / (good - bad) with its bounds; those are None where they are not finite."""

    frac: float
    low: float | None
    high: float | None


def recoveries(values: Floats, *, confidence: float) -> tuple[Recovered | None, ...]:
    """Judge the natural logs of a metric (larger is worse), shape `(blocks, arms)`; NaN is what was not measured.

    The first two arms are good and bad; the result has one entry for each of the others. Arms and blocks have additive
    effects, fitted by least squares, so what a block shares cancels and a block that lacks an arm still tells of the
    others. The spread of a single value is taken to be the same everywhere, and is estimated from all that the fit
    leaves over. The bounds are Fieller's for a ratio of estimates. An entry is None where the blocks do not connect the
    arm with both ends, or good and bad are equal. Bounds are None where nothing is left over to tell the spread by, and
    where bad is not worse than good beyond the noise.
    Source: E. C. Fieller, "Some problems in interval estimation", J. R. Stat. Soc. B 16 (1954).

    Raises:
        ValueError: a value is infinite.
    """
    if np.isinf(values).any():
        raise ValueError("a recovery needs finite values")
    block, arm = np.nonzero(~np.isnan(values))
    measured = values[block, arm]
    blocks, arms = values.shape
    design = np.concatenate([np.eye(blocks)[block], np.eye(arms)[arm]], axis=1)
    # Only differences between arms can be told, and only between those that blocks connect: the pseudo-inverse leaves
    # the rest out, and `known` projects on what it keeps.
    gram = design.T @ design
    inverse = np.linalg.pinv(gram, hermitian=True)
    known = inverse @ gram
    fitted = inverse @ design.T @ measured
    freedom = measured.size - round(float(np.trace(known)))
    variance = float(((measured - design @ fitted) ** 2).sum()) / freedom if freedom > 0 else math.nan
    reach = float(stats.t.ppf(0.5 + confidence / 2.0, freedom)) ** 2 * variance if freedom > 0 else math.nan

    def difference(of: int) -> Floats:
        contrast = np.zeros(blocks + arms)
        contrast[blocks + BAD] += 1.0
        contrast[blocks + of] -= 1.0
        return contrast

    def judge(of: int) -> Recovered | None:
        contrasts = np.stack([difference(GOOD), difference(of)])
        lost, back = (float(each) for each in contrasts @ fitted)
        if not np.allclose(contrasts @ known, contrasts) or abs(lost) < _NOTHING:
            return None
        return _fieller(lost, back, reach * (contrasts @ inverse @ contrasts.T))

    return tuple(judge(of) for of in range(BAD + 1, arms))


def _fieller(lost: float, back: float, spread: Floats) -> Recovered:
    """Give back / lost with its bounds; `spread` is the squared reach of both, shape `(2, 2)`, NaN where unknown."""
    frac = back / lost
    square = lost**2 - float(spread[0, 0])
    if not (lost > 0.0 and square > 0.0):  # also where it is NaN
        return Recovered(frac=frac, low=None, high=None)
    middle = lost * back - float(spread[0, 1])
    root = math.sqrt(max(0.0, middle**2 - square * (back**2 - float(spread[1, 1]))))
    return Recovered(frac=frac, low=(middle - root) / square, high=(middle + root) / square)
