"""What the GIL sampler costs itself and the process that it looks at; a Markdown table.

`slowdown` compares the loops of spinning threads with and without the sampler, in alternating windows of one process;
its interval is two standard errors over the pairs. Where no core is free for the sampler, it has the sampler's CPU too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from perfguard.samplers.gil import GilSampler

# Writes the sum of all loops whenever it is asked.
PROGRAM = """
import sys, threading, time
count, spinners = int(sys.argv[1]), int(sys.argv[2])
loops = [0] * max(1, spinners)
def spin(index):
    while True:
        for _ in range(1000): pass
        loops[index] += 1
for index in range(count - 1):
    target = (spin, (index,)) if index < spinners else (time.sleep, (1e6,))
    threading.Thread(target=target[0], args=target[1], daemon=True).start()
print("up", flush=True)
for _ in sys.stdin:
    print(sum(loops), flush=True)
"""


def measure(threads: int, spinners: int, rate_hz: float, seconds: float, pairs: int) -> str:
    """Return one row of the table."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(threads), str(spinners)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.stdin is None or child.stdout is None or child.stdout.readline() != "up\n":
        raise SystemExit("the program does not run")

    def loops() -> int:
        child.stdin.write("?\n")
        child.stdin.flush()
        return int(child.stdout.readline())

    def loops_per_s() -> float:
        before, began_s = loops(), time.perf_counter()
        time.sleep(seconds)
        return (loops() - before) / (time.perf_counter() - began_s)

    costs_us, shares, late, slowdowns = [], [], [], []
    try:
        for _ in range(pairs):
            alone = loops_per_s()
            with GilSampler([(child.pid, "target")], rate_hz=rate_hz) as sampler:
                sampler.start()
                watched = loops_per_s()
                recording = sampler.stop()
            costs_us.append(1e6 * recording.sampler_cpu_s / recording.ticks)
            shares.append(recording.sampler_cpu_s / recording.duration_s)
            late.append(recording.late_ticks / recording.ticks)
            if spinners:
                slowdowns.append(1.0 - watched / alone)
    finally:
        child.kill()
        child.communicate()
    slowdown = "-"
    if slowdowns:
        error = 2 * statistics.stdev(slowdowns) / len(slowdowns) ** 0.5 if len(slowdowns) > 1 else float("nan")
        slowdown = f"{statistics.fmean(slowdowns):+.1%} +- {error:.1%}"
    return (
        f"| {threads} | {spinners} | {statistics.fmean(costs_us):.0f} | {statistics.fmean(shares):.2%} "
        f"| {statistics.fmean(late):.1%} | {slowdown} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0, help="looks a second")
    parser.add_argument("--seconds", type=float, default=2.0, help="a window")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    print("| threads | of them spinning | CPU a look, us | of a core | late looks | slowdown |")
    print("|---|---|---|---|---|---|")
    for threads, spinners in ((4, 0), (4, 1), (4, 3), (40, 0), (40, 1), (40, 3)):
        print(measure(threads, spinners, options.rate, options.seconds, options.pairs), flush=True)


if __name__ == "__main__":
    main()
