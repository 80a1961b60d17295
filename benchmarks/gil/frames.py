"""How far the functions that hold the GIL and wait for it are from threads that measure themselves; a Markdown table.

One thread alternates between two functions, `rivals` others spin in a third. Each thread adds up, function by function,
the time in which it did not run (it waited) and in which it did (it held the GIL). A core that it lacks counts as
waiting there, so run this where cores are free.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from perfguard.evidence.gil_frames import gil_costs
from perfguard.samplers.gil import GilSampler

PROGRAM = """
import json, sys, threading, time
stop, truth = threading.Event(), {}
def timed(function):
    began, ran = time.perf_counter(), time.thread_time()
    function()
    wall, ran = time.perf_counter() - began, time.thread_time() - ran
    spent = truth.setdefault(function.__name__, [0.0, 0.0])
    spent[0] += wall - ran
    spent[1] += ran
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
print("up", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads: thread.join()
print(json.dumps(truth))
"""
FUNCTIONS = ("heavy", "light")


def measure(python: str, rivals: int, rate_hz: float, seconds: float) -> str:
    """Return one row of the table."""
    child = subprocess.Popen(
        [python, "-c", PROGRAM, str(rivals)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if child.stdout is None or child.stdout.readline() != "up\n":
        raise SystemExit(f"{python} does not run the program")
    with GilSampler([(child.pid, "threads")], rate_hz=rate_hz, stacks=True) as sampler:
        sampler.start()
        time.sleep(seconds)
        recording = sampler.stop()
    told, _ = child.communicate("\n")
    (process,) = recording.processes
    costs = gil_costs(process)
    if costs.unknown or process.gil_stacks is None:
        raise SystemExit(f"{python}: {costs.unknown}")
    seen = [
        {name: sum(stack.samples for stack in stacks if stack.frames[-1].function == name) for name in FUNCTIONS}
        for stacks in (costs.waiting, costs.holding)
    ]
    truth = json.loads(told)
    true = [
        {name: truth[name][0] for name in FUNCTIONS},
        {name: truth[name][1] for name in FUNCTIONS},
    ]
    cells = [f"{_share(each):.3f} | {_share(other):.3f}" for each, other in zip(true, seen, strict=True)]
    pairs = [stack for stack in costs.meanwhile if stack.frames[0].function in FUNCTIONS]
    by_rival = sum(stack.samples for stack in pairs if stack.frames[1].function == "other")
    unread = process.gil_stacks.unread_hold_ticks + process.gil_stacks.unread_wait_ticks
    return (
        f"| {process.python} | {rivals} | {' | '.join(cells)} | {by_rival / sum(stack.samples for stack in pairs):.1%} "
        f"| {unread} of {recording.ticks} | {recording.sampler_cpu_s / recording.duration_s:.1%} |"
    )


def _share(of: dict[str, float]) -> float:
    return of["heavy"] / (of["heavy"] + of["light"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters to measure")
    parser.add_argument("--rivals", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--rate", type=float, default=200.0, help="looks a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="a row")
    options = parser.parse_args()
    print(
        "| Python | rivals | true waiting in `heavy` | measured | true holding | measured | rivals held meanwhile "
        "| unread looks | of a core |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for python in options.python:
        for rivals in options.rivals:
            print(measure(python, rivals, options.rate, options.seconds), flush=True)


if __name__ == "__main__":
    main()
