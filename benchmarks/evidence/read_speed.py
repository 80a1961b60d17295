"""How fast and in how much memory large profiles are read, classed and summarised.

Makes profiles of the size asked for (by default 10 million samples in 100,000 distinct stacks, 8 to 60 frames deep,
with source files behind the frames), and measures one format after the other in a fresh process each:

    python benchmarks/evidence/read_speed.py
    python benchmarks/evidence/read_speed.py --profile folded    # where the time goes, by cProfile
"""

from __future__ import annotations

import argparse
import cProfile
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perfguard.evidence.callsites import CallSites
from perfguard.evidence.reading import read_profile
from perfguard.evidence.summary import summarise
from perfguard.workflows.call_rules import packaged_call_rules
from perfguard.workflows.profile_files import ProfileSources, collector_paused

FORMATS = ("folded", "python315", "collapsed", "speedscope")
FILES = 400
FUNCTIONS = 25
MAX_DEPTH = 56
# speedscope repeats a stack for every sample; ten million of them would be a file of over a gigabyte.
SPEEDSCOPE_SAMPLES = 1_000_000
CALLS = (
    "work(x)",
    "pickle.dumps(x)",
    "hashlib.sha256(x).hexdigest()",
    "dist.broadcast(x)",
    "x.to(y)",
    "other.thing(x)",
)


def main() -> None:
    """Measure every format, or profile one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--profile", choices=FORMATS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), Path(options.measure[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tree = make_sources(place / "tree")
        stacks = make_stacks(options.stacks, options.samples)
        if options.profile:
            path = write(options.profile, place, stacks)
            profiler = cProfile.Profile()
            profiler.runcall(summarise_file, path, tree)
            profiler.print_stats("tottime")
            return
        print("| format | file MB | samples | distinct stacks | read s | classed and summarised s | peak MB |")
        print("|---|---|---|---|---|---|---|")
        for kind in FORMATS:
            path = write(kind, place, stacks)
            command = [sys.executable, __file__, "--measure", str(path), str(tree)]
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(
                f"| {kind} | {path.stat().st_size / 1e6:.0f} | {done['samples']:,} | {done['stacks']:,} "
                f"| {done['read_s']:.2f} | {done['summary_s']:.2f} | {done['peak_mb']:.0f} |",
                flush=True,
            )
            path.unlink()


def measure(path: Path, tree: Path) -> None:
    """Summarise one file and print what that cost, as JSON."""
    read_s, summary_s, samples, stacks = summarise_file(path, tree)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps({"read_s": read_s, "summary_s": summary_s, "samples": samples, "stacks": stacks, "peak_mb": peak_mb})
    )


def summarise_file(path: Path, tree: Path) -> tuple[float, float, int, int]:
    """Read and summarise one file as `perfguard analyze` does; returns both times, and what was in it."""
    with collector_paused():
        start = time.perf_counter()
        profile = read_profile(path.read_bytes(), name=path.name)
        middle = time.perf_counter()
        sites = CallSites(ProfileSources([tree]), packaged_call_rules())
        summary = summarise(profile, sites, name=path.name, role="rank-0")
    return middle - start, time.perf_counter() - middle, summary.samples, summary.distinct_stacks


def make_sources(tree: Path) -> Path:
    """Write files whose every line is a call, so that each frame has to be looked up and classed."""
    order = random.Random(1)
    for number in range(FILES):
        path = tree / "package" / f"part{number // 20}" / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for function in range(FUNCTIONS):
            lines += [
                f"def function_{function}(self, x, y):",
                f"    {order.choice(CALLS)}",
                f"    {order.choice(CALLS)}",
            ]
        path.write_text("\n".join(lines) + "\n")
    return tree


def make_stacks(distinct: int, samples: int) -> list[tuple[tuple[tuple[str, str, int], ...], int]]:
    """Grow a call tree like a server's (one common trunk, then many branches) and spread the samples over its paths."""
    order = random.Random(2)
    frames = [
        (f"function_{function}", f"package/part{number // 20}/module_{number}.py", 3 * function + order.choice((2, 3)))
        for number in range(FILES)
        for function in range(FUNCTIONS)
    ]
    trunk = tuple(order.sample(frames, 8))
    paths = {trunk: 1}
    grown = [trunk]
    while len(paths) < distinct:
        start = order.choice(grown)
        path = start if len(start) < MAX_DEPTH else trunk
        for _ in range(order.randint(1, 4)):
            path = (*path, order.choice(frames))
        if path not in paths:
            paths[path] = 1
            grown.append(path)
    left = samples - len(paths)
    weights = [order.paretovariate(1.1) for _ in paths]
    scale = left / sum(weights)
    return [(path, 1 + int(weight * scale)) for path, weight in zip(paths, weights, strict=True)]


def write(kind: str, place: Path, stacks: list[tuple[tuple[tuple[str, str, int], ...], int]]) -> Path:
    """Write the stacks in one format."""
    path = place / kind
    root = "/opt/environment/lib/python3.11/site-packages/"
    with path.open("w") as file:
        if kind == "speedscope":
            write_speedscope(file, stacks, root)
            return path
        for frames, count in stacks:
            if kind == "folded":
                names = [f"{function} ({root}{name}:{line})" for function, name, line in frames]
                file.write(f"thread (4242): MainThread;{';'.join(names)} {count}\n")
            elif kind == "python315":
                names = [f"{name.rpartition('/')[2]}:{function}:{line}" for function, name, line in frames]
                file.write(f"tid:4242;{';'.join(names)} {count}\n")
            else:
                names = [f"{name[:-3].replace('/', '.')}.{function}" for function, name, _ in frames]
                file.write(f"{';'.join(names)} {count}\n")
    return path


def write_speedscope(file: object, stacks: list[tuple[tuple[tuple[str, str, int], ...], int]], root: str) -> None:
    """Write one sample after the other, as py-spy does."""
    index: dict[tuple[str, str, int], int] = {}
    texts = [json.dumps([index.setdefault(frame, len(index)) for frame in frames]) for frames, _ in stacks]
    total = sum(count for _, count in stacks)
    counts = [max(1, count * SPEEDSCOPE_SAMPLES // total) for _, count in stacks]
    samples = [text for text, count in zip(texts, counts, strict=True) for _ in range(count)]
    random.Random(3).shuffle(samples)
    shared = [{"name": function, "file": root + name, "line": line, "col": None} for function, name, line in index]
    header = {"$schema": "https://www.speedscope.app/file-format-schema.json", "shared": {"frames": shared}}
    profile = {"type": "sampled", "name": 'Thread 4242 "MainThread"', "unit": "seconds", "startValue": 0.0}
    file.write(json.dumps(header)[:-1] + ', "profiles": [' + json.dumps(profile)[:-1])  # type: ignore[attr-defined]
    file.write(f', "endValue": {len(samples) / 100}, "samples": [')  # type: ignore[attr-defined]
    file.write(",".join(samples) + '], "weights": [' + ",".join(["0.01"] * len(samples)) + "]}]}")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
