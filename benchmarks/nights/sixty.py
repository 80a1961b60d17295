"""Simulated nights through the real guard: what it raises, when, and what it does not.

    python benchmarks/nights/sixty.py story --seeds 1        # sixty nights with everything planted, night by night
    python benchmarks/nights/sixty.py clean --seeds 1-20     # sixty clean nights each: false alarms
    python benchmarks/nights/sixty.py step --seeds 1-120     # a 5% step after some clean nights: told the same night?
    python benchmarks/nights/sixty.py creep --seeds 1-40     # 0.3% a night: nights until it is told
    python benchmarks/nights/sixty.py real                   # the story again, with real servers and their load
    python benchmarks/nights/sixty.py report                 # the tables of RESULTS.md from all of these

A simulation adds lines of JSON to `--out`, one a seed, and begins no seed after `--seconds`; seeds that are there are
skipped, so that it may be run in pieces. The noise is that of `world.Machine`: 2% between starts, 1% within.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from world import RealWorld, World

from perfguard.model.night import AlertKind, AlertState, NightRecord
from perfguard.workflows.nights import accept

NIGHTS = 60
STEP = 0.95
CREEP = 0.997
MOST_CREEP_NIGHTS = 30
WITHIN = 14
# What is planted in the story, by night.
SLOW, MENDED, NOISY, BROKEN, FASTER, MOVED, CREEPING = 9, 12, 19, 20, 25, 29, 35

PLANTED = {
    SLOW: ("5% step", STEP),
    MENDED: ("the step is mended", 1.0 / STEP),
    NOISY: ("five times the noise", 1.0),
    BROKEN: ("no server starts", 1.0),
    FASTER: ("6% improvement", 1.06),
    MOVED: ("another machine, 30% slower", 1.0),
}

Row = dict[str, Any]


def tell(number: int, planted: str, night: NightRecord, trials: int) -> Row:
    """Give a night as a row."""
    return {
        "night": number,
        "planted": planted,
        "verdict": night.verdict.value,
        "alerts": [
            {"kind": alert.kind.value, "state": alert.state.value, "commit": alert.commit, "id": alert.id}
            for alert in night.alerts
        ],
        "beside_anchor": night.anchor.verdict.value if night.anchor else "",
        "trials": trials,
        "culprit": night.culprit.revision.commit if night.culprit else "",
    }


def run(world: World, number: int, planted: str = "") -> tuple[Row, NightRecord]:
    """Run one night."""
    before = world.machine.trials
    night = world.night()
    return tell(number, planted, night, world.machine.trials - before), night


def is_raised(row: Row, *kinds: AlertKind) -> bool:
    """Whether a night opened an alert of one of these kinds."""
    wanted = {kind.value for kind in kinds}
    return any(alert["kind"] in wanted and alert["state"] == AlertState.OPEN.value for alert in row["alerts"])


def clean(world: World, _seed: int) -> Row:
    """Sixty nights on which no commit changes the speed."""
    rows = []
    for number in range(1, NIGHTS + 1):
        world.commit(100.0)
        rows.append(run(world, number)[0])
    return {
        "raised": [row["night"] for row in rows if is_raised(row, AlertKind.STEP, AlertKind.CREEP)],
        "verdicts": Counter(row["verdict"] for row in rows),
        "trials": sum(row["trials"] for row in rows),
        "beside_anchor": sum(1 for row in rows if row["beside_anchor"]),
    }


def step(world: World, seed: int) -> Row:
    """A few clean nights, and one with a commit that is 5% slower between two harmless ones; then it stands."""
    clean_nights = 2 + random.Random(seed).randrange(3)
    for number in range(1, clean_nights + 1):
        world.commit(100.0)
        run(world, number)
    world.commit(100.0)
    culprit = world.commit(100.0 * STEP)
    world.commit(100.0 * STEP)
    rows = [run(world, clean_nights + 1, "step")[0]]
    for number in (1, 2):
        world.commit(100.0 * STEP)
        rows.append(run(world, clean_nights + 1 + number)[0])
    raised = [is_raised(row, AlertKind.STEP, AlertKind.CREEP) for row in rows]
    opened = [
        alert["commit"]
        for row in rows
        for alert in row["alerts"]
        if alert["state"] == "open" and alert["kind"] == "step"
    ]
    return {
        "first_night": rows[0]["verdict"],
        "raised": raised,
        "named": [commit == culprit for commit in opened],
        "trials": [row["trials"] for row in rows],
    }


def creep(world: World, seed: int) -> Row:
    """Some clean nights, then 0.3% slower every night until it is told."""
    clean_nights = 2 + random.Random(seed).randrange(12)
    speed, trials = 100.0, []
    for number in range(1, clean_nights + 1):
        world.commit(speed)
        trials.append(run(world, number)[0]["trials"])
    for number in range(1, MOST_CREEP_NIGHTS + 1):
        speed *= CREEP
        world.commit(speed)
        row, night = run(world, clean_nights + number, "creep")
        trials.append(row["trials"])
        if is_raised(row, AlertKind.STEP, AlertKind.CREEP):
            kinds = [alert["kind"] for alert in row["alerts"] if alert["state"] == "open"]
            return {
                "clean_nights": clean_nights,
                "nights": number,
                "kinds": kinds,
                "beside_anchor": night.anchor is not None,
                "trials": trials,
            }
    return {"clean_nights": clean_nights, "nights": None, "kinds": [], "beside_anchor": False, "trials": trials}


def plan(world: World, number: int) -> tuple[str, float]:
    """Set the machine for a night of the story; gives what is planted, and the factor of the head's speed."""
    machine = world.machine
    machine.start_sd, machine.trial_sd = (0.1, 0.05) if number == NOISY else (0.02, 0.01)
    machine.is_broken = number == BROKEN
    if number >= MOVED:
        machine.name, machine.factor = "second", 0.7
    return PLANTED.get(number, ("", 1.0))


