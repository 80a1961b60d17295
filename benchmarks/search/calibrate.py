"""Calibrate the search and its rivals on simulated worlds, and write the tables beside this script.

Long, so it works in chunks of seeds: every chunk is appended to RAW and never run again, and a call stops starting
new ones after --budget-s seconds. Repeat `run` until it says that nothing is left, then `table`:

    python benchmarks/search/calibrate.py run --raw build/calibration --workers 2 --budget-s 150
    python benchmarks/search/calibrate.py table --raw build/calibration

Needs perfguard installed; with `git-bayesect` (1.2, MIT) installed too, its core is run beside.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from perfguard.search.worlds import Drift, Noise, PriorKind, Simulation, World
from perfguard.workflows.calibrate import METHODS, OURS, Answer, Method, Named, Tally, calibrate, tally_row

try:
    from git_bayesect import Bisector
except ImportError:
    Bisector = None

BAYESECT = "thresholded Beta-Bernoulli (git-bayesect)"
CHUNK = 50
BUDGET_TRIALS = 400
CONFIDENCE = 0.95
HERE = Path(__file__).parent

EFFECTS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.10, 0.20)
PLAIN_EFFECTS = (0.0, 0.05, 0.10)


def bayesect(simulation: Simulation, _seed: int) -> Named:
    """Run git-bayesect's own Bisector on trials cut at the middle of the ends, three trials each.

    It stops at 95%, as `git bayesect run` does, or after 400 trials; it has no answer "no change", so only ends in
    the wrong order count as that.
    """
    revisions = simulation.world.revisions
    ends = [[simulation.measure(index) for _ in range(3)] for index in (0, revisions - 1)]
    means = [sum(values) / len(values) for values in ends]
    if means[1] <= means[0]:
        return Named(commits=None)
    threshold = sum(means) / 2.0
    # Its index 0 is the newest commit, and its answer is the newest one that still behaves like the bad end.
    prior = np.ones(revisions) if simulation.prior is None else simulation.prior.copy()
    prior[0] = 0.0
    bisector = Bisector(prior[::-1].copy())
    for index, values in ((revisions - 1, ends[0]), (0, ends[1])):
        for value in values:
            bisector.record(index, value > threshold)
    while simulation.trials < BUDGET_TRIALS:
        best = int(bisector.distribution.argmax())
        if bisector.distribution[best] >= CONFIDENCE:
            return Named(commits=(revisions - 1 - best,))
        index = bisector.select()
        value = simulation.measure(revisions - 1 - index)
        bisector.record(index, None if value is None else value > threshold)
    return Named(commits=None, unknown=True)


def methods() -> dict[str, Method]:
    """Return every method that can run here."""
    return METHODS if Bisector is None else {**METHODS, BAYESECT: bayesect}


def cells() -> Iterator[tuple[World, str, int]]:
    """Yield (world, method, searches), the most wanted first."""
    promised = [World(effect_frac=effect, drift=drift) for effect in (0.0, 0.05, 0.10, 0.20) for drift in Drift]
    faint = [World(effect_frac=effect, drift=drift) for effect in (0.03, 0.02, 0.01) for drift in Drift]
    corners = list(corner_worlds())
    for world in promised:
        yield world, OURS, 1000
    for method in methods():
        if method != OURS:
            for world in promised:
                yield world, method, 200
    for world in corners:
        yield world, OURS, 200 if world.revisions > World().revisions else 100
    for world in faint:
        yield world, OURS, 1000
    for method in methods():
        if method != OURS:
            for world in corners:
                yield world, method, 50


def corner_worlds() -> Iterator[World]:
    """Yield the worlds that differ from the main ones in one more way."""
    for drift in (Drift.NONE, Drift.WALK):
        for effect in PLAIN_EFFECTS:
            for revisions in (8, 1024):
                yield World(revisions=revisions, effect_frac=effect, drift=drift)
            for noise in (Noise.NORMAL, Noise.OUTLIERS):
                yield World(effect_frac=effect, noise=noise, drift=drift)
            yield World(effect_frac=effect, untestable_frac=0.2, drift=drift)
    for effect in PLAIN_EFFECTS:
        for noise in Noise:
            yield World(effect_frac=effect, noise_frac=0.01, noise=noise)
            yield World(effect_frac=effect, noise_frac=0.10, noise=noise)
    for effect in (0.05, 0.10):
        for prior in (PriorKind.INFORMATIVE, PriorKind.MISLEADING):
            yield World(effect_frac=effect, prior=prior)


def run(raw: Path, workers: int, budget_s: float, only: str | None, first_seed: int) -> None:
    """Run the chunks that RAW lacks, of seeds from `first_seed` on, until the budget is spent."""
    raw.mkdir(parents=True, exist_ok=True)
    path = raw / "chunks.jsonl"
    done = {
        (_key(json.loads(line)["world"]), json.loads(line)["method"], json.loads(line)["seed"]) for line in _lines(path)
    }
    todo = [
        (world, method, seed)
        for world, method, searches in cells()
        for seed in range(first_seed, first_seed + searches, CHUNK)
        if (only is None or only in method) and (_key(dataclasses.asdict(world)), method, seed) not in done
    ]
    until = time.monotonic() + budget_s
    left = len(todo)
    with multiprocessing.Pool(workers) as pool, path.open("a", encoding="utf-8") as file:
        jobs = iter(todo)
        running = []
        while True:
            while len(running) < workers and time.monotonic() < until and (job := next(jobs, None)) is not None:
                running.append(pool.apply_async(_chunk, job))
            if not running:
                break
            running[0].wait(0.05)
            for job in [job for job in running if job.ready()]:
                running.remove(job)
                file.write(json.dumps(job.get()) + "\n")
                file.flush()
                left -= 1
    print(f"{left} chunks left")


def _chunk(world: World, method: str, seed: int) -> dict[str, object]:
    tally = calibrate(world, method, range(seed, seed + CHUNK), methods())
    return {
        "world": dataclasses.asdict(world),
        "method": method,
        "seed": seed,
        "answers": [answer.value for answer in tally.answers],
        "trials": tally.trials,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _key(world: dict[str, object]) -> str:
    return json.dumps({name: getattr(value, "value", value) for name, value in world.items()}, sort_keys=True)


def tallies(raw: Path) -> list[Tally]:
    """Read every chunk and add up those of one cell."""
    chunks: dict[tuple[str, str], list[dict[str, object]]] = defaultdict(list)
    for line in _lines(raw / "chunks.jsonl"):
        chunk = json.loads(line)
        chunks[_key(chunk["world"]), chunk["method"]].append(chunk)
    order = list(dict.fromkeys((_key(dataclasses.asdict(world)), method) for world, method, _ in cells()))
    return [_tally(chunks[cell]) for cell in order if cell in chunks]


def _tally(chunks: list[dict[str, object]]) -> Tally:
    chunks.sort(key=lambda chunk: chunk["seed"])
    world = dict(chunks[0]["world"])
    kinds = {"noise": Noise, "drift": Drift, "prior": PriorKind}
    return Tally(
        world=World(**{name: kinds[name](value) if name in kinds else value for name, value in world.items()}),
        method=chunks[0]["method"],
        answers=tuple(Answer(answer) for chunk in chunks for answer in chunk["answers"]),
        trials=tuple(count for chunk in chunks for count in chunk["trials"]),
    )


def table(raw: Path) -> None:
    """Write `calibration.csv` and `calibration.md` beside this script; cells that RAW lacks stay as they are there."""
    cells_told = {_cell(row): row for row in _rows_before()}
    cells_told |= {_cell(row): row for row in (tally_row(tally) for tally in tallies(raw))}
    rows = list(cells_told.values())
    with (HERE / "calibration.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    sections = "\n".join(_section(title, [line for line in rows if wanted(line)]) for title, wanted in SECTIONS)
    (HERE / "calibration.md").write_text(INTRODUCTION + sections, encoding="utf-8")
    print(f"{len(rows)} cells, {sum(int(line['searches']) for line in rows)} searches")


def _cell(row: dict[str, object]) -> tuple[object, ...]:
    return (row["method"], *(row[field.name] for field in dataclasses.fields(World)))


def _rows_before() -> list[dict[str, object]]:
    """Read the rows of `calibration.csv`, with the types that `tally_row` gives them."""
    path = HERE / "calibration.csv"
    if not path.exists():
        return []

    def typed(name: str, text: str) -> object:
        if name in TEXTS:
            return text
        return None if not text else float(text) if name in FRACTIONS else int(text)

    with path.open(encoding="utf-8", newline="") as file:
        return [{name: typed(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def _is_main(line: dict[str, object]) -> bool:
    return (line["revisions"], line["noise_frac"], line["noise"], line["untestable_frac"], line["prior"]) == (
        128,
        0.03,
        "t4",
        0.0,
        "uniform",
    )


TEXTS = ("method", "noise", "drift", "prior")
FRACTIONS = (
    "effect_frac",
    "noise_frac",
    "untestable_frac",
    "mean_trials",
    "limit_trials",
    "mean_over_limit",
)
SECTIONS = (
    ("N = 128, noise 3% (Student's t4): perfguard", lambda line: _is_main(line) and line["method"] == OURS),
    ("The same worlds: the others", lambda line: _is_main(line) and line["method"] != OURS),
    ("Other worlds: perfguard", lambda line: not _is_main(line) and line["method"] == OURS),
    ("Other worlds: the others", lambda line: not _is_main(line) and line["method"] != OURS),
)

INTRODUCTION = """\
# Calibration of the search

