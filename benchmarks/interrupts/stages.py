"""Interrupt one real comparison in each of its stages, look at what is left, and continue it with --resume.

    python benchmarks/interrupts/stages.py [--signals INT,TERM,KILL] [--output RESULTS.md]

For each signal one run folder is used: the comparison is interrupted in the first stage, continued and interrupted in
the second, and so on; in the end it runs through. After every interrupt the processes, ports, shared-memory segments
and temporary folders that were not there before are counted, and the trials that had ended must still be there, as
they were. Two stages (the history, the environment) are interrupted in an empty cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SCENARIO = """
name = "interrupted"
description = "a short load, interrupted"
metric = "throughput_rps"

[target]
kind = "sglang-server"
device = "cpu"
tensor_parallel_size = 2
vision_tower = "zeros"
environment_spec = "sglang-cpu"
start_timeout_s = 240.0
drain_timeout_s = 30.0

[load]
concurrency = 32
warmup_requests = 300
settling_requests = 32
requests = 400
profiled_requests = 400
prompt_chars = 64
output_tokens = 2
request_timeout_s = 120.0
seed = 1

[load.image]
width_px = 112
height_px = 112
format = "jpeg"

[profiling]
enabled = true
trials_per_revision = 3
rate_hz = 100
nonblocking = true

[limits]
min_effect_frac = 0.05
confidence = 0.95
max_trials = 4
"""
PAIR = ("0.5.4.post1", "0.5.4.post2")
SEGMENTS = Path("/dev/shm")  # noqa: S108 - looked at only
GONE_LIMIT_S = 60.0
SERVER = "sglang.launch_server"
STAGE_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Interrupt `delay_s` after the line that holds `sign` was written; `empty_cache` starts from nothing.

    `sign` SERVER waits for the first process of a server instead.
    """

    name: str
    sign: str
    delay_s: float
    empty_cache: bool = False


