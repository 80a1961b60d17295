"""How far the functions that hold the GIL and wait for it are from threads that measure themselves; a Markdown table.

One thread alternates between two functions, `rivals` others spin in a third. Each thread adds up, function by function,
the time in which it did not run (it waited) and in which it did (it held the GIL); the main thread tells these sums
when a window begins and when it ends, with what the running calls have of them so far. A core that a thread lacks
counts as waiting there: `no core` says how much of the time that was.

A row is many windows, each with its own truth. The difference is the mean of theirs, and its standard error comes from
how they vary: looks that follow each other often meet the same call, so counting looks would promise too much. A bias
is a difference of several standard errors; the last lines look for one in all rows together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from perfguard.evidence.gil_frames import gil_costs
from perfguard.samplers.gil import GilSampler

# No clock read here gives the GIL away, so a thread waits inside of the three functions only.
PROGRAM = """
import json, sys, threading, time
stop, spent, running = threading.Event(), {}, {}
def timed(function):
    began = time.perf_counter(), time.thread_time()
    running[threading.get_ident()] = function.__name__, began
    function()
    now = time.perf_counter(), time.thread_time()
    running[threading.get_ident()] = None
    add(spent, function.__name__, began, now)
def add(sums, name, began, now):
    wall, ran = now[0] - began[0], now[1] - began[1]
    waited, held = sums.get(name, (0.0, 0.0))
    sums[name] = waited + wall - ran, held + ran
def heavy():
    for _ in range(1_500_000): pass
def light():
    for _ in range(500_000): pass
def other():
    for _ in range(1_000_000): pass
def both():
    while not stop.is_set():
        timed(heavy)
        timed(light)
def rival():
    while not stop.is_set():
        timed(other)
threads = [threading.Thread(target=target) for target in (both, *[rival] * int(sys.argv[1]))]
for thread in threads: thread.start()
clocks = {thread.ident: time.pthread_getcpuclockid(thread.ident) for thread in threads}
print("up", sys.version.split()[0], flush=True)
for _ in sys.stdin:
    sums = dict(spent)
    for ident, call in dict(running).items():
        if call:
            add(sums, *call, (time.perf_counter(), time.clock_gettime(clocks[ident])))
    print(json.dumps(sums), flush=True)
stop.set()
"""
FUNCTIONS = ("heavy", "light")
KINDS = ("waiting", "holding")


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window: the shares of `heavy` by the program's account and by the looks, waiting and holding."""

    python: str
    true: tuple[float, float]
    seen: tuple[float, float]
    by_rival: float
    no_core: float
    looks: int
    unread: int
    sampler_cores: float


def measure(python: str, rivals: int, rate_hz: float, seconds: float, windows: int) -> list[Window]:
    """Measure what one row of the table needs."""
    child = subprocess.Popen(
        [python, "-c", PROGRAM, str(rivals)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        up, _, version = (child.stdout.readline() if child.stdout else "").strip().partition(" ")
        if up != "up":
            raise SystemExit(f"{python} does not run the program")
        return [measure_window(child, version, rate_hz, seconds, seed) for seed in range(windows)]
    finally:
        child.communicate()


def measure_window(child: subprocess.Popen[str], python: str, rate_hz: float, seconds: float, seed: int) -> Window:
    """Look at the program for some seconds, and ask it before and after."""
    with GilSampler([(child.pid, "threads")], rate_hz=rate_hz, stacks=True, seed=seed) as sampler:
        sampler.start()
        before = told(child)
        time.sleep(seconds)
        after = told(child)
        recording = sampler.stop()
    (process,) = recording.processes
    costs = gil_costs(process)
    if costs.unknown or process.gil_stacks is None:
        raise SystemExit(f"the stacks cannot be told: {costs.unknown}")
    spent = [{name: after[name][kind] - before.get(name, (0.0, 0.0))[kind] for name in FUNCTIONS} for kind in (0, 1)]
    seen = [
        {name: sum(stack.samples for stack in stacks if stack.frames[-1].function == name) for name in FUNCTIONS}
        for stacks in (costs.waiting, costs.holding)
    ]
    pairs = [stack for stack in costs.meanwhile if stack.frames[0].function in FUNCTIONS]
    by_rival = sum(stack.samples for stack in pairs if stack.frames[1].function == "other")
    busy = [thread for thread in process.threads if thread.gil_hold_ticks > process.ticks / 50]
    return Window(
        python=python,
        true=(share(spent[0]), share(spent[1])),
        seen=(share(seen[0]), share(seen[1])),
        by_rival=by_rival / sum(stack.samples for stack in pairs),
        no_core=statistics.fmean((thread.run_delay_s or 0.0) / thread.observed_s for thread in busy),
        looks=process.ticks,
        unread=process.gil_stacks.unread_hold_ticks + process.gil_stacks.unread_wait_ticks,
        sampler_cores=recording.sampler_cpu_s / recording.duration_s,
    )


def told(child: subprocess.Popen[str]) -> dict[str, tuple[float, float]]:
    """Ask the program for its sums."""
    if child.stdin is None or child.stdout is None:
        raise SystemExit("the program cannot be asked")
    child.stdin.write("?\n")
    child.stdin.flush()
    return {name: (waited, held) for name, (waited, held) in json.loads(child.stdout.readline()).items()}


def share(of: dict[str, float]) -> float:
    """Return the part of `heavy` in both functions."""
    return of["heavy"] / (of["heavy"] + of["light"])


def row(windows: list[Window], rivals: int) -> str:
    """Put the windows of one row together."""
    cells = []
    for kind in range(len(KINDS)):
        cells += [
            f"{statistics.fmean(window.true[kind] for window in windows):.3f}",
            f"{statistics.fmean(window.seen[kind] for window in windows):.3f}",
            difference(windows, kind),
        ]
    looks = sum(window.looks for window in windows)
    return (
        f"| {windows[0].python} | {rivals} | {' | '.join(cells)} "
        f"| {statistics.fmean(window.by_rival for window in windows):.1%} "
        f"| {statistics.fmean(window.no_core for window in windows):.1%} "
        f"| {sum(window.unread for window in windows)} of {looks} "
        f"| {statistics.fmean(window.sampler_cores for window in windows):.1%} |"
    )


def difference(windows: list[Window], kind: int) -> str:
    """Return the mean difference of windows in points, and its standard error."""
    points = [100 * (window.seen[kind] - window.true[kind]) for window in windows]
    return f"{statistics.fmean(points):+.1f} +- {statistics.stdev(points) / len(points) ** 0.5:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters to measure")
    parser.add_argument("--rivals", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--rate", type=float, default=200.0, help="looks a second")
    parser.add_argument("--seconds", type=float, default=1.0, help="a window")
    parser.add_argument("--windows", type=int, default=22, help="a row, at least 2")
    options = parser.parse_args()
    if options.windows < 2:
        raise SystemExit("a standard error needs two windows")
    heads = [f"true {kind} in `heavy` | measured | difference, points" for kind in KINDS]
    heads += ["rivals held meanwhile", "no core", "unread looks", "of a core"]
    print(f"| Python | rivals | {' | '.join(heads)} |")
    print(f"|{'---|' * (2 + 3 * len(KINDS) + 4)}")
    everything: list[Window] = []
    for python in options.python:
        for rivals in options.rivals:
            windows = measure(python, rivals, options.rate, options.seconds, options.windows)
            everything += windows
            print(row(windows, rivals), flush=True)
    for place, kind in enumerate(KINDS):
        print(f"\n{kind}, all rows: {difference(everything, place)} points ({len(everything)} windows)")


if __name__ == "__main__":
    main()