Written by `benchmarks/search/calibrate.py`; the same numbers are in `calibration.csv`. Every method sees the same
simulated machines, seed by seed.

- Noise is the standard deviation of a trial's log metric; t4 is Student's t with 4 degrees of freedom scaled to it;
  "outliers" is normal noise with 2% of the trials three times as slow.
- Drift: a random walk of 1% a trial; a step of 10%, up or down, at a trial between 10 and 39 (about half-way through a
  search); a sine of amplitude 5% and period 60 trials.
- The culprit is uniform over the commits. Untestable revisions come in runs of 3 on average.
- perfguard runs with its defaults: confidence 0.95, smallest effect 2%, at most 400 trials.
- correct: the culprit, or exactly the untestable neighbours that nobody can tell from it; with effect 0, "no
  change". wrong: an innocent commit is named. missed: "no change" where there is one (at 1%, below the smallest effect
  asked for, that is what was asked). unknown: it says that it cannot tell.
- limit: (log2 n + log2 1/0.005) / (1 - H(p)), p = Phi(-d/2): the fewest trials on average of any search that cuts
  trials at the middle into good and bad, knows level, effect and noise, and knows that there is a culprit. A search
  that weighs the values themselves may go below it where the noise's tails are heavy; one that has to find out about
  level, effect and noise, and whether there is a culprit at all, pays for that. The ratio to it is given where at least
  95% of the answers are correct: giving up is cheap.
