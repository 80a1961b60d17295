"""What a prior from evidence saves, and what a dead wrong one costs, on simulated searches; writes `priors.md`.

    python benchmarks/search/priors.py simulate --searches 1000

The weights are those of a real range, `weights.csv` beside this script. They were made from a clone of SGLang, the
files that the servers of a finished run loaded, and the frames that grew between the ends in the checked-in report:

    python benchmarks/search/priors.py weights --repo CLONE --run RUN_DIR --result reports/17a57fd86-bisect/result.json
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perfguard.model.progress import Silent
from perfguard.model.result import GrownFrame
from perfguard.revisions.repository import Repository
from perfguard.search import Search, SearchConfig
from perfguard.search.config import Floats
from perfguard.store.runs import RunStore
from perfguard.workflows.narrowing import Narrowing

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights.csv"
GOOD, BAD, CULPRIT = "17a57fd86~250", "f0021c0dc^", "17a57fd86"
# Three pairs of starts with two rounds each: what the ends' comparison has measured at the least.
END_TRIALS = 6
# What is tuned is tuned on seeds from 0 on.
FRESH_SEEDS = 700_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """An evidence metric: how far it moves (log ratio), and its noise on the good and on the bad side."""

    name: str
    step: float
    good_sd: float
    bad_sd: float


# A frame that is not there counts as 2% of the largest value seen. A trial's profile holds about 60 samples under the
# frame of the real case: a standard deviation of 13%.
METRICS = (
    Metric(name="a frame that is new", step=math.log(50.0), good_sd=0.0, bad_sd=0.13),
    Metric(name="a frame that grew by half", step=math.log(1.5), good_sd=0.16, bad_sd=0.13),
)


def real_weights() -> tuple[list[float], int]:
    """Return the real range's weights, one a revision (entry 0 the good end's), and its culprit."""
    with WEIGHTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    culprit = next(index for index, row in enumerate(rows, 1) if row["commit"].startswith(CULPRIT))
    return [0.0, *(float(row["weight"]) for row in rows)], culprit


def write_weights(repo: str, run_dir: Path, result: Path) -> None:
    """Weigh the real range's commits and write `weights.csv`."""
    with tempfile.TemporaryDirectory() as cache:
        repository = Repository.open(repo, cache_dir=Path(cache), progress=Silent())
        revisions = repository.between(GOOD, BAD).revisions
        narrowing = Narrowing(revisions, repository.changes(revisions), fold=True)
    with RunStore.open(run_dir) as store:
        narrowing.look(store.trials())
    frames = json.loads(result.read_text(encoding="utf-8"))["grown_frames"]
    weights = narrowing.prior([_frame(frame) for frame in frames])
    with WEIGHTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["commit", "weight"])
        for revision, weight in zip(narrowing.representatives[1:], weights[1:], strict=True):
            writer.writerow([revision.label, f"{weight:.4g}"])
    print(narrowing.closure.describe())


def _frame(frame: dict[str, object]) -> GrownFrame:
    names = {"low_ms": "change_low_ms_per_request", "high_ms": "change_high_ms_per_request"}
    return GrownFrame(**{name: frame[names.get(name, name)] for name in GrownFrame.__dataclass_fields__})


def search(metric: Metric, revisions: int, culprit: int, prior: list[float] | None, seed: int) -> tuple[bool, int, int]:
    """Place one culprit as a bisect does between its duels: (right, revisions started in between, trials)."""
    random = np.random.default_rng([seed, revisions])

    def measure(index: int) -> float:
        if index >= culprit:
            return metric.step + metric.bad_sd * float(random.standard_normal())
        return metric.good_sd * float(random.standard_normal())

    config = SearchConfig(
        confidence=0.95, min_effect=0.05, max_trials=100, gate=False, confirm=False, shared_level=True
    )
    placed = Search(revisions, config, prior=prior, seed=seed)
    for end in (0, revisions - 1):
        for _ in range(END_TRIALS):
            placed.observe(end, measure(end))
    started: set[int] = set()
    while (block := placed.next_block()) is not None:
        for index in block:
            started.add(index)
            placed.record(index, measure(index))
    return placed.result().culprit == culprit, len(started - {0, revisions - 1}), placed.result().trials


Draw = Callable[[np.random.Generator], tuple[int, list[float] | None]]


