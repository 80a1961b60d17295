"""Send requests through the ranks of a revision, cancel some, kill ranks, and count what is left behind.

    python benchmarks/strategies/leaks.py run --tree TREE --python PYTHON --strategy shared-memory \
        --requests 10000 --cancel 0.05 --kills 20 --ranks 2 --seed 1 --out build/leaks.csv
    python benchmarks/strategies/leaks.py table build/leaks.csv > benchmarks/strategies/RESULTS.md

TREE is a checkout or an unpacked release of SGLang, PYTHON that of perfguard's managed environment. Ranks are killed
with SIGKILL at a random time of a random batch of requests; the group is then stopped and started anew. After every
batch and every end of a group the segments, descriptors, mappings and processes that were not there before are counted.
Exit code 1 where anything is left, or a request got other content than the revision itself makes of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from perfguard.model.errors import UntestableError
from perfguard.model.scenario import Strategy
from perfguard.targets.sglang_transport import MediaKind, RunningTransport, TransportCase, start_transport

SHM = Path("/dev/shm")  # noqa: S108 - the place of POSIX segments, not a temporary directory
BATCH = 25
RATES_RPS = {
    TransportCase(): 400.0,
    TransportCase(width_px=336, height_px=336): 150.0,
    TransportCase(count=3): 200.0,
    TransportCase(kind=MediaKind.VIDEO, width_px=224, height_px=224, frames=4): 150.0,
}
# So many batches let every size be seen once before what is open is counted for the first time.
SETTLING_BATCHES = len(RATES_RPS)
# The lasting memory of a group grows to what a batch has in flight, some 70 MB. What is not given back makes it grow
# with every request instead: by 600 MB in the time that a group lives here.
MOST_ARENA_MB = 200


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the requests, and what was left; `*_left` and `*_grown` are to be zero.

    `failed` requests were in a batch that ended with an error that names the killed rank, `unclear` ones in a batch
    that ended with another. `cancelled` ones ended before a rank built them. Descriptors and mappings are counted in
    the processes of a group between batches, and descriptors in this one over the whole run. `arena_mb` is the most
    that the lasting memory of a group had between batches; its one mapping a process is no mapping left.
    """

    strategy: str
    ranks: int
    seed: int
    requests: int = 0
    answered: int = 0
    cancelled: int = 0
    failed: int = 0
    unclear: int = 0
    mismatched: int = 0
    kills: int = 0
    starts: int = 0
    segments_left: int = 0
    descriptors_grown: int = 0
    mappings_left: int = 0
    processes_left: int = 0
    arena_mb: int = 0

    @property
    def faults(self) -> tuple[str, ...]:
        """The counts that should have been zero and are not."""
        names = ("unclear", "mismatched", "segments_left", "descriptors_grown", "mappings_left", "processes_left")
        found = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name)]
        if self.arena_mb > MOST_ARENA_MB:
            found.append(f"arena of {self.arena_mb} MB")
        told = self.answered + self.cancelled + self.failed + self.unclear
        return (*found, *([f"{self.requests - told} requests without an end"] if told != self.requests else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run; ranks are killed in `kills` batches, drawn by `seed`."""

    tree: Path
    python: Path
    strategy: Strategy
    ranks: int
    requests: int
    cancel_frac: float
    kills: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that goes on: `kill_in` are the batches in which a rank is killed, `folder` the groups' work folder."""

    plan: Plan
    tally: Tally
    draw: random.Random
    kill_in: frozenset[int]
    folder: Path

    def prefixes(self) -> tuple[str, ...]:
        """How the names of the last group's segments begin, as its sender recorded it."""
        records = [
            json.loads(line)
            for file in (self.folder / "inside").glob("*.jsonl")
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        return tuple(record["shm_prefix"] for record in records if "shm_prefix" in record)

    def segments(self) -> int:
        """Count the last group's segments."""
        prefixes = self.prefixes()
        return sum(entry.name.startswith(prefixes) for entry in SHM.iterdir()) if prefixes else 0


def main() -> int:
    """Run the verb of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    measure = verbs.add_parser("run")
    measure.add_argument("--tree", type=Path, required=True)
    measure.add_argument("--python", type=Path, required=True)
    measure.add_argument("--strategy", type=Strategy, default=Strategy.SHARED_MEMORY)
    measure.add_argument("--ranks", type=int, default=2)
    measure.add_argument("--requests", type=int, default=10_000)
    measure.add_argument("--cancel", type=float, default=0.05)
    measure.add_argument("--kills", type=int, default=20)
    measure.add_argument("--seed", type=int, default=1)
    measure.add_argument("--out", type=Path, required=True, help="a CSV file; a row is added to it")
    measure.set_defaults(verb=run)
    show = verbs.add_parser("table")
    show.add_argument("files", type=Path, nargs="+")
    show.set_defaults(verb=table)
    arguments = parser.parse_args()
    code: int = arguments.verb(arguments)
    return code


def run(arguments: argparse.Namespace) -> int:
    """Run once, and add a row to the file."""
    plan = Plan(
        tree=arguments.tree,
        python=arguments.python,
        strategy=arguments.strategy,
        ranks=arguments.ranks,
        requests=arguments.requests,
        cancel_frac=arguments.cancel,
        kills=arguments.kills,
        seed=arguments.seed,
    )
    tally = endure(plan)
    names = [field.name for field in fields(Tally)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    is_new = not arguments.out.exists()
    with arguments.out.open("a", newline="") as stream:
        rows = csv.DictWriter(stream, names)
        if is_new:
            rows.writeheader()
        rows.writerow(asdict(tally))
    print("; ".join(tally.faults) or f"nothing left: {tally}", file=sys.stderr)
    return 1 if tally.faults else 0


def endure(plan: Plan) -> Tally:
    """Send all requests, through as many groups as the kills take, and count.

    Raises:
        UntestableError: a group does not start.
    """
    draw = random.Random(plan.seed)
    tally = Tally(strategy=plan.strategy.value, ranks=plan.ranks, seed=plan.seed)
    batches = -(-plan.requests // BATCH)
    kill_in = frozenset(draw.sample(range(batches), min(plan.kills, batches)))
    own_descriptors = psutil.Process().num_fds()
    with tempfile.TemporaryDirectory() as folder:
        run_of = Run(plan=plan, tally=tally, draw=draw, kill_in=kill_in, folder=Path(folder))
        number = 0
        while number < batches:
            tally.starts += 1
            with start_transport(
                source_tree=plan.tree,
                python=plan.python,
                work_dir=run_of.folder,
                ranks=plan.ranks,
                strategy=plan.strategy,
                rank_limit_s=10.0,
            ) as transport:
                processes = [psutil.Process(pid) for pid in transport.pids]
                number = _until_killed(run_of, transport, range(number, batches))
            tally.processes_left += sum(map(_lives, processes))
            tally.segments_left += run_of.segments()
            _say(tally, f"batch {number} of {batches}")
    tally.descriptors_grown += max(0, psutil.Process().num_fds() - own_descriptors)
    return tally


def _until_killed(run_of: Run, transport: RunningTransport, batches: range) -> int:
    """Send batches until a rank was killed or all are sent; return the number of the next batch."""
    plan, tally = run_of.plan, run_of.tally
    processes = [psutil.Process(pid) for pid in transport.pids]
    settled: list[int] = []
    for place, number in enumerate(batches):
        count = min(BATCH, plan.requests - number * BATCH)
        kinds = list(RATES_RPS.items())
        case, rate_rps = kinds[place] if place < SETTLING_BATCHES else run_of.draw.choice(kinds)
        tally.requests += count
        timer = _kill_one(run_of, transport, count / rate_rps) if number in run_of.kill_in else None
        try:
            result = transport.run_arrivals(
                case,
                requests=count,
                rate_rps=rate_rps,
                seed=plan.seed * 1_000_003 + number,
                cancel_frac=plan.cancel_frac,
                check=True,
            )
        except UntestableError as error:
            is_clear = timer is not None and "ended with -9" in error.reason
            tally.failed += count if is_clear else 0
            tally.unclear += 0 if is_clear else count
            if not is_clear:
                _say(tally, f"batch {number} failed: {error.reason}\n{error.log_tail}")
            return number + 1
        finally:
            if timer is not None:
                timer.join()
        tally.mismatched += len(result.mismatched)
        tally.answered += len(result.latencies_ms)
        tally.cancelled += count - len(result.latencies_ms)
        tally.segments_left += run_of.segments()
        if timer is not None:
            return number + 1  # the batch was quicker than the kill: its group is gone all the same
        tally.mappings_left += sum(_mappings(process, run_of.prefixes()) for process in processes)
        tally.arena_mb = max(tally.arena_mb, *(_arena_mb(process, run_of.prefixes()) for process in processes))
        if place == SETTLING_BATCHES - 1:
            settled = [process.num_fds() for process in processes]
        elif settled:
            grown = [max(0, now.num_fds() - before) for now, before in zip(processes, settled, strict=True)]
            tally.descriptors_grown = max(tally.descriptors_grown, sum(grown))
    return batches.stop


def _kill_one(run_of: Run, transport: RunningTransport, within_s: float) -> threading.Timer:
    """Kill a random rank at a random time of the batch that is about to begin."""
    victim = transport.rank_pids[run_of.draw.randrange(run_of.plan.ranks)]

    def kill() -> None:
        os.kill(victim, signal.SIGKILL)
        run_of.tally.kills += 1

    timer = threading.Timer(run_of.draw.uniform(0.0, within_s), kill)
    timer.start()
    return timer


def _mappings(process: psutil.Process, prefixes: Sequence[str]) -> int:
    """Count the mappings of segments; that of the arena lasts as long as the process."""
    maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
    return sum(maps.count(prefix) - maps.count(f"{prefix}arena") for prefix in prefixes)


def _arena_mb(process: psutil.Process, prefixes: Sequence[str]) -> int:
    """Return the memory of the arena that a process writes, in MB; 0 where it writes none."""
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        if str(descriptor.readlink()).startswith(tuple(f"{SHM}/{prefix}arena" for prefix in prefixes)):
            return round(descriptor.stat().st_blocks * 512 / 1e6)
    return 0


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _say(tally: Tally, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {tally.strategy}: {what}; kills {tally.kills}", file=sys.stderr, flush=True)


def table(arguments: argparse.Namespace) -> int:
    """Print a table of all runs in the files, a row for each strategy and number of ranks."""
    sums: dict[tuple[str, int], Tally] = {}
    for file in arguments.files:
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                key = (row["strategy"], int(row["ranks"]))
                tally = sums.setdefault(key, Tally(strategy=key[0], ranks=key[1], seed=0))
                for name in _counts():
                    setattr(tally, name, getattr(tally, name) + int(row[name]))
                tally.arena_mb = max(tally.arena_mb, int(row["arena_mb"]))
    names = [*(name.replace("_", " ") for name in _counts()), "arena, most MB"]
    print("| strategy | ranks |", " | ".join(names), "|")
    print("|---|---|" + "---|" * len(names))
    for tally in sums.values():
        cells = [f"{getattr(tally, name):,}" for name in (*_counts(), "arena_mb")]
        print(f"| {tally.strategy} | {tally.ranks} |", " | ".join(cells), "|")
    return 1 if any(tally.faults for tally in sums.values()) else 0


def _counts() -> list[str]:
    return [field.name for field in fields(Tally) if field.name not in ("strategy", "ranks", "seed", "arena_mb")]


if __name__ == "__main__":
    sys.exit(main())
