"""Calibrate the duel of two revisions on simulated servers, and write its tables beside this script.

    python benchmarks/search/duels.py --jobs 16 --searches 300

fights 300 duels in each of 540 cells (about 20 CPU seconds per 1000 duels) and writes `duels.csv` and `duels.md`.
`--only TEXT` keeps the cells whose name holds it; `--summary` prints one line a group of cells and writes nothing.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import multiprocessing
import os
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
EFFECTS = (0.0, 0.02, 0.05, 0.10, 0.15, 0.20)
START_SDS = (0.01, 0.03)
NOISES = (0.03, 0.06, 0.10)
DRIFTS = (Drift.NONE, Drift.WALK, Drift.STEP)
CHUNK = 25
Row = dict[str, str | int | float]


def cells() -> Iterator[DuelWorld]:
    """Yield every world: the bisect's question in all of them, the comparison's with t4 noise only."""
    for question, disturbance in ((Question.WORSE, None), (Question.DIFFERENT, Disturbance.T4)):
        for kind, drift, start_sd, noise, effect in itertools.product(
            Disturbance if disturbance is None else (disturbance,), DRIFTS, START_SDS, NOISES, EFFECTS
        ):
            yield DuelWorld(
                effect_frac=effect,
                start_sd=start_sd,
                noise_frac=noise,
                disturbance=kind,
                drift=drift,
                question=question,
            )


def name_of(world: DuelWorld) -> str:
    """Render a world's name, which `--only` looks in."""
    return (
        f"{world.question.value}/{world.disturbance.value}/{world.drift.value}"
        f"/starts {world.start_sd:.0%}/noise {world.noise_frac:.0%}/effect {world.effect_frac:.0%}"
    )


def fight(job: tuple[DuelWorld, int, int]) -> list[tuple[str, int, int, float]]:
    """Fight some duels in one world: answer, rounds, pairs of starts, seconds."""
    world, first, count = job
    fought = [
        DuelSimulation(world, seed).fight(Duel(world.config(), seed=seed)) for seed in range(first, first + count)
    ]
    return [(one.answer.value, one.result.rounds, one.result.starts, one.wall_s) for one in fought]


def row_of(world: DuelWorld, fought: list[tuple[str, int, int, float]]) -> Row:
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

Written by `benchmarks/search/duels.py`; the same numbers, cell by cell, are in `duels.csv`. A duel compares two
revisions on the real servers: the gate and the confirmation of `bisect`, and all of `compare`.

- Confidence 0.95, smallest effect 5%, at most 36 rounds (a round is one trial of either side), as in the packaged
  scenarios. "worse" is the question of `bisect`, "different" that of `compare`.
- Starts: the standard deviation between starts of one server. Noise: of one trial, normal, Student's t4, normal with 2%
  of the trials three times as slow, or normal with one start in eight unlucky (12% slower for its whole life).
- Drift: a random walk of 1% a trial, or a step of 10%, up or down, at a trial between 4 and 23.
- Wall time at the cost that the real servers have on two cores: 31 s to start both, 10 s a trial.
- correct: "no change" at effects of 0% and 2%, "worse" from 5% on. wrong: a change named where there is none, or in the
  other direction. missed: "no change" from 5% on (5% is the border itself: both answers are near).
  small: at 2%, the slowdown is named although it is smaller than what was asked for. unknown: 36 rounds did not
  settle it.

"""


def report(rows: list[Row]) -> str:
    """Render the tables: over all cells of one effect, by disturbance and drift, and every cell's worst errors."""
    text = INTRODUCTION
    text += table("By effect", rows, lambda row: (row["question"], row["effect_frac"]), ("question", "effect"))
    text += table(
        "By disturbance and drift (question: worse)",
        [row for row in rows if row["question"] == "worse"],
        lambda row: (row["disturbance"], row["drift"], row["effect_frac"]),
        ("disturbance", "drift", "effect"),
    )
    text += table(
        "By spread and noise (question: worse)",
        [row for row in rows if row["question"] == "worse"],
        lambda row: (row["start_sd"], row["noise_frac"], row["effect_frac"]),
        ("starts", "noise", "effect"),
    )
    return text


def table(title: str, rows: list[Row], key: Callable[[Row], tuple[str | float, ...]], heads: tuple[str, ...]) -> str:
    """Render one table, the rows of equal key pooled; the p95 is that of the group's worst cell."""
    groups: dict[tuple[str | float, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    columns = [*heads, "duels", *(answer.value for answer in DuelAnswer), "most wrong in a cell"]
    columns += ["rounds", "p95", "starts", "p95", "wall s", "p95"]
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for group, members in groups.items():
        duels = sum(int(row["duels"]) for row in members)
        values = [f"{value:.0%}" if isinstance(value, float) else value for value in group]
        values.append(duels)
        values += [f"{sum(int(row[answer.value]) for row in members) / duels:.2%}" for answer in DuelAnswer]
        values.append(f"{max(int(row['wrong']) / int(row['duels']) for row in members):.1%}")
        for name in ("rounds", "starts", "wall_s"):
            mean = sum(float(row[f"mean_{name}"]) * int(row["duels"]) for row in members) / duels
            values += [f"{mean:.1f}", f"{max(float(row[f'p95_{name}']) for row in members):g}"]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """Read the command line, fight, write."""
    parser = argparse.ArgumentParser(description="Calibrate the duel on simulated servers.")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--searches", type=int, default=300, help="duels in every cell")
    parser.add_argument("--only", default="", help="only cells whose name holds this")
    parser.add_argument("--summary", action="store_true", help="print the tables and write nothing")
    arguments = parser.parse_args()
    worlds = [world for world in cells() if arguments.only in name_of(world)]
    jobs = [
        (world, first, min(CHUNK, arguments.searches - first))
        for world in worlds
        for first in range(0, arguments.searches, CHUNK)
    ]
    with multiprocessing.Pool(arguments.jobs) as pool:
        fought = pool.map(fight, jobs, chunksize=1)
    by_world: dict[DuelWorld, list[tuple[str, int, int, float]]] = defaultdict(list)
    for (world, _, _), some in zip(jobs, fought, strict=True):
        by_world[world] += some
    rows = [row_of(world, by_world[world]) for world in worlds]
    if arguments.summary:
        print(report(rows).removeprefix(INTRODUCTION))
        return
    with (HERE / "duels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "duels.md").write_text(report(rows).rstrip() + "\n", encoding="utf-8")
    print(f"{len(rows)} cells, {sum(int(row['duels']) for row in rows)} duels")


if __name__ == "__main__":
    main()
