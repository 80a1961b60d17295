"""Calibrate the duel of two revisions on simulated servers, and write its tables beside this script.

Works in chunks of seeds, as `calibrate.py` does: a chunk is appended to RAW and never fought again, and a call starts
no new one after --budget-s seconds. Repeat `run` until it says that nothing is left, then `table`:

    python benchmarks/search/duels.py run --raw build/duels --workers 2 --budget-s 150
    python benchmarks/search/duels.py table --raw build/duels

The tables are of seeds from 900,000 on (`--first-seed`), on which nothing was tuned.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

# Every process has a core of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from perfguard.search import Duel, Question
from perfguard.search.duel_worlds import Disturbance, DuelAnswer, DuelSimulation, DuelWorld
from perfguard.search.worlds import Drift

HERE = Path(__file__).parent
EFFECTS = (0.0, 0.05, 0.10, 0.20)
START_SDS = (0.01, 0.03, 0.08)
NOISES = (0.03, 0.06, 0.10)
FRESH_SEEDS = 900_000
CHUNK = 25
Row = dict[str, str | int | float]
Fought = tuple[str, int, int, float]


def cells() -> Iterator[DuelWorld]:
    """Yield every world, the one that real servers are most like first."""
    for effect in EFFECTS:
        for question in (Question.WORSE, Question.DIFFERENT):
            yield DuelWorld(effect_frac=effect, question=question)
    for effect, start_sd, noise in itertools.product(EFFECTS, START_SDS, NOISES):
        if (start_sd, noise) != (DuelWorld().start_sd, DuelWorld().noise_frac):
            yield DuelWorld(effect_frac=effect, start_sd=start_sd, noise_frac=noise)
    for effect in EFFECTS:
        for disturbance in (Disturbance.NORMAL, Disturbance.OUTLIERS, Disturbance.UNLUCKY):
            yield DuelWorld(effect_frac=effect, disturbance=disturbance)
        for drift in (Drift.WALK, Drift.STEP):
            yield DuelWorld(effect_frac=effect, drift=drift)


def name_of(world: DuelWorld) -> str:
    """Render a world's name, which `--only` looks in."""
    return (
        f"{world.question.value}/{world.disturbance.value}/{world.drift.value}"
        f"/starts {world.start_sd:.0%}/noise {world.noise_frac:.0%}/effect {world.effect_frac:.0%}"
    )


def fight(job: tuple[DuelWorld, int, int]) -> list[Fought]:
    """Fight some duels in one world: answer, rounds, pairs of starts, seconds."""
    world, first, count = job
    fought = [
        DuelSimulation(world, seed).fight(Duel(world.config(), seed=seed)) for seed in range(first, first + count)
    ]
    return [(one.answer.value, one.result.rounds, one.result.starts, one.wall_s) for one in fought]


def run(raw: Path, jobs: list[tuple[DuelWorld, int, int]], *, workers: int, budget_s: float) -> None:
    """Fight the chunks that RAW lacks, until the budget is spent."""
    raw.mkdir(parents=True, exist_ok=True)
    done = {(chunk["world"], chunk["seed"], chunk["duels"]) for chunk in _chunks(raw)}
    todo = [job for job in jobs if (name_of(job[0]), *job[1:]) not in done]
    until = time.monotonic() + budget_s
    left = len(todo)
    with multiprocessing.Pool(workers) as pool, _file(raw).open("a", encoding="utf-8") as file:
        for begin in range(0, len(todo), workers):
            if time.monotonic() >= until:
                break
            some = todo[begin : begin + workers]
            for (world, seed, duels), fought in zip(some, pool.map(fight, some, chunksize=1), strict=True):
                chunk = {"world": name_of(world), "seed": seed, "duels": duels, "fought": fought}
                file.write(json.dumps(chunk) + "\n")
                left -= 1
            file.flush()
    print(f"{left} chunks left")