def situations(weights: list[float], real: int) -> dict[str, Draw]:
    """Return where the culprit is and what the search is told of it, by name."""
    candidates = np.arange(1, len(weights))
    shares: Floats = np.asarray(weights[1:]) / sum(weights[1:])
    plain = candidates[np.asarray(weights[1:]) == min(weights[1:])]

    def nothing_told(random: np.random.Generator) -> tuple[int, list[float] | None]:
        return int(random.choice(candidates)), None

    def real_case(_random: np.random.Generator) -> tuple[int, list[float] | None]:
        return real, weights

    def as_it_says(random: np.random.Generator) -> tuple[int, list[float] | None]:
        return int(random.choice(candidates, p=shares)), weights

    def plain_commit(random: np.random.Generator) -> tuple[int, list[float] | None]:
        return int(random.choice(plain)), weights

    def dead_wrong(random: np.random.Generator) -> tuple[int, list[float] | None]:
        culprit = int(random.choice(plain))
        told = list(weights)
        told[culprit] = 0.0
        return culprit, told

    return {
        "uniform: nothing is told": nothing_told,
        f"informative: {CULPRIT} itself": real_case,
        "informative: right as often as it says": as_it_says,
        "wrong: the culprit touches nothing that grew": plain_commit,
        "dead wrong: not a grain of weight on the culprit": dead_wrong,
    }


def simulate(searches: int, first_seed: int, *, write: bool) -> None:
    """Run every situation, and write or print the table."""
    weights, real = real_weights()
    largest = ", ".join(f"{weight:.4g}" for weight in sorted(weights, reverse=True)[:6])
    told = f"{len(weights) - 1} candidates; the largest weights are {largest}, the smallest {min(weights[1:]):.4g}"
    columns = ("metric", "prior", "searches", "right", "started in between", "p95", "trials", "beside uniform")
    lines = [f"{told}; that of {CULPRIT} is {weights[real]:.4g}.", "", "| " + " | ".join(columns) + " |"]
    lines.append("|" + "---|" * len(columns))
    for metric in METRICS:
        uniform = math.nan
        for name, draw in situations(weights, real).items():
            answers = []
            for seed in range(first_seed, first_seed + searches):
                culprit, prior = draw(np.random.default_rng([seed, 1]))
                answers.append(search(metric, len(weights), culprit, prior, seed))
            right, started, trials = (np.array(column, dtype=float) for column in zip(*answers, strict=True))
            uniform = trials.mean() if math.isnan(uniform) else uniform
            lines.append(
                f"| {metric.name} | {name} | {searches} | {right.mean():.1%} | {started.mean():.1f} "
                f"| {np.quantile(started, 0.95, method='higher'):g} | {trials.mean():.1f} "
                f"| {trials.mean() / uniform:.2f} |"
            )
    text = "\n".join(lines) + "\n"
    if write:
        (HERE / "priors.md").write_text(INTRODUCTION + text, encoding="utf-8")
    print(text)


INTRODUCTION = f"""\
# What a prior saves, and what a wrong one costs

Written by `benchmarks/search/priors.py`. The search is the one between a bisect's duels: an evidence metric, one trial
a revision, both ends known from six trials each. The weights are those that perfguard gives the commits of
`{GOOD}..{BAD}`, from the frames that grew in the checked-in report, and with the files that the servers
of 32438eba4 and 17a57fd86 loaded (those of the range's own ends leave 385 candidates). Simulated: the metric's values,
and where the culprit is.

- started in between: revisions started for placing the change. A bisect starts the two ends besides, and for the
  confirmation the culprit's own parent, where that one was folded into another commit (as in the real case).
- right: of the placing alone, at 95%. The duel that confirms it comes after, and names nobody that it does not confirm.
- The weights and the mixing with even ones were chosen before these seeds, from 700,000 on, were run.

"""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Priors that help, and priors that mislead.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    maker = verbs.add_parser("weights", help="weigh the commits of the real range")
    maker.add_argument("--repo", required=True, help="a clone of SGLang")
    maker.add_argument("--run", type=Path, required=True, help="a finished run whose servers loaded what matters")
    maker.add_argument("--result", type=Path, required=True, help="the result.json with the frames that grew")
    simulator = verbs.add_parser("simulate", help="write priors.md")
    simulator.add_argument("--searches", type=int, default=1000, help="searches in every cell")
    simulator.add_argument("--first-seed", type=int, default=FRESH_SEEDS)
    simulator.add_argument("--print", action="store_true", help="print the table and write nothing")
    arguments = parser.parse_args()
    if arguments.verb == "weights":
        write_weights(arguments.repo, arguments.run, arguments.result)
    else:
        simulate(arguments.searches, arguments.first_seed, write=not arguments.print)


if __name__ == "__main__":
    main()
