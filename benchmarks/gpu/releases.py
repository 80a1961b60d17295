"""Measure releases of SGLang side by side on two cards, from a bundle: who got slower, and were the cards busy?

All arms' servers are started at once and stay up; all but the one under load are stopped (SIGSTOP). Each block runs
every arm once, in random order, with the same requests, whose images repeat neither in the block nor between blocks:
the server keeps image embeddings by content. The number of requests is chosen once, from the warm-ups: a trial takes
about `--trial-s` seconds. Rows go to the file as they are made; `table` compares the arms with one, block by block.

    python benchmarks/gpu/releases.py run --bundle DIR --out FILE.jsonl --width 112 --height 112 --concurrency 96
    python benchmarks/gpu/releases.py table FILE.jsonl ...
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path

from perfguard.evidence.stacks import parse_folded
from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import Schedule, build_schedule
from perfguard.model.errors import PerfguardError
from perfguard.model.progress import Silent
from perfguard.model.scenario import Device, ImageFormat, ImageSpec, Kernels, LoadSpec, TargetSpec, VisionTower
from perfguard.model.trial import ROLE_OTHER, LoadResult
from perfguard.revisions.bundles import Bundle
from perfguard.samplers.cpu import CpuSampler
from perfguard.samplers.gpu import GpuSampler
from perfguard.samplers.pyspy import PySpySampler
from perfguard.stats.ratios import ratio_effect
from perfguard.targets.running import RunningServer
from perfguard.targets.sglang_server import LaunchedSglang
from perfguard.workflows.places import cache_dir
from perfguard.workflows.scenarios import load_scenario

FLAG = ("--enable-broadcast-mm-inputs-process",)
# The first is what the others are compared with.
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "0.5.4.post1": ("0.5.4.post1", ()),
    "0.5.4.post2": ("0.5.4.post2", ()),
    "0.5.5.post3": ("0.5.5.post3", ()),
    "0.5.5.post3 with the flag": ("0.5.5.post3", FLAG),
}
METRICS = ("throughput_rps", "e2e_p50_ms", "e2e_p99_ms", "rank-0_ms", "rank-1_ms", "tokenizer_ms", "gpu_busy_frac")
CONFIDENCE = 0.95
STACKS_S = 8.0


def main() -> None:
    """Run the verb of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    measure = verbs.add_parser("run")
    measure.add_argument("--bundle", type=Path, required=True)
    measure.add_argument("--out", type=Path, required=True)
    measure.add_argument("--logs", type=Path, required=True, help="folder for the servers' logs and stacks")
    measure.add_argument("--device", type=Device, default=Device.CUDA)
    measure.add_argument("--arms", nargs="+", default=list(ARMS))
    measure.add_argument("--extra", default="", help="more arguments for every server, separated by blanks")
    measure.add_argument("--width", type=int, default=112)
    measure.add_argument("--height", type=int, default=112)
    measure.add_argument("--concurrency", type=int, default=96)
    measure.add_argument("--output-tokens", type=int, default=2)
    measure.add_argument("--warmup", type=int, default=1200)
    measure.add_argument("--most", type=int, default=12000, help="the most requests of a trial")
    measure.add_argument("--trial-s", type=float, default=20.0)
    measure.add_argument("--blocks", type=int, default=4)
    measure.add_argument("--seed", type=int, default=1)
    measure.add_argument("--limit-s", type=float, default=500.0, help="no trial begins that might end later than this")
    measure.set_defaults(verb=run)
    show = verbs.add_parser("table")
    show.add_argument("files", type=Path, nargs="+")
    show.add_argument("--baseline", default=next(iter(ARMS)), help="the arm that the others are compared with")
    show.set_defaults(verb=table)
    arguments = parser.parse_args()
    arguments.verb(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Start the servers, run the blocks, and end with the stacks of one profiled load each."""
    begin = time.monotonic()
    arguments.logs.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(arguments.bundle, cache_dir=cache_dir(), progress=Silent())
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(keep_logs, work, arguments.logs)
        pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(arguments.blocks + 1))
        loads = [pool.submit(schedule, arguments, block) for block in range(arguments.blocks + 1)]
        servers = start(arguments, bundle, work, stack)
        say(begin, f"{len(servers)} of {len(arguments.arms)} servers are up")
        warm, *blocks = [load.result() for load in loads]
        rates = []
        for name in list(servers):
            try:
                result = under_load(servers[name], warm, arguments)
            except Exception as error:  # noqa: BLE001 - one arm that fails must not cost the others their data
                say(begin, f"{name} failed while it warmed up: {error!r}")
                traceback.print_exc()
                servers.pop(name)
                continue
            rates.append(result.throughput_rps)
            say(begin, f"{name} warmed up: {result.succeeded} of {result.sent}, {result.throughput_rps:.1f} requests/s")
        requests = min(arguments.most, round(statistics.median(rates) * arguments.trial_s)) if rates else 0
        say(begin, f"{requests} requests a trial")
        rows = stack.enter_context(arguments.out.open("a"))
        longest = 0.0
        draw = random.Random(arguments.seed)
        for block, load in enumerate(blocks):
            for name in draw.sample(list(servers), len(servers)):
                if time.monotonic() - begin + 1.2 * longest > arguments.limit_s:
                    say(begin, "no time is left for another trial")
                    break
                trial = time.monotonic()
                try:
                    row = measured(
                        servers[name], dataclasses.replace(load, requests=load.requests[:requests]), arguments
                    )
                except Exception as error:  # noqa: BLE001 - as above
                    say(begin, f"{name} failed: {error!r}")
                    servers.pop(name)
                    continue
                row |= {"arm": name, "block": block, "seed": arguments.seed, "width": arguments.width}
                rows.write(json.dumps(row) + "\n")
                rows.flush()
                longest = max(longest, time.monotonic() - trial)
                say(begin, f"block {block} {name}: {short(row)}")
        for name, server in servers.items():
            if time.monotonic() - begin + 2 * STACKS_S > arguments.limit_s:
                break
            unseen = dataclasses.replace(
                blocks[-1],
                requests=blocks[-1].requests[requests : requests + round(STACKS_S * requests / arguments.trial_s)],
            )
            profiled(server, unseen, arguments, name)
        for name, server in servers.items():
            (arguments.logs / f"{name.replace(' ', '-')}.json").write_text(
                json.dumps(dataclasses.asdict(server.report) | {"loaded_files": []}, indent=1)
            )


def say(begin: float, text: str) -> None:
    """Tell on stderr what happened when."""
    print(f"[{time.monotonic() - begin:5.0f} s] {text}", file=sys.stderr, flush=True)


def schedule(arguments: argparse.Namespace, block: int) -> Schedule:
    """Build a block's requests; the first "block" is the warm-up."""
    requests = arguments.most if block else arguments.warmup
    load = LoadSpec(
        requests=requests,
        concurrency=arguments.concurrency,
        warmup_requests=0,
        settling_requests=0,
        profiled_requests=0,
        image=ImageSpec(width_px=arguments.width, height_px=arguments.height, format=ImageFormat.JPEG),
        distinct_images=requests,
        prompt_chars=64,
        output_tokens=arguments.output_tokens,
        request_timeout_s=120.0,
        seed=1000 * arguments.seed + block,
    )
    return build_schedule(load)


def start(
    arguments: argparse.Namespace, bundle: Bundle, work: Path, stack: contextlib.ExitStack
) -> dict[str, RunningServer]:
    """Start every arm's server at once; those that answer are parked and returned."""
    python = bundle.environment().python
    launched = {}
    for name in arguments.arms:
        release, extra = ARMS[name]
        launched[name] = LaunchedSglang(
            spec(arguments.device, (*extra, *arguments.extra.split())),
            source_tree=bundle.worktree(bundle.resolve(release)),
            python=python,
            work_dir=work / name.replace(" ", "-"),
            model_path=bundle.tiny_model(),
        )
        stack.callback(launched[name].stop)
    running = {}
    for name, server in launched.items():
        try:
            running[name] = server.wait()
        except PerfguardError as error:
            print(f"{name} did not start: {error}", file=sys.stderr, flush=True)
            continue
        running[name].park()
    return running


def spec(device: Device, extra: tuple[str, ...]) -> TargetSpec:
    """How a server is started: on cards as in production but for the kernels, on a CPU as by default."""
    target = load_scenario("mm-small-images").target
    if device is Device.CUDA:
        target = dataclasses.replace(target, kernels=Kernels.STAND_IN, vision_tower=VisionTower.REAL)
    return dataclasses.replace(target, device=device, extra_args=extra, start_timeout_s=150.0)


def under_load(server: RunningServer, load: Schedule, arguments: argparse.Namespace) -> LoadResult:
    """Let a parked server answer a load, and park it again."""
    server.unpark()
    result = run_load(server.base_url, load, concurrency=arguments.concurrency, timeout_s=120.0)
    server.check_alive()
    server.drain(30.0)
    server.park()
    if result.succeeded < 0.99 * result.sent:
        raise PerfguardError(f"{result.sent - result.succeeded} of {result.sent} failed: {result.first_error}")
    return result


def measured(server: RunningServer, load: Schedule, arguments: argparse.Namespace) -> dict[str, object]:
    """Run one trial: a few requests to find its stride, then the load with the CPU and the cards watched."""
    settling = dataclasses.replace(load, requests=load.requests[: arguments.concurrency])
    under_load(server, settling, arguments)
    rest = dataclasses.replace(load, requests=load.requests[arguments.concurrency :])
    with GpuSampler() as cards:
        server.unpark()
        cpu_sampler = CpuSampler([(each.pid, each.role) for each in server.processes()])
        cpu_sampler.start()
        cards.start()
        result = run_load(server.base_url, rest, concurrency=arguments.concurrency, timeout_s=120.0)
        cpu, gpu = cpu_sampler.stop(), cards.stop()
    server.drain(30.0)
    server.park()
    cpu_s: dict[str, float] = defaultdict(float)
    for each in cpu.processes:
        cpu_s[each.role] += each.cpu_s
    return {
        "requests": result.sent,
        "failed": result.sent - result.succeeded,
        "veto": generator_veto(result),
        "duration_s": result.duration_s,
        "throughput_rps": result.throughput_rps,
        "e2e_p50_ms": result.e2e.p50_ms if result.e2e else None,
        "e2e_p99_ms": result.e2e.p99_ms if result.e2e else None,
        "generator_cpu_frac": result.generator_cpu_frac,
        "cpu_ms": {role: 1000.0 * seconds / result.succeeded for role, seconds in sorted(cpu_s.items())},
        "cpu_cores": {role: seconds / cpu.duration_s for role, seconds in sorted(cpu_s.items())},
        "machine_busy_frac": cpu.machine_busy_frac,
        "stolen_frac": cpu.stolen_frac,
        "cards": [dataclasses.asdict(card) for card in gpu.cards],
        "cards_unknown": gpu.unknown,
    }


def profiled(server: RunningServer, load: Schedule, arguments: argparse.Namespace, name: str) -> None:
    """Sample the stacks of a server's processes while it answers images that it has not seen."""
    server.unpark()
    processes = [(each.pid, each.role) for each in server.processes() if each.role != ROLE_OTHER]
    with PySpySampler(processes, rate_hz=100, nonblocking=True, work_dir=arguments.logs) as sampler:
        sampler.start()
        run_load(server.base_url, load, concurrency=arguments.concurrency, timeout_s=120.0)
        raws = sampler.stop()
    server.park()
    for raw in raws:
        inclusive: dict[str, int] = defaultdict(int)
        stacks = parse_folded(raw.text)
        for each in stacks:
            for frame in {f"{frame.function} ({frame.file.rsplit('/', 1)[-1]})" for frame in each.frames}:
                inclusive[frame] += each.samples
        total = sum(each.samples for each in stacks)
        top = sorted(inclusive.items(), key=lambda item: -item[1])[:60]
        lines = [f"{count / total:7.1%} {frame}" for frame, count in top] if total else []
        heading = f"{name} {raw.role}: {total} samples that were not idle, {raw.lost} lost"
        with (arguments.logs / "stacks.txt").open("a") as stream:
            stream.write("\n".join([heading, *lines, "", ""]))


def keep_logs(work: Path, logs: Path) -> None:
    """Copy the servers' logs out of the folder that goes."""
    for log in work.glob("*/server.log"):
        shutil.copyfile(log, logs / f"{log.parent.name}.log")


def short(row: dict[str, object]) -> str:
    """Tell the most important of a row."""
    told = {key: row[key] for key in ("requests", "failed", "veto", "duration_s", "throughput_rps", "e2e_p50_ms")}
    return json.dumps(told | {"cores": row["cpu_cores"]}, default=str)


def value(row: dict[str, object], metric: str) -> float | None:
    """One metric of a row; `ROLE_ms` is CPU milliseconds a request."""
    if metric == "gpu_busy_frac":
        busy = [float(card["busy_frac"]) for card in row["cards"]]  # type: ignore[attr-defined]
        return statistics.fmean(busy) if busy else None
    found = row[metric] if metric in row else row["cpu_ms"].get(metric.removesuffix("_ms"))  # type: ignore[attr-defined]
    return None if found is None else float(found)  # type: ignore[arg-type]


def table(arguments: argparse.Namespace) -> None:
    """Print each metric's mean by arm, and its ratio to the baseline with an interval; a file is one server start."""
    starts = [[json.loads(line) for line in file.read_text().splitlines()] for file in arguments.files]
    rows = [row for start in starts for row in start]
    baseline = arguments.baseline
    arms = [name for name in ARMS if any(row["arm"] == name for row in rows)]
    print("| arm | trials |", " | ".join(METRICS), "|")
    print("|---|---|" + "---|" * len(METRICS))
    for name in arms:
        cells = []
        for metric in METRICS:
            values = [found for row in rows if row["arm"] == name and (found := value(row, metric)) is not None]
            cells.append(f"{statistics.fmean(values):.3g}" if values else "-")
        print(f"| {name} | {sum(row['arm'] == name for row in rows)} |", " | ".join(cells), "|")
    print(f"\nRatio to {baseline}, with its {CONFIDENCE:.0%} interval\n")
    print("| arm |", " | ".join(METRICS), "|")
    print("|---|" + "---|" * len(METRICS))
    for name in arms:
        if name == baseline:
            continue
        print(f"| {name} |", " | ".join(ratio(starts, name, baseline, metric) for metric in METRICS), "|")


def ratio(starts: list[list[dict[str, object]]], name: str, baseline: str, metric: str) -> str:
    """Compare two arms within their blocks."""
    differences = []
    for rows in starts:
        found = {(row["arm"], row["block"]): value(row, metric) for row in rows}
        blocks = sorted({block for _, block in found})
        pairs = [(found.get((name, block)), found.get((baseline, block))) for block in blocks]
        logs = [math.log(one / other) for one, other in pairs if one and other]
        if logs:
            differences.append(logs)
    if not differences:
        return "-"
    effect = ratio_effect(metric, differences, CONFIDENCE)
    return f"{effect.ratio:.3f} ({effect.low:.3f} - {effect.high:.3f})"


if __name__ == "__main__":
    main()