def _file(raw: Path) -> Path:
    return raw / "duels.jsonl"


def _chunks(raw: Path) -> list[dict[str, object]]:
    lines = _file(raw).read_text(encoding="utf-8").splitlines() if _file(raw).exists() else []
    return [json.loads(line) for line in lines]


def row_of(world: DuelWorld, fought: list[Fought]) -> Row:
    """Add up one cell."""
    answers = [answer for answer, *_ in fought]
    row: Row = {name: getattr(value, "value", value) for name, value in dataclasses.asdict(world).items()}
    row["duels"] = len(fought)
    row |= {answer.value: answers.count(answer.value) for answer in DuelAnswer}
    for place, name in ((1, "rounds"), (2, "starts"), (3, "wall_s")):
        values = [one[place] for one in fought]
        row[f"mean_{name}"] = round(float(np.mean(values)), 1)
        row[f"p95_{name}"] = float(np.quantile(values, 0.95, method="higher"))
    return row


INTRODUCTION = """\
# Calibration of the duel

Written by `benchmarks/search/duels.py`; the same numbers are in `duels.csv`. A duel compares two revisions on the real
servers: the gate and the confirmation of `bisect`, and all of `compare`.

- Confidence 0.95, smallest effect 5%, at most 24 rounds (a round is one trial of either side), as in the packaged
  scenarios. "worse" is the question of `bisect`, "different" that of `compare`.
- Starts: the standard deviation between starts of one server. Noise: of one trial, normal, Student's t4, normal with 2%
  of the trials three times as slow, or normal with one start in eight unlucky (12% slower for its whole life).
  The real server on two cores, in one bisect of releases: 4-9% between three trials of a start; the means of four
  starts of one release differed by 2.7%, which that noise alone explains. At other times, beside other work, starts of
  one revision gave 75 to 115 requests a second: that is 8% between starts, or more.
- Drift: a random walk of 1% a trial, or a step of 10%, up or down, at a trial between 4 and 23.
- Wall time at the cost that the real servers have on two cores: 31 s to start both, 10 s a trial.
- correct: "no change" at 0%, "worse" from 5% on. wrong: a change named where there is none, or in the other direction.
  missed: "no change" from 5% on (5% is the border itself: either answer is near, and "unknown" is the honest one).
  unknown: 24 rounds did not settle it.
- The limit at 0%: no test that takes 0% for 5%, and 5% for 0%, in 5% of the duels each can do with fewer rounds on
  average than 4 at noise 3%, 16 at 6%, 45 at 10% (normal noise, starts all alike, everything but the effect known).
  The duel ends sooner at 6% and 10% because it misses an effect of 5% more often than that, or says "unknown".
  Source: A. Wald, "Sequential tests of statistical hypotheses", Annals of Mathematical Statistics 16 (1945).
- What it is held against: the rule before this one was content with two pairs of starts and expected them to differ by
  2%. At 8% it named a change in 5.2% to 6.8% of the duels without one, at 1% to 3% in 0% to 1.2%. A change of 20% on
  servers as they are took it 201 s; one of 10% it found in 95% of the duels, in 369 s. At 8% between starts it found
  44% to 58% of the changes of 10%, and called 9% to 11% of them "no change".
- Where it falls short: at 8% between starts it still names a change in 1.4% to 1.7% of the duels without one. Wanted
  was 1%, expected 0.7% to 1.1%, from normal noise of a known size. And most changes of 10% stay open there: the mean of
  twelve pairs of such starts has a standard error of 3.3%, and 24 rounds hold no more pairs.
- The rule was derived on seeds from 1,000 on; these are fresh. The cells of one spread between starts share the starts'
  luck, seed by seed: three cells at 8% say less than three times what one does.

"""


