"""Which revision to measure next: the one whose answer is expected to tell most, tests that fail included."""

from __future__ import annotations

import bisect
from collections.abc import Collection

import numpy as np

from perfguard.search.config import Floats

# How likely an unknown revision far from every broken one can be tested, once a broken one was seen.
TESTABLE_ELSEWHERE = 0.8


def choose_candidate(
    first_bad: Floats, low: int, high: int, tested: Collection[int], broken: Collection[int]
) -> int | None:
    """Return the revision strictly between `low` and `high` to measure, or None when none can be.

    `first_bad[k]` is P(k is the first bad one). A trial of revision i tells whether the first bad one is at most i: at
    best the entropy of that probability. What lies beside a broken revision is likelier broken too, so its worth is
    less.
    """
    inner = np.array([index for index in range(low + 1, high) if index not in broken], dtype=np.int64)
    if inner.size == 0:
        return None
    mass = max(float(first_bad[low + 1 : high + 1].sum()), 1e-300)
    share = np.cumsum(first_bad[low + 1 : high + 1]) / mass
    at = np.clip(share[inner - low - 1], 1e-12, 1.0 - 1e-12)
    entropy = -at * np.log2(at) - (1.0 - at) * np.log2(1.0 - at)
    if broken:
        entropy = entropy * np.array([_testable(int(index), tested, sorted(broken)) for index in inner])
    best = float(entropy.max())
    # Between equals the middle one: an uninformed posterior is flat there.
    equal = inner[entropy >= best - 1e-12]
    return int(equal[equal.size // 2])


def _testable(index: int, tested: Collection[int], broken: list[int]) -> float:
    """Return P(`index` can be tested): half by itself, half as its neighbours are."""
    if index in tested:
        return 1.0
    away = _distance(index, broken)
    near = _distance(index, sorted(tested)) if tested else away
    return TESTABLE_ELSEWHERE * (0.5 + 0.5 * away / (away + near))


def _distance(index: int, others: list[int]) -> int:
    place = bisect.bisect(others, index)
    return min(abs(index - other) for other in others[max(place - 1, 0) : place + 1])
