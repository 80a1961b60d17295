"""The guard beside Apache Otava, whose change-point detection judges a series of nightly numbers.

    python benchmarks/nights/beside_otava.py SAMPLE.csv    # with apache-otava and numpy, in an environment of its own

`SAMPLE.csv` is Otava's published example, `examples/csv/data/local_sample.csv` of its repository. Otava judges one
number a night, so that is what it is given: of the example its own, of the simulated worlds the head's speed with the
noise that a night's eight starts leave of `world.Machine` (2% / sqrt(8), 1% / sqrt(24)). It is asked every night, as a
guard would, with its usual options, and what it names on any night counts. Source of those: `otava/series.py`.
"""

from __future__ import annotations

import csv
import math
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from otava.analysis import compute_change_points

WINDOW, MAX_PVALUE = 50, 0.001
SEEDS, NIGHTS = 100, 60
NIGHT_SD = math.hypot(0.02 / math.sqrt(8), 0.01 / math.sqrt(24))


def first_told(series: Sequence[float], begins: int) -> int | None:
    """Return on which night (0: that of `begins`) a change at or after `begins` is first named, None where none is."""
    for length in range(begins + 1, len(series) + 1):
        points, _ = compute_change_points(list(series[:length]), window_len=WINDOW, max_pvalue=MAX_PVALUE)
        if any(point.index >= begins for point in points):
            return length - 1 - begins
    return None


def false_alarms(series: Sequence[float]) -> set[int]:
    """Return the places that are named on any night."""
    named: set[int] = set()
    for length in range(2, len(series) + 1):
        points, _ = compute_change_points(list(series[:length]), window_len=WINDOW, max_pvalue=MAX_PVALUE)
        named.update(point.index for point in points)
    return named


def simulated(rng: random.Random, speeds: Sequence[float]) -> list[float]:
    """Return what a night's measurement gives of each of these speeds."""
    return [speed * math.exp(rng.gauss(0.0, NIGHT_SD)) for speed in speeds]


def main() -> None:
    """Print what is found in the example and in the worlds."""
    with Path(sys.argv[1]).open() as file:
        rows = list(csv.DictReader(file))
    for metric in ("metric1", "metric2"):
        values = [float(row[metric]) for row in rows]
        points, _ = compute_change_points(values, window_len=WINDOW, max_pvalue=MAX_PVALUE)
        print(f"{metric}: Otava names {[rows[point.index]['commit'] for point in points]};", end=" ")
        told = [first_told(values, int(point.index)) for point in points]
        print(f"first told {told} nights after it; spread before {statistics.stdev(values[:6]) / values[0]:.1%}")
    clean = [false_alarms(simulated(random.Random(seed), [100.0] * NIGHTS)) for seed in range(SEEDS)]
    worlds = sum(map(bool, clean))
    print(f"clean, {NIGHTS} nights: changes named in {worlds} of {SEEDS} worlds, {sum(map(len, clean))} in all")
    for name, slow in (("5% step", [95.0] * 30), ("0.3% creep", [100.0 * 0.997**n for n in range(1, 31)])):
        nights = [first_told(simulated(random.Random(seed), [100.0] * 14 + slow), 14) for seed in range(SEEDS)]
        found = sorted(night for night in nights if night is not None)
        print(f"{name}, after 14 clean nights: named in {len(found)} of {SEEDS}, after nights", end=" ")
        print(f"{found[0]} to {found[-1]}, median {statistics.median(found)}" if found else "none")
    moved = [first_told(simulated(random.Random(seed), [100.0] * 14 + [70.0] * 10), 14) for seed in range(SEEDS)]
    print(f"another machine, 30% slower, no commit: named in {sum(night is not None for night in moved)} of {SEEDS}")


if __name__ == "__main__":
    main()
