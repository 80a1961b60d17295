"""What people use today, on the same simulated trials: `git bisect` with repeats, and a ladder of tests."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from scipy import stats

Measure = Callable[[int], float | None]

MEDIAN_OF = 3
LADDER = (10, 20, 40)
LADDER_LOW = 0.01
LADDER_HIGH = 0.4


def git_bisect(revisions: int, measure: Measure) -> list[int] | None:
    """Bisect with the median of three trials a revision, split at the middle of the ends' medians.

    A revision that cannot be tested is skipped for its nearest neighbour, as a patient user does. Returns the commits
    that it names, or None where the bad end was not slower.
    """
    ends = [_median(measure, index) for index in (0, revisions - 1)]
    if ends[0] is None or ends[1] is None or ends[1] <= ends[0]:
        return None
    threshold = (ends[0] + ends[1]) / 2.0
    good, bad, broken = 0, revisions - 1, set[int]()
    while untried := [index for index in range(good + 1, bad) if index not in broken]:
        middle = (good + bad) / 2.0
        index = min(untried, key=lambda candidate: abs(candidate - middle))
        value = _median(measure, index)
        if value is None:
            broken.add(index)
        elif value > threshold:
            bad = index
        else:
            good = index
    return list(range(good + 1, bad + 1))


def pinpoint_ladder(revisions: int, measure: Measure) -> list[int] | None:
    """Bisect every pair of neighbours that a Mann-Whitney or Kolmogorov-Smirnov test tells apart.

    Own reimplementation of the idea of Chromium's Pinpoint: 10 trials a revision, 20 and then 40 while the smaller of
    the two p-values lies between 0.01 and 0.4; still undecided counts as the same. A revision that cannot be tested is
    stepped over. Returns the commits that it names, or None where the ends did not differ.

    Source: chromium.googlesource.com/catapult, dashboard/pinpoint (models/compare and models/job_state).
    """
    ladder = _Ladder(measure)
    if not (ladder.reach(0, LADDER[0]) and ladder.reach(revisions - 1, LADDER[0])):
        return None
    return ladder.explore(0, revisions - 1) or None


class _Ladder:
    """The values of a ladder so far."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._values: dict[int, list[float]] = {}
        self._broken: set[int] = set()

    def explore(self, low: int, high: int) -> list[int]:
        """Return the commits after `low`, up to `high`, where neighbours differ."""
        if not self._differ(low, high):
            return []
        middle = next((index for index in _from_middle(low, high) if self.reach(index, LADDER[0])), None)
        if middle is None:
            return list(range(low + 1, high + 1))
        return self.explore(low, middle) + self.explore(middle, high)

    def reach(self, index: int, count: int) -> bool:
        """Measure until there are `count` values; False where the revision cannot be tested."""
        values = self._values.setdefault(index, [])
        while index not in self._broken and len(values) < count:
            value = self._measure(index)
            if value is None:
                self._broken.add(index)
            else:
                values.append(value)
        return index not in self._broken

    def _differ(self, low: int, high: int) -> bool:
        for count in LADDER:
            self.reach(low, count)
            self.reach(high, count)
            p_value = _smaller_p(self._values[low], self._values[high])
            if p_value < LADDER_LOW:
                return True
            if p_value > LADDER_HIGH:
                break
        return False


def _median(measure: Measure, index: int) -> float | None:
    values: list[float] = []
    for _ in range(MEDIAN_OF):
        value = measure(index)
        if value is None:
            return None
        values.append(value)
    return median(values)


def _smaller_p(low: list[float], high: list[float]) -> float:
    return min(float(stats.mannwhitneyu(low, high).pvalue), float(stats.ks_2samp(low, high).pvalue))


def _from_middle(low: int, high: int) -> list[int]:
    middle = (low + high) / 2.0
    return sorted(range(low + 1, high), key=lambda index: abs(index - middle))
