"""How fast the load generator is by itself, driven by a server that costs next to nothing; a Markdown table.

Generator and server get a core each where there are two. Best run alone on the machine: whatever else runs is in every
figure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import build_schedule
from perfguard.model.scenario import ArrivalKind, ArrivalSpec, ImageFormat, ImageSpec, LoadSpec
from perfguard.model.trial import LoadResult

COLUMNS = (
    "load",
    "succeeded",
    "req/s",
    "send lag P99 ms",
    "its own",
    "event loop lag P99 ms",
    "CPU",
    "req per CPU s",
    "E2E P50 ms",
    "veto",
)
SERVER = Path(__file__).with_name("trivial_server.py")


def spec(requests: int, concurrency: int, arrival: ArrivalSpec | None, side_px: int) -> LoadSpec:
    """Return a load of one square jpeg a request."""
    return LoadSpec(
        requests=requests,
        concurrency=concurrency,
        warmup_requests=0,
        settling_requests=0,
        profiled_requests=0,
        image=ImageSpec(width_px=side_px, height_px=side_px, format=ImageFormat.JPEG),
        prompt_chars=64,
        output_tokens=2,
        request_timeout_s=60.0,
        seed=1,
        arrival=arrival,
    )


def row(name: str, result: LoadResult) -> str:
    """Return one row of the table."""
    lags = [result.send_lag_p99_ms, result.dispatch_lag_p99_ms, result.generator_lag_p99_ms]
    cells = [
        name,
        f"{result.succeeded} of {result.sent}",
        f"{result.throughput_rps:,.0f}",
        *("-" if lag is None else f"{lag:.2f}" for lag in lags),
        f"{result.generator_cpu_frac:.2f}",
        f"{result.throughput_rps / result.generator_cpu_frac:,.0f}",
        "-" if result.e2e is None else f"{result.e2e.p50_ms:.2f}",
        generator_veto(result) or "none",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Start the server, send the loads, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="in each load")
    parser.add_argument("--rate", type=float, default=1000.0, help="of the open loops, requests a second")
    parser.add_argument("--concurrency", type=int, default=96, help="of the closed loop")
    parser.add_argument("--side-px", type=int, default=112, help="of the images")
    parser.add_argument("--rounds", type=int, default=3, help="of all loads, one after the other")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    server = subprocess.Popen(
        [sys.executable, str(SERVER), str(cores[-1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.sched_setaffinity(0, {cores[0]})
    kinds = (ArrivalKind.CONSTANT, ArrivalKind.POISSON)
    loads = [
        ("closed", options.concurrency, None),
        *((kind.value, 1000, ArrivalSpec(kind=kind, request_rate=options.rate)) for kind in kinds),
    ]
    schedules = [
        (name, concurrency, build_schedule(spec(options.requests, concurrency, arrival, options.side_px)))
        for name, concurrency, arrival in loads
    ]
    try:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        print(f"{len(cores)} cores, load average {os.getloadavg()[0]:.1f} at the start\n")
        print(f"| {' | '.join(COLUMNS)} |")
        print(f"| {' | '.join('---' for _ in COLUMNS)} |")
        for _ in range(options.rounds):
            for name, concurrency, schedule in schedules:
                print(row(name, run_load(url, schedule, concurrency=concurrency, timeout_s=60.0)), flush=True)
    finally:
        server.stdin.close()
        server.wait(10)


if __name__ == "__main__":
    main()