def story(world: World, _seed: int) -> Row:
    """All sixty nights of the story."""
    rows: list[Row] = []
    while len(rows) < NIGHTS:
        rows.append(next_night(world, rows))
    return {"rows": rows}


def next_night(world: World, rows: list[Row]) -> Row:
    """Run the story's next night.

    Planted are a step, an improvement, creep, a noise night, one on which no server starts, and another machine. The
    creep goes on for two nights after it is told; then the head is accepted.
    """
    number = len(rows) + 1
    speed = rows[-1]["speed"] if rows else 100.0
    told = next((row["night"] for row in rows if is_raised(row, AlertKind.CREEP)), None)
    planted, factor = plan(world, number)
    if number >= CREEPING and (told is None or number <= told + 2):
        planted, factor = "0.3% creep", CREEP
    world.commit(speed)
    world.commit(speed * factor)
    row, night = run(world, number, planted)
    if told is not None and number == told + 2 and night.head is not None:
        accept(world.root / "state", night.head.commit, "known")
        row["planted"] += "; its head is accepted in the morning"
    return {**row, "speed": speed * factor}


def real(out: Path, seconds: float) -> None:
    """Go on with the story on real servers, in a folder that stays: `real.json` in it holds the nights so far."""
    root, path = (out / "real").resolve(), out / "real.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    os.environ["PERFGUARD_CACHE_DIR"] = str(root / "cache")
    world = RealWorld(root, 1)
    world.patch()
    clock = time.monotonic()
    while len(rows) < NIGHTS and time.monotonic() - clock < seconds:
        began = time.monotonic()
        row = next_night(world, rows)
        rows.append({**row, "wall_s": round(time.monotonic() - began, 1)})
        path.write_text(json.dumps(rows))


KINDS: dict[str, Callable[[World, int], Row]] = {
    "story": story,
    "clean": clean,
    "step": step,
    "creep": creep,
    "real": story,
}