STAGES = (
    Stage(name="making the history", sign="listing the releases", delay_s=0.5, empty_cache=True),
    Stage(name="making the environment", sign="Collecting", delay_s=3.0, empty_cache=True),
    Stage(name="launching the servers", sign=SERVER, delay_s=0.3),
    Stage(name="servers importing", sign=SERVER, delay_s=8.0),
    Stage(name="warming up", sign="trial 1: measuring", delay_s=0.5),
    Stage(name="measuring or profiling", sign="trial 1: measuring", delay_s=6.0),
    Stage(name="the other server, the first parked", sign="trial 1, block 1", delay_s=3.0),
    Stage(name="second trial of a parked server", sign="trial 2, block 1", delay_s=2.0),
    Stage(name="stopping the servers", sign="trial 4, block 2", delay_s=0.05),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What a run could leave on the machine."""

    processes: frozenset[tuple[int, str]]
    ports: frozenset[int]
    segments: frozenset[str]
    temp: frozenset[str]

    @classmethod
    def now(cls, marker: str) -> Traces:
        """Look: processes whose environment or command line names `marker`, their ports, segments, folders."""
        processes = set()
        for process in psutil.process_iter(["cmdline", "name"]):
            try:
                texts = [" ".join(process.info["cmdline"] or []), *process.environ().values()]
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if process.pid != os.getpid() and any(marker in text for text in texts):
                processes.add((process.pid, process.info["name"]))
        pids = {pid for pid, _ in processes}
        ports = {
            connection.laddr.port
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.pid in pids
        }
        return cls(
            processes=frozenset(processes),
            ports=frozenset(ports),
            segments=frozenset(path.name for path in SEGMENTS.iterdir()),
            temp=frozenset(path.name for path in Path(tempfile.gettempdir()).glob("perfguard-*")),
        )

    def beyond(self, before: Traces) -> list[str]:
        """Name what was not there before."""
        return [
            *(f"process {pid} {name}" for pid, name in sorted(self.processes - before.processes)),
            *(f"port {port}" for port in sorted(self.ports - before.ports)),
            *(f"segment {name}" for name in sorted(self.segments - before.segments)),
            *(f"folder {name}" for name in sorted(self.temp - before.temp)),
        ]


def trials_of(run_dir: Path) -> list[tuple[int, str, str]]:
    """Return number, revision and start time of every kept trial."""
    if not (run_dir / "run.sqlite").exists():
        return []
    with sqlite3.connect(f"file:{run_dir}/run.sqlite?mode=ro", uri=True) as connection:
        return list(connection.execute("SELECT number, revision, started_at FROM trials ORDER BY number"))


def came(sign: str, log: Path) -> bool:
    """Whether a stage has begun; servers know the run's folder from their environment."""
    if sign != SERVER:
        return sign in log.read_text()
    for process in psutil.process_iter(["cmdline"]):
        if SERVER in " ".join(process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                return any(str(log.parent) in value for value in process.environ().values())
    return False


def interrupt(command: list[str], environment: dict[str, str], log: Path, stage: Stage, number: signal.Signals) -> str:
    """Start the command, send it the signal in `stage`, and say how it ended."""
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
        deadline = time.monotonic() + STAGE_LIMIT_S
        while not came(stage.sign, log):
            if process.poll() is not None:
                return f"ended before the stage, exit {process.returncode}: {log.read_text()[-300:]}"
            if time.monotonic() > deadline:
                process.kill()
                return f"the stage did not come within {STAGE_LIMIT_S:g} s"
            time.sleep(0.05)
        time.sleep(stage.delay_s)
        process.send_signal(number)
        sent = time.monotonic()
        code = process.wait(timeout=GONE_LIMIT_S)
    said = [line for line in log.read_text().splitlines() if line.startswith("perfguard:")]
    return f"exit {code} after {time.monotonic() - sent:.1f} s" + (f", “{said[-1]}”" if said else "")


def wait_until_gone(before: Traces, marker: str) -> tuple[float, list[str]]:
    """Wait until nothing is left, and say how long that took and what is left after all."""
    begin = time.monotonic()
    while left := Traces.now(marker).beyond(before):
        if time.monotonic() - begin > GONE_LIMIT_S:
            break
        time.sleep(0.05)
    return time.monotonic() - begin, left


def rows_for(number: signal.Signals, folder: Path) -> list[tuple[str, ...]]:
    """Walk through all stages with one signal; one row a stage, and one for the end."""
    scenario, run_dir, log = folder / "scenario.toml", folder / "run", folder / "stderr.log"
    scenario.write_text(SCENARIO)
    base = [sys.executable, "-m", "perfguard.cli.main", "compare", *PAIR, "-s", str(scenario)]
    rows = []
    before = Traces.now(str(folder))
    for stage in STAGES:
        own_dir = folder / f"run-{stage.name.replace(' ', '-')}" if stage.empty_cache else run_dir
        environment = {**os.environ, "NO_COLOR": "1"}
        if stage.empty_cache:
            environment["PERFGUARD_CACHE_DIR"] = str(folder / "cache")
        kept = trials_of(own_dir)
        resume = ["--resume"] if (own_dir / "run.sqlite").exists() else []
        ended = interrupt([*base, "--run-dir", str(own_dir), *resume], environment, log, stage, number)
        gone_s, left = wait_until_gone(before, str(folder))
        same = trials_of(own_dir)[: len(kept)] == kept
        rows.append(
            (
                number.name,
                stage.name,
                ended,
                ", ".join(left) or f"nothing after {gone_s:.1f} s",
                f"{len(trials_of(own_dir))}, {'those before unchanged' if same else 'CHANGED'}",
            )
        )
        print(*rows[-1], sep=" | ", flush=True)
    kept = trials_of(run_dir)
    done = subprocess.run(
        [*base, "--run-dir", str(run_dir), "--resume", "--json"], capture_output=True, text=True, check=False
    )
    gone_s, left = wait_until_gone(before, str(folder))
    told = json.loads(done.stdout)["trials"] if done.stdout.startswith("{") else done.stderr[-300:]
    same = trials_of(run_dir)[: len(kept)] == kept
    rows.append(
        (
            number.name,
            "none: continued to the end",
            f"exit {done.returncode}, {told} trials in the result",
            ", ".join(left) or f"nothing after {gone_s:.1f} s",
            f"{len(trials_of(run_dir))}, {'those before unchanged' if same else 'CHANGED'}",
        )
    )
    print(*rows[-1], sep=" | ", flush=True)
    return rows


def main() -> None:
    """Run the signals that were asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--signals", default="INT,TERM,KILL")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    # Started in the background of a shell, SIGINT is ignored, and so it would be by what is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    for name in arguments.signals.split(","):
        with tempfile.TemporaryDirectory(prefix="interrupts-") as folder:
            rows += rows_for(signal.Signals[f"SIG{name}"], Path(folder))
    table = ["| signal | stage | how perfguard ended | left on the machine | trials kept |", "|---|---|---|---|---|"]
    table += ["| " + " | ".join(row) + " |" for row in rows]
    print("\n".join(table))
    if arguments.output is not None:
        arguments.output.write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
