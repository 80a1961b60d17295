"""Compare the strategies on one revision's own receiving functions: milliseconds a request, by size and rank count.

All arms' processes run at once and wait; per block each size is given to every arm in a new random order, so what
drifts on the machine meets all alike. The limits, one warm copy and one sha256 of the payload, are measured beside.

    python benchmarks/transport/strategies.py run --tree TREE --python PYTHON --ranks 2 --out build/n2.csv
    python benchmarks/transport/strategies.py table build/n2.csv build/n4.csv > benchmarks/transport/RESULTS.md

TREE is a checkout or an unpacked release of SGLang, PYTHON that of perfguard's managed environment.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from perfguard.model.scenario import Strategy
from perfguard.targets.sglang_transport import LockstepResult, MediaKind, TransportCase, start_transport

CASES = {
    "112x112": TransportCase(width_px=112, height_px=112),
    "336x336": TransportCase(width_px=336, height_px=336),
    "672x672": TransportCase(width_px=672, height_px=672),
    "1120x700": TransportCase(width_px=1120, height_px=700),
    "1920x1080": TransportCase(width_px=1920, height_px=1080),
    "video 8f 448x252": TransportCase(kind=MediaKind.VIDEO, width_px=448, height_px=252, frames=8),
}
COLUMNS = (
    "ranks",
    "case",
    "strategy",
    "block",
    "request",
    "payload_bytes",
    "received_ms",
    "whole_ms",
    "memcpy_ms",
    "sha256_ms",
)


class Rows(Protocol):
    """What `csv.writer` returns."""

    def writerow(self, row: Iterable[object], /) -> object:
        """Write one row."""


def main() -> None:
    """Run the verb of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    measure = verbs.add_parser("run")
    measure.add_argument("--tree", type=Path, required=True)
    measure.add_argument("--python", type=Path, required=True)
    measure.add_argument("--ranks", type=int, required=True)
    measure.add_argument("--strategies", nargs="+", default=[strategy.value for strategy in Strategy])
    measure.add_argument("--blocks", type=int, default=4)
    measure.add_argument("--requests", type=int, default=7)
    measure.add_argument("--seed", type=int, default=1)
    measure.add_argument("--out", type=Path, required=True)
    measure.set_defaults(verb=run)
    show = verbs.add_parser("table")
    show.add_argument("files", type=Path, nargs="+")
    show.set_defaults(verb=table)
    arguments = parser.parse_args()
    arguments.verb(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and write one row a request."""
    draw = random.Random(arguments.seed)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arms = {
            name: stack.enter_context(
                start_transport(
                    source_tree=arguments.tree,
                    python=arguments.python,
                    work_dir=folder / name,
                    ranks=arguments.ranks,
                    strategy=Strategy(name),
                )
            )
            for name in arguments.strategies
        }
        for arm in arms.values():
            for case in CASES.values():
                arm.run_lockstep(case, requests=2)  # the first of a size maps memory that later ones find
        rows = csv.writer(stack.enter_context(arguments.out.open("w", newline="")))
        rows.writerow(COLUMNS)
        for block in range(arguments.blocks):
            for case_name, case in CASES.items():
                for name in draw.sample(sorted(arms), len(arms)):
                    result = arms[name].run_lockstep(case, requests=arguments.requests, seed=block)
                    write(rows, (arguments.ranks, case_name, name, block), result)
            print(f"block {block + 1} of {arguments.blocks}", file=sys.stderr)


def write(rows: Rows, key: tuple[object, ...], result: LockstepResult) -> None:
    """Write one arm's requests of one block."""
    for number, (received_ms, whole_ms) in enumerate(zip(result.received_ms, result.whole_ms, strict=True)):
        times = [f"{ms:.3f}" for ms in (received_ms, whole_ms, result.memcpy_ms, result.sha256_ms)]
        rows.writerow((*key, number, result.payload_bytes, *times))


def table(arguments: argparse.Namespace) -> None:
    """Print the medians, with the least and the largest median of a block."""
    found = defaultdict(lambda: defaultdict(list))
    limits = defaultdict(list)
    for file in arguments.files:
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                place = (int(row["ranks"]), row["case"], float(row["payload_bytes"]) / 1e6)
                found[place][row["strategy"], row["block"]].append((float(row["received_ms"]), float(row["whole_ms"])))
                limits[place].append(float(row["memcpy_ms"]) + float(row["sha256_ms"]))
    names = [strategy.value for strategy in Strategy if any((strategy.value, "0") in arms for arms in found.values())]
    for column, title in enumerate(("`broadcast_pyobj` + materialise, slowest rank", "sender to first use, all of it")):
        print(f"\n{title}: ms a request, median (least - largest block median)\n")
        print("| ranks | media | MB | memcpy + sha256 |", " | ".join(names), "|")
        print("|---|---|---|---|" + "---|" * len(names))
        for (ranks, case, megabytes), arms in found.items():
            cells = [cell(arms, name, column) for name in names]
            limit = statistics.median(limits[ranks, case, megabytes])
            print(f"| {ranks} | {case} | {megabytes:.1f} | {limit:.2f} |", " | ".join(cells), "|")


def cell(arms: dict[tuple[str, str], list[tuple[float, float]]], name: str, column: int) -> str:
    """Return one strategy's cell."""
    blocks = [[times[column] for times in values] for (strategy, _), values in arms.items() if strategy == name]
    if not blocks:
        return "-"
    medians = [statistics.median(block) for block in blocks]
    return f"{statistics.median(itertools.chain(*blocks)):.2f} ({min(medians):.2f} - {max(medians):.2f})"


if __name__ == "__main__":
    main()
