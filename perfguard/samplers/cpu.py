"""CPU of processes and of the machine over a load, from `/proc` and the control groups at its start and its end."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError
from perfguard.model.trial import CpuResult, ProcessCpu, ThreadCpu

if TYPE_CHECKING:
    from collections.abc import Sequence

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
# utime and stime of a process are cut to ticks, twice each: a smaller difference to its threads' sum means nothing.
_TICK_ERROR_S = 4 * _TICK_S
# What reading a file of a process that has just ended raises.
_GONE = (FileNotFoundError, ProcessLookupError)
_NANOSECONDS = 1e-9
_MICROSECONDS = 1e-6


class CpuSampler:
    """Measures the CPU of `processes`, (pid, role) pairs, between `start()` and `stop()`.

    It reads a few files at both ends and costs nothing in between. A thread's CPU and run-queue delay come from its
    `schedstat`; a kernel without it gives CPU by ticks and no delay. Threads that ended in between are counted with
    their process, whose own counters keep them. `proc_root` and `cgroup_root` are for tests.
    """

    def __init__(
        self,
        processes: Sequence[tuple[int, str]],
        *,
        proc_root: Path = Path("/proc"),
        cgroup_root: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        self._processes = tuple(processes)
        self._proc_root = proc_root
        self._cgroup_root = cgroup_root
        self._before: _Snapshot | None = None

    def start(self) -> None:
        """Note the counters from which the load is measured.

        Raises:
            PerfguardError: one of the processes does not exist.
        """
        self._before = self._read()
        for pid, role in self._processes:
            if pid not in self._before.processes:
                raise PerfguardError(f"process {pid} ({role}) ended before its CPU could be measured")

    def stop(self) -> CpuResult:
        """Return what was used since `start()`. A process that has ended is left out: its counters went with it.

        Time that the hypervisor took is in `stolen_frac`, and in `machine_busy_frac` too. `throttled_s` is that of the
        most throttled control group around the processes, and 0.0 where none has a quota.

        Raises:
            PerfguardError: `start()` was not called.
        """
        if self._before is None:
            raise PerfguardError("the CPU sampler was stopped before it was started")
        before, after = self._before, self._read()
        self._before = None
        machine_s = max(after.machine.total_s - before.machine.total_s, _TICK_S)
        return CpuResult(
            duration_s=after.at_s - before.at_s,
            cores=after.machine.cores,
            machine_busy_frac=1.0 - min(1.0, (after.machine.idle_s - before.machine.idle_s) / machine_s),
            stolen_frac=(after.machine.stolen_s - before.machine.stolen_s) / machine_s,
            throttled_s=max(
                (after_s - before.throttled_s.get(group, after_s) for group, after_s in after.throttled_s.items()),
                default=0.0,
            ),
            processes=tuple(
                _process_cpu(pid, role, before.processes[pid], after.processes[pid])
                for pid, role in self._processes
                if pid in after.processes and after.processes[pid].started == before.processes[pid].started
            ),
        )

    def _read(self) -> _Snapshot:
        processes, throttled_s = {}, {}
        for pid, _ in self._processes:
            with suppress(*_GONE):
                processes[pid] = _read_process(self._proc_root / str(pid))
                throttled_s.update(_read_throttled(self._proc_root / str(pid), self._cgroup_root))
        return _Snapshot(
            at_s=time.perf_counter(),
            machine=_read_machine(self._proc_root),
            processes=processes,
            throttled_s=throttled_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counters:
    """A thread's counters; `started` (ticks since boot) tells a thread from a later one with its id."""

    name: str
    started: int
    cpu_s: float
    run_delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProcessCounters:
    """A process's counters: its own, which keep ended threads, and those of every thread that lives."""

    started: int
    cpu_s: float
    threads: dict[int, _Counters]


@dataclass(frozen=True, slots=True, kw_only=True)
class _MachineCounters:
    """The machine's counters, summed over its cores."""

    cores: int
    total_s: float
    idle_s: float
    stolen_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """Every counter at one moment; `throttled_s` by the control group's `cpu.stat`."""

    at_s: float
    machine: _MachineCounters
    processes: dict[int, _ProcessCounters]
    throttled_s: dict[Path, float]


