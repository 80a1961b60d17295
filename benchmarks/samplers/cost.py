"""What the samplers of a trial cost the server: its throughput with them, beside its throughput without, paired.

    python benchmarks/samplers/cost.py [--rates 100,25,10] [--blocks 12] [--starts 2] [--output RESULTS.md]

One real server (a release of SGLang, the default scenario) is started and loaded again and again. In each block every
arm runs once, in random order: without samplers, and with py-spy on every process at each of the rates, the GIL
sampler and the CPU sampler as in a profiled trial. The unit of statistics is a block; the interval is Student's t over
the blocks' log ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from perfguard.evidence.gil_trials import TRIAL_RATE_HZ
from perfguard.load.client import run_load
from perfguard.load.schedule import build_phases
from perfguard.model.progress import Silent
from perfguard.model.trial import ROLE_OTHER
from perfguard.revisions.releases import named_releases
from perfguard.samplers.cpu import CpuSampler
from perfguard.samplers.gil import GilSampler
from perfguard.samplers.pyspy import PySpySampler
from perfguard.targets.sglang_server import RunningServer, start_server
from perfguard.workflows.places import cache_dir
from perfguard.workflows.scenarios import load_scenario
from perfguard.workflows.setup import ensure_environment, model_path

WITHOUT = "without"
ONLY_GIL = "GIL and CPU samplers"


def arms_of(rates: list[int]) -> list[str]:
    """Name the arms: none, the cheap samplers, and those with py-spy at each rate."""
    return [WITHOUT, ONLY_GIL, *(f"all, py-spy at {rate} Hz" for rate in rates)]


def throughput(server: RunningServer, schedule: object, arm: str, rates: list[int], load: object) -> float:
    """Replay the load once with an arm's samplers; requests a second."""
    processes = [(process.pid, process.role) for process in server.processes() if process.role != ROLE_OTHER]
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        if arm != WITHOUT:
            gil = stack.enter_context(GilSampler(processes, rate_hz=TRIAL_RATE_HZ))
            gil.start()
            cpu = CpuSampler(processes)
            cpu.start()
        if arm not in {WITHOUT, ONLY_GIL}:
            rate = rates[arms_of(rates).index(arm) - 2]
            spy = stack.enter_context(PySpySampler(processes, rate_hz=rate, nonblocking=True, work_dir=Path(folder)))
            spy.start()
        result = run_load(server.base_url, schedule, concurrency=load.concurrency, timeout_s=load.request_timeout_s)
    if result.succeeded < result.sent:
        raise SystemExit(f"{result.sent - result.succeeded} requests failed: {result.first_error}")
    return result.throughput_rps


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default="100,25,10")
    parser.add_argument("--blocks", type=int, default=12, help="on each server start")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--release", default="0.5.4.post2")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rates = [int(rate) for rate in arguments.rates.split(",")]
    scenario = load_scenario("mm-small-images")
    repository = named_releases("sglang", [arguments.release], cache_dir=cache_dir(), progress=Silent())
    environment = ensure_environment(scenario, installer="pip", progress=Silent())
    phases = build_phases(scenario.load)
    order = random.Random(1)
    logs: dict[str, list[float]] = {arm: [] for arm in arms_of(rates)}
    for _ in range(arguments.starts):
        with (
            tempfile.TemporaryDirectory() as work,
            start_server(
                scenario.target,
                source_tree=repository.worktree(repository.resolve(arguments.release)),
                python=environment.python,
                work_dir=Path(work),
                model_path=model_path(scenario, environment),
            ) as server,
        ):
            run_load(server.base_url, phases.warmup, concurrency=96, timeout_s=120.0)
            for _block in range(arguments.blocks):
                block = arms_of(rates)
                order.shuffle(block)
                for arm in block:
                    rps = throughput(server, phases.measured, arm, rates, scenario.load)
                    logs[arm].append(math.log(rps))
                    print(f"{arm}: {rps:.1f} req/s", flush=True)
    lines = ["| samplers | throughput req/s | beside none | 95% interval | blocks |", "|---|---|---|---|---|"]
    base = np.array(logs[WITHOUT])
    for arm, values in logs.items():
        ratio = np.array(values) - base
        half = stats.t.ppf(0.975, ratio.size - 1) * ratio.std(ddof=1) / math.sqrt(ratio.size)
        told = "" if arm == WITHOUT else f"{100 * math.expm1(ratio.mean()):+.1f}%"
        bounds = [100 * math.expm1(ratio.mean() + sign * half) for sign in (-1, 1)]
        interval = "" if arm == WITHOUT else f"{bounds[0]:+.1f}% to {bounds[1]:+.1f}%"
        lines.append(f"| {arm} | {math.exp(np.mean(values)):.1f} | {told} | {interval} | {ratio.size} |")
    print("\n".join(lines))
    if arguments.output is not None:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