- git bisect: median of 3 trials a revision, cut at the middle of the ends' medians. Ladder: own reimplementation of the
  idea of Chromium's Pinpoint (the smaller p of Mann-Whitney and Kolmogorov-Smirnov, 10, 20, 40 trials a revision).
  git-bayesect: the package's own `Bisector` (1.2) on trials cut at the middle of the ends, up to 95%.

"""


def _section(title: str, rows: list[dict[str, object]]) -> str:
    several = len({line["method"] for line in rows}) > 1
    heads = ["method"] if several else []
    heads += ["N", "effect", "noise", "drift", "untestable", "prior", "searches", *(answer.value for answer in Answer)]
    heads += ["mean", "p95", "limit", "mean/limit"]
    lines = [f"## {title}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in rows:
        counted = float(line["searches"])
        values = [line["method"]] if several else []
        values += [
            line["revisions"],
            f"{line['effect_frac']:.0%}",
            f"{line['noise_frac']:.0%} {line['noise']}",
            line["drift"],
            f"{line['untestable_frac']:.0%}",
            line["prior"],
            line["searches"],
            *(f"{line[answer.value] / counted:.1%}" for answer in Answer),
            line["mean_trials"],
            line["p95_trials"],
            line["limit_trials"] or "-",
            line["mean_over_limit"] or "-",
        ]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Calibrate the search on simulated worlds.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="run chunks that are missing")
    runner.add_argument("--workers", type=int, default=1)
    runner.add_argument("--budget-s", type=float, default=150.0, help="start no chunk after this many seconds")
    runner.add_argument("--first-seed", type=int, default=0)
    runner.add_argument("--method", help="only methods whose name holds this")
    writer = verbs.add_parser("table", help="write calibration.md and calibration.csv")
    for verb in (runner, writer):
        verb.add_argument("--raw", type=Path, required=True, help="folder of the chunks")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.raw, arguments.workers, arguments.budget_s, arguments.method, arguments.first_seed)
    else:
        table(arguments.raw)


if __name__ == "__main__":
    main()
