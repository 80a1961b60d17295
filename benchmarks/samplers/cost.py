"""What the samplers of a trial cost the server: its throughput with them, beside its throughput without, paired.

    python benchmarks/samplers/cost.py [--rates 100,25,10] [--blocks 12] [--starts 2] [--output FILE]

One real server (a release of SGLang, the default scenario) is started and loaded again and again. In each block every
arm runs once, in random order: without samplers, and with py-spy on every process at each of the rates, the GIL
sampler and the CPU sampler as in a profiled trial. The unit of statistics is a block; the interval is Student's t over
the blocks' log ratios.

Beside it stands the CPU that the samplers themselves used while the load ran, as a share of all cores. Where all cores
are busy it is the least that throughput can lose, and it is known far better than the throughput is: it needs no pair.
At the end stands what a reading of the two samplers takes that only `perfguard record` has.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
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
from perfguard.samplers.memory import MemorySampler
from perfguard.samplers.pyspy import PySpySampler
from perfguard.samplers.sockets import SocketSampler
from perfguard.targets.sglang_server import RunningServer, start_server
from perfguard.workflows.places import cache_dir
from perfguard.workflows.scenarios import load_scenario
from perfguard.workflows.setup import ensure_environment, model_path

WITHOUT = "without"
ONLY_GIL = "GIL and CPU samplers"
PY_SPY, GIL, CPU = "py-spy", "GIL sampler", "CPU sampler"


def arms_of(rates: list[int]) -> list[str]:
    """Name the arms: none, the cheap samplers, and those with py-spy at each rate."""
    return [WITHOUT, ONLY_GIL, *(f"all, py-spy at {rate} Hz" for rate in rates)]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One load: its throughput, and what each kind of sampler used of one core while it ran."""

    rps: float
    cores: dict[str, float] = field(default_factory=dict)


def run_once(server: RunningServer, schedule: object, arm: str, rates: list[int], load: object) -> Run:
    """Replay the load once with an arm's samplers."""
    processes = [(process.pid, process.role) for process in server.processes() if process.role != ROLE_OTHER]
    cores: dict[str, float] = {}
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        gil = spy = None
        cpu = CpuSampler(processes)
        if arm != WITHOUT:
            gil = stack.enter_context(GilSampler(processes, rate_hz=TRIAL_RATE_HZ, stacks=True))
            gil.start()
        if arm not in {WITHOUT, ONLY_GIL}:
            rate = rates[arms_of(rates).index(arm) - 2]
            spy = stack.enter_context(PySpySampler(processes, rate_hz=rate, nonblocking=True, work_dir=Path(folder)))
            spy.start()
        began_s = time.thread_time()
        cpu.start()
        own_s = time.thread_time() - began_s
        result = run_load(server.base_url, schedule, concurrency=load.concurrency, timeout_s=load.request_timeout_s)
        began_s = time.thread_time()
        duration_s = cpu.stop().duration_s
        own_s += time.thread_time() - began_s
        for profile in spy.stop() if spy else ():
            cores[f"{PY_SPY} on {profile.role}"] = profile.sampler_cpu_s / profile.duration_s
        if gil:
            recording = gil.stop()
            cores |= {GIL: recording.sampler_cpu_s / recording.duration_s, CPU: own_s / duration_s}
    if result.succeeded < result.sent:
        raise SystemExit(f"{result.sent - result.succeeded} requests failed: {result.first_error}")
    return Run(rps=result.throughput_rps, cores=cores)


def reading_ms(sampler: MemorySampler | SocketSampler) -> float:
    """Return the CPU that a reading takes; one is at the start, and one at the end."""
    began_s = time.thread_time()
    sampler.start()
    sampler.stop()
    return 1000 * (time.thread_time() - began_s) / 2


def table(runs: dict[str, list[Run]], cores: int) -> list[str]:
    """Put every arm beside the runs without samplers, block by block."""
    kinds = sorted({kind for of_arm in runs.values() for run in of_arm for kind in run.cores})
    heads = ["samplers", "throughput req/s", "beside none", "95% interval", "blocks", f"their CPU, of {cores} cores"]
    heads += [f"{kind}, of a core" for kind in kinds]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    base = np.array([math.log(run.rps) for run in runs[WITHOUT]])
    for arm, of_arm in runs.items():
        logs = np.array([math.log(run.rps) for run in of_arm])
        ratio = logs - base
        cells = [arm, f"{math.exp(logs.mean()):.1f}", "", "", str(ratio.size), *[""] * (1 + len(kinds))]
        if arm != WITHOUT:
            half = stats.t.ppf(0.975, ratio.size - 1) * ratio.std(ddof=1) / math.sqrt(ratio.size)
            bounds = [100 * math.expm1(ratio.mean() + sign * half) for sign in (-1, 1)]
            used = [float(np.mean([run.cores.get(kind, 0.0) for run in of_arm])) for kind in kinds]
            cells[2:4] = f"{100 * math.expm1(ratio.mean()):+.1f}%", f"{bounds[0]:+.1f}% to {bounds[1]:+.1f}%"
            cells[5:] = [f"{sum(used) / cores:.2%}", *(f"{each:.2%}" for each in used)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


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
    runs: dict[str, list[Run]] = {arm: [] for arm in arms_of(rates)}
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
                    run = run_once(server, phases.measured, arm, rates, scenario.load)
                    runs[arm].append(run)
                    used = ", ".join(f"{name} {cores:.4f}" for name, cores in run.cores.items())
                    print(f"{arm}: {run.rps:.1f} req/s; cores: {used or 'none'}", flush=True)
            processes = [(each.pid, each.role) for each in server.processes() if each.role != ROLE_OTHER]
            memory_ms = reading_ms(MemorySampler(processes, interval_s=60.0))
            sockets_ms = reading_ms(SocketSampler(processes, interval_s=60.0))
    lines = table(runs, os.cpu_count() or 1)
    lines += ["", f"A reading of memory: {memory_ms:.1f} ms of CPU. A reading of sockets: {sockets_ms:.1f} ms."]
    print("\n".join(lines))
    if arguments.output is not None:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
