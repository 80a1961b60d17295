"""How far the GIL sampler's waiting share is from that of threads that measure themselves; a Markdown table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from perfguard.evidence.gil import thread_shares
from perfguard.samplers.gil import GilSampler

# A spinner's waiting: the time in which it neither ran nor was ready, by its own clocks, from `go` to `stop`.
PROGRAM = """
import json, sys, threading, time
go, stop, done = threading.Event(), threading.Event(), {}
def counters():
    with open("/proc/thread-self/schedstat") as file:
        ran, delayed, _ = file.read().split()
    return time.perf_counter(), int(ran) / 1e9, int(delayed) / 1e9
def worker():
    go.wait()
    before = counters()
    while not stop.is_set():
        for _ in range(1000): pass
    done[threading.get_native_id()] = [b - a for a, b in zip(before, counters())]
threads = [threading.Thread(target=worker) for _ in range(int(sys.argv[1]))]
for thread in threads: thread.start()
go.set()
print("up", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads: thread.join()
print(json.dumps(done))
"""


def measure(python: str, count: int, rate_hz: float, seconds: float) -> str:
    """Return one row of the table."""
    child = subprocess.Popen(
        [python, "-c", PROGRAM, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if child.stdout is None or child.stdout.readline() != "up\n":
        raise SystemExit(f"{python} does not run the program")
    with GilSampler([(child.pid, "spinners")], rate_hz=rate_hz) as sampler:
        sampler.start()
        time.sleep(seconds)
        process = sampler.stop().processes[0]
    told, _ = child.communicate("\n")
    truth = {int(tid): 1.0 - (cpu_s + delay_s) / wall_s for tid, (wall_s, cpu_s, delay_s) in json.loads(told).items()}
    shares = {share.tid: share for share in thread_shares(process) if share.tid in truth}
    ticks = {thread.tid: thread.gil_wait_ticks / thread.ticks for thread in process.threads if thread.tid in truth}
    waits = {tid: share.gil_wait_frac for tid, share in shares.items()}
    if None in waits.values():
        raise SystemExit(f"{python}: {process.gil_reason or 'the GIL cannot be told'}")
    errors = [abs((waits[tid] or 0.0) - truth[tid]) for tid in truth]
    raw_errors = [abs(ticks[tid] - truth[tid]) for tid in truth]
    held = sum(share.gil_hold_frac or 0.0 for share in shares.values())
    return (
        f"| {process.python} | {count} | {sum(truth.values()) / count:.3f} "
        f"| {sum(wait or 0.0 for wait in waits.values()) / count:.3f} "
        f"| {100 * max(errors):.1f} | {100 * max(raw_errors):.1f} | {held:.3f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters to measure")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rate", type=float, default=200.0, help="looks a second")
    parser.add_argument("--seconds", type=float, default=3.0, help="a row")
    options = parser.parse_args()
    print("| Python | threads | true wait | measured | worst thread, points | by looks alone, points | held, sum |")
    print("|---|---|---|---|---|---|---|")
    for python in options.python:
        for count in options.threads:
            print(measure(python, count, options.rate, options.seconds), flush=True)


if __name__ == "__main__":
    main()