def simulate(kind: str, seeds: Iterable[int], out: Path, seconds: float) -> None:
    """Run the seeds that `out` lacks."""
    path = out / f"{kind}.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["seed"] for line in path.read_text().splitlines()} if path.exists() else set()
    clock = time.monotonic()
    for seed in seeds:
        if seed in done or time.monotonic() - clock > seconds:
            continue
        root = Path(tempfile.mkdtemp(prefix="perfguard-nights-"))
        os.environ["PERFGUARD_CACHE_DIR"] = str(root / "cache")
        began = time.monotonic()
        try:
            world = World(root, seed)
            world.patch()
            row = {"seed": seed, **KINDS[kind](world, seed), "wall_s": round(time.monotonic() - began, 1)}
        finally:
            shutil.rmtree(root, ignore_errors=True)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def report(out: Path) -> None:
    """Print the tables."""
    for kind, tell_kind in (
        ("clean", _tell_clean),
        ("step", _tell_step),
        ("creep", _tell_creep),
        ("story", _tell_story),
    ):
        path = out / f"{kind}.jsonl"
        if path.exists():
            tell_kind([json.loads(line) for line in path.read_text().splitlines()])
    if (out / "real.json").exists():
        _tell_story([{"seed": "real servers", "rows": json.loads((out / "real.json").read_text())}])


def _tell_clean(rows: list[Row]) -> None:
    verdicts: Counter[str] = Counter()
    for row in rows:
        verdicts.update(row["verdicts"])
    raised = [(row["seed"], row["raised"]) for row in rows if row["raised"]]
    print(f"clean: {len(rows)} seeds of {NIGHTS} nights; false alarms: {sum(len(n) for _, n in raised)} {raised}")
    nights = NIGHTS * len(rows)
    print(f"  verdicts {dict(verdicts)}; trials a night {sum(row['trials'] for row in rows) / nights:.1f};")
    print(f"  measured beside the anchor on {sum(row['beside_anchor'] for row in rows) / nights:.1%} of nights")


def _tell_step(rows: list[Row]) -> None:
    same = sum(row["raised"][0] for row in rows)
    named = [row["named"][0] for row in rows if row["named"]]
    twice = sum(len(row["named"]) > 1 for row in rows)
    print(f"step: {len(rows)} steps; told the same night {same} ({same / len(rows):.1%}), in three nights", end=" ")
    print(f"{sum(any(row['raised']) for row in rows)}; the commit named {sum(named)} of {len(named)};", end=" ")
    print(f"more than one alert {twice}; first night {dict(Counter(row['first_night'] for row in rows))}")
    print(f"  trials of the night that tells: median {statistics.median(row['trials'][0] for row in rows)}")


def _tell_creep(rows: list[Row]) -> None:
    nights = sorted(row["nights"] if row["nights"] is not None else MOST_CREEP_NIGHTS + 1 for row in rows)
    within = sum(number <= WITHIN for number in nights)
    print(f"creep: {len(rows)} seeds; told within {WITHIN} nights {within}; nights {nights}")
    print(f"  kinds {dict(Counter(kind for row in rows for kind in row['kinds']))};", end=" ")
    print(f"measured beside the anchor on the night that tells {sum(row['beside_anchor'] for row in rows)}")
    print(f"  trials a night {statistics.fmean(n for row in rows for n in row['trials']):.1f}")


def _tell_story(rows: list[Row]) -> None:
    for row in rows:
        print(f"story, seed {row['seed']}:\n\n| Night | Planted | Verdict | Alerts | Beside the anchor | Trials |")
        print("| --- | --- | --- | --- | --- | --- |")
        for night in row["rows"]:
            alerts = ", ".join(f"{alert['kind']} {alert['state']}" for alert in night["alerts"])
            cells = (
                night["night"],
                night["planted"],
                night["verdict"],
                alerts,
                night["beside_anchor"],
                night["trials"],
            )
            print("| " + " | ".join(map(str, cells)) + " |")
        opened = Counter(a["id"] for night in row["rows"] for a in night["alerts"] if a["state"] == "open")
        print(f"\nopened more than once: {[name for name, count in opened.items() if count > 1]}\n")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*KINDS, "real", "report"])
    parser.add_argument("--seeds", default="1", help="one, or a range such as 1-20")
    parser.add_argument("--out", type=Path, default=Path("nights-out"))
    parser.add_argument("--seconds", type=float, default=150.0)
    arguments = parser.parse_args()
    if arguments.what == "report":
        report(arguments.out)
        return
    if arguments.what == "real":
        arguments.out.mkdir(parents=True, exist_ok=True)
        real(arguments.out, arguments.seconds)
        return
    first, _, last = arguments.seeds.partition("-")
    simulate(arguments.what, range(int(first), int(last or first) + 1), arguments.out, arguments.seconds)


if __name__ == "__main__":
    main()