def report(rows: list[Row]) -> str:
    """Render the tables: the servers as they are, other spreads, other disturbances."""
    usual = DuelWorld()

    def plain(row: Row) -> bool:
        return row["disturbance"] == usual.disturbance.value and row["drift"] == usual.drift.value

    def spread(row: Row) -> bool:
        return (row["start_sd"], row["noise_frac"]) == (usual.start_sd, usual.noise_frac)

    spreads = f"starts {usual.start_sd:.0%}, noise {usual.noise_frac:.0%}"
    sections: tuple[tuple[str, tuple[str, ...], Callable[[Row], bool]], ...] = (
        (f"Servers as they are ({spreads})", ("question", "effect_frac"), lambda row: plain(row) and spread(row)),
        (
            'Other spreads (question "worse")',
            ("start_sd", "noise_frac", "effect_frac"),
            lambda row: plain(row) and not spread(row),
        ),
        (f"Other disturbances ({spreads})", ("disturbance", "drift", "effect_frac"), lambda row: not plain(row)),
    )
    return INTRODUCTION + "\n".join(
        table(title, heads, [row for row in rows if wanted(row)]) for title, heads, wanted in sections
    )


def table(title: str, heads: tuple[str, ...], rows: list[Row]) -> str:
    """Render one table, a line a cell."""
    columns = [*(head.removesuffix("_frac").removesuffix("_sd") for head in heads), "duels"]
    columns += [*(answer.value for answer in DuelAnswer if answer is not DuelAnswer.SMALL)]
    columns += ["rounds", "p95", "starts", "p95", "wall s", "p95"]
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        values = [f"{row[head]:.0%}" if isinstance(row[head], float) else row[head] for head in heads]
        values.append(row["duels"])
        values += [
            f"{int(row[answer.value]) / int(row['duels']):.1%}"
            for answer in DuelAnswer
            if answer is not DuelAnswer.SMALL
        ]
        for name in ("rounds", "starts", "wall_s"):
            values += [f"{row[f'mean_{name}']:.1f}", f"{row[f'p95_{name}']:g}"]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines) + "\n"


def write_table(raw: Path, *, write: bool) -> None:
    """Write `duels.csv` and `duels.md` beside this script, or print the tables."""
    by_world: dict[str, list[Fought]] = defaultdict(list)
    for chunk in _chunks(raw):
        by_world[chunk["world"]] += chunk["fought"]
    rows = [row_of(world, by_world[name_of(world)]) for world in cells() if name_of(world) in by_world]
    if not write:
        print(report(rows).removeprefix(INTRODUCTION))
        return
    with (HERE / "duels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "duels.md").write_text(report(rows), encoding="utf-8")
    print(f"{len(rows)} cells, {sum(int(row['duels']) for row in rows)} duels")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Calibrate the duel on simulated servers.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="fight chunks that are missing")
    runner.add_argument("--workers", type=int, default=1)
    runner.add_argument("--budget-s", type=float, default=150.0, help="start no chunk after this many seconds")
    runner.add_argument("--duels", type=int, default=300, help="duels in every cell")
    runner.add_argument("--first-seed", type=int, default=FRESH_SEEDS)
    runner.add_argument("--only", default="", help="only cells whose name holds this")
    writer = verbs.add_parser("table", help="write duels.md and duels.csv")
    writer.add_argument("--print", action="store_true", help="print the tables and write nothing")
    for verb in (runner, writer):
        verb.add_argument("--raw", type=Path, required=True, help="folder of the chunks")
    arguments = parser.parse_args()
    if arguments.verb == "table":
        write_table(arguments.raw, write=not arguments.print)
        return
    # All cells get their first chunk before any gets its second.
    jobs = [
        (world, arguments.first_seed + first, min(CHUNK, arguments.duels - first))
        for first in range(0, arguments.duels, CHUNK)
        for world in cells()
        if arguments.only in name_of(world)
    ]
    run(arguments.raw, jobs, workers=arguments.workers, budget_s=arguments.budget_s)


if __name__ == "__main__":
    main()
