"""What drift of the machine costs at the least: the information that a trial gives about the culprit, with and without.

    python benchmarks/search/drift.py     # a minute; writes drift.md beside this script

A trial answers a fair question: is this revision good or bad, as likely the one as the other whatever was seen before?
The noise, the effect and the speed of the drift are known, the level is not. The information rate is the mean of
log2 p(value | the answer, all before) - log2 p(value | all before), with both densities from filters over a grid of
levels, one of which is told the answers and one of which is not. A search whose questions are fair and independent
needs on average at least what has to be found out, log2 n + log2 1/0.005 bits, divided by that rate.
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy import stats

from perfguard.search.worlds import WALK_PER_TRIAL, Drift, World
from perfguard.workflows.calibrate import OURS, WRONG_FRAC

HERE = Path(__file__).parent
EFFECTS = (0.03, 0.05, 0.10, 0.20)
CHAINS, TRIALS, SETTLING = 128, 600, 60
# Cells a standard deviation of the walk, and how far the grid reaches beyond the effects.
CELLS_PER_STEP = 3.0
ROOM = 0.25
T4 = 4.0

Floats = np.typing.NDArray[np.float64]


class Filter:
    """What is known of the level, a row a chain: probabilities on a grid whose middle is the true level."""

    def __init__(self, cells: int) -> None:
        """Begin with the level known."""
        self.level = np.zeros((CHAINS, cells))
        self.level[:, cells // 2] = 1.0

    def move(self, spreading: Floats, steps: np.typing.NDArray[np.int64]) -> None:
        """Let the level walk: as the filter expects, by `spreading`, and as it did, by `steps` cells a chain."""
        cells = self.level.shape[1]
        source = np.arange(cells)[np.newaxis, :] + steps[:, np.newaxis]
        inside = (source >= 0) & (source < cells)
        moved = np.take_along_axis(self.level @ spreading, np.clip(source, 0, cells - 1), axis=1) * inside
        self.level = moved / moved.sum(axis=1, keepdims=True)

    def see(self, density: Floats) -> Floats:
        """Take in a value of this density at every level, and return its density before it was seen."""
        joint = self.level * density
        total: Floats = joint.sum(axis=1)
        self.level = joint / total[:, np.newaxis]
        return total


def bits_per_trial(effect_frac: float, *, walk: float, seed: int = 0) -> float:
    """Return the information rate at the main calibration's noise, with a walk of this standard deviation a trial."""
    random = np.random.default_rng(seed)
    effect, scale = math.log1p(effect_frac), World().noise_frac / math.sqrt(2.0)
    cell = WALK_PER_TRIAL / CELLS_PER_STEP
    half = math.ceil((3.0 * effect + ROOM) / cell)
    levels = cell * np.arange(-half, half + 1)
    reach = math.ceil(5.0 * CELLS_PER_STEP)
    offsets = np.arange(-reach, reach + 1)
    # The true walk moves by whole cells, so that the filters' walk is the true one.
    shares = np.exp(-0.5 * np.square(offsets * cell / walk)) if walk else (offsets == 0).astype(float)
    shares /= shares.sum()
    spreading = sum(share * np.eye(levels.size, k=int(k)) for k, share in zip(offsets, shares, strict=True))
    told, untold = Filter(levels.size), Filter(levels.size)
    gained = []
    for trial in range(TRIALS):
        steps = random.choice(offsets, size=CHAINS, p=shares)
        told.move(spreading, steps)
        untold.move(spreading, steps)
        is_bad = random.random(CHAINS) < 0.5
        values = scale * random.standard_t(T4, CHAINS) + effect * is_bad
        good, bad = (stats.t.pdf((values[:, np.newaxis] - levels - shift) / scale, T4) for shift in (0.0, effect))
        seen = told.see(np.where(is_bad[:, np.newaxis], bad, good)), untold.see((good + bad) / 2.0)
        if trial >= SETTLING:
            gained.append(float(np.mean(np.log2(seen[0] / seen[1]))))
    return float(np.mean(gained))


def measured(effect_frac: float, drift: Drift) -> float:
    """Return the mean trials of our search in the main world of that effect and drift, from `calibration.csv`."""
    wanted = World(effect_frac=effect_frac, drift=drift)
    with (HERE / "calibration.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = (int(row["revisions"]), float(row["effect_frac"]), float(row["noise_frac"]))
            kinds = (row["method"], row["noise"], row["drift"], row["prior"], float(row["untestable_frac"]))
            if (numbers, kinds) == (
                (wanted.revisions, wanted.effect_frac, wanted.noise_frac),
                (OURS, wanted.noise.value, wanted.drift.value, wanted.prior.value, wanted.untestable_frac),
            ):
                return float(row["mean_trials"])
    raise KeyError(f"calibration.csv has no row of effect {effect_frac:g} with drift {drift.value}")


INTRODUCTION = """\
# What drift costs at the least

Written by `benchmarks/search/drift.py`. The machine's level walks by 1% a trial; 128 commits, noise 3% (Student's t4).

- bits: what a trial tells about the culprit, where it answers a fair question, and noise, effect and the speed of the
  drift are known but the level is not; `none` and `walk` are without and with drift.
- least: log2 128 + log2 1/0.005 bits at that rate, the fewest trials on average. Lower than the limit of
  `calibration.md`, which is for searches that cut trials into good and bad; this one weighs the values themselves.
- extra: what drift adds to the least trials, and what it adds to our search's (`calibration.csv`). The limit's is what
  a perfect search would lose too: a level that walks is known from the neighbours alone, and less well. Trials that
  answer no question, such as those of the ends, tell the level and cost one trial each.
- A step or a sine has no such limit: who knew its form would lose next to nothing. There our search, which takes either
  for a walk with jumps, loses 10% (effect 5%) and 12% (effect 10%) to the step, and 30% and 17% to the sine.

| effect | bits, none | walk | least, none | walk | extra | perfguard, none | walk | extra |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Write `drift.md`."""
    needed = math.log2(World().revisions) + math.log2(1.0 / WRONG_FRAC)
    lines = []
    for effect in EFFECTS:
        bits = [bits_per_trial(effect, walk=walk) for walk in (0.0, WALK_PER_TRIAL)]
        ours = [measured(effect, drift) for drift in (Drift.NONE, Drift.WALK)]
        told = [f"{effect:.0%}", *(f"{rate:.3f}" for rate in bits), *(f"{needed / rate:.1f}" for rate in bits)]
        told += [
            f"{bits[0] / bits[1] - 1.0:+.0%}",
            *(f"{mean:.1f}" for mean in ours),
            f"{ours[1] / ours[0] - 1.0:+.0%}",
        ]
        lines.append("| " + " | ".join(told) + " |\n")
    (HERE / "drift.md").write_text(INTRODUCTION + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