def _process_cpu(pid: int, role: str, before: _ProcessCounters, after: _ProcessCounters) -> ProcessCpu:
    """Take the difference of one process's counters."""
    threads = []
    for tid, now in after.threads.items():
        then = before.threads.get(tid)
        if then is None or then.started != now.started:
            then = _Counters(name=now.name, started=now.started, cpu_s=0.0, run_delay_s=0.0)
        threads.append(
            ThreadCpu(
                tid=tid,
                name=now.name,
                cpu_s=max(0.0, now.cpu_s - then.cpu_s),
                run_delay_s=max(0.0, now.run_delay_s - then.run_delay_s),
            )
        )
    threads.sort(key=lambda thread: (-thread.cpu_s, thread.tid))
    alive_s = sum(thread.cpu_s for thread in threads)
    whole_s = after.cpu_s - before.cpu_s
    return ProcessCpu(
        pid=pid,
        role=role,
        cpu_s=whole_s if whole_s - alive_s > _TICK_ERROR_S else alive_s,
        run_delay_s=sum(thread.run_delay_s for thread in threads),
        threads=tuple(threads),
    )


def _read_process(folder: Path) -> _ProcessCounters:
    """Read a process's counters; `FileNotFoundError` or `ProcessLookupError` where it is gone."""
    threads = {}
    for task in (folder / "task").iterdir():
        with suppress(*_GONE):  # it may end between the listing and the reading
            threads[int(task.name)] = _read_thread(task)
    _, started, cpu_s = _read_stat(folder)
    return _ProcessCounters(started=started, cpu_s=cpu_s, threads=threads)


def _read_thread(task: Path) -> _Counters:
    name, started, cpu_s = _read_stat(task)
    run_delay_s = 0.0
    with suppress(FileNotFoundError):  # a kernel without schedstat: ticks must do
        running, waiting, _ = (task / "schedstat").read_text(encoding="ascii").split()
        cpu_s, run_delay_s = int(running) * _NANOSECONDS, int(waiting) * _NANOSECONDS
    return _Counters(name=name, started=started, cpu_s=cpu_s, run_delay_s=run_delay_s)


def _read_stat(folder: Path) -> tuple[str, int, float]:
    """Read (name, start time in ticks, user and system CPU seconds) from a `stat` file.

    The name stands in parentheses and may hold some itself, and blanks. Source: proc_pid_stat(5), fields 2, 14, 15, 22.
    """
    text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return name, int(fields[19]), (int(fields[11]) + int(fields[12])) * _TICK_S


def _read_machine(proc_root: Path) -> _MachineCounters:
    """Read `/proc/stat`. Guest time is part of user time and must not be added again. Source: proc_stat(5)."""
    cores = 0
    times = [0.0] * 8
    for line in (proc_root / "stat").read_text(encoding="ascii").splitlines():
        label, *values = line.split()
        if label == "cpu":
            times = [int(value) * _TICK_S for value in values[:8]]
        elif label.startswith("cpu"):
            cores += 1
    user, nice, system, idle, iowait, irq, softirq, stolen = times
    total = user + nice + system + idle + iowait + irq + softirq + stolen
    return _MachineCounters(cores=cores, total_s=total, idle_s=idle + iowait, stolen_s=stolen)


def _read_throttled(process: Path, cgroup_root: Path) -> dict[Path, float]:
    """Read the throttled seconds of the process's control group and of every group around it.

    The quota may stand at any level. Version 2 counts microseconds (`throttled_usec`), version 1 nanoseconds
    (`throttled_time`). Source: the kernel's cgroup-v2.rst and sched-bwc.rst.
    """
    try:
        lines = (process / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    throttled_s = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = ["", "unified"] if not controllers else list(dict.fromkeys((controllers, "cpu")))
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        for name in names:
            for depth in range(len(parts) + 1):
                file = cgroup_root.joinpath(name, *parts[:depth], "cpu.stat")
                if (seconds := _throttled_in(file)) is not None:
                    throttled_s[file] = seconds
    return throttled_s


def _throttled_in(file: Path) -> float | None:
    """Return the throttled seconds that a `cpu.stat` tells of, None where it tells of none."""
    try:
        pairs = dict(line.split(maxsplit=1) for line in file.read_text(encoding="ascii").splitlines() if " " in line)
    except OSError:
        return None
    if "throttled_usec" in pairs:
        return int(pairs["throttled_usec"]) * _MICROSECONDS
    if "throttled_time" in pairs:
        return int(pairs["throttled_time"]) * _NANOSECONDS
    return None
