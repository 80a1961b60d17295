"""The kernel's counters of single threads, and the machine's pressure, from `/proc`."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NANOSECONDS = 1e-9
_MICROSECONDS = 1e-6
_PRESSURE_TOTAL = re.compile(r"^some .*total=(\d+)", re.MULTILINE)
_ENDED_STATES = ("Z", "X")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCounters:
    """What the kernel counts of one thread since its start.

    `native_tid` is its id in its own PID namespace. `cpu_s` and `run_delay_s` (ready, but without a core) are None
    where the kernel does not account for them. `ended` is True for a thread that is only waiting to be reaped.
    """

    name: str
    native_tid: int
    ended: bool
    cpu_s: float | None
    run_delay_s: float | None
    voluntary_switches: int
    involuntary_switches: int


def read_thread(task: Path) -> ThreadCounters:
    """Read the counters in `/proc/PID/task/TID`.

    Source: proc_pid_status(5); the kernel's Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".

    Raises:
        OSError: the thread has ended, or may not be read.
    """
    status = (task / "status").read_text(encoding="utf-8", errors="replace")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    cpu_s, run_delay_s = None, None
    with suppress(FileNotFoundError):  # a kernel without it: the caller falls back on what it saw
        running, waiting, _ = (task / "schedstat").read_text(encoding="ascii").split()
        # A kernel that was told not to count writes zeros: every thread has run a little.
        if running != "0":
            cpu_s, run_delay_s = int(running) * _NANOSECONDS, int(waiting) * _NANOSECONDS
    return ThreadCounters(
        name=fields.get("Name", ""),
        native_tid=int(fields["NSpid"].split()[-1]) if "NSpid" in fields else int(task.name),
        ended=fields.get("State", "?").startswith(_ENDED_STATES),
        cpu_s=cpu_s,
        run_delay_s=run_delay_s,
        voluntary_switches=int(fields.get("voluntary_ctxt_switches", 0)),
        involuntary_switches=int(fields.get("nonvoluntary_ctxt_switches", 0)),
    )


def read_pressure(proc_root: Path = Path("/proc")) -> dict[str, float | None]:
    """Read for `cpu`, `memory` and `io` how many seconds some task was held back by it since boot; None: not counted.

    Source: the kernel's Documentation/accounting/psi.rst.
    """
    return {resource: _pressure_s(proc_root / "pressure" / resource) for resource in ("cpu", "memory", "io")}


def _pressure_s(file: Path) -> float | None:
    try:
        match = _PRESSURE_TOTAL.search(file.read_text(encoding="ascii"))
    except OSError:  # built without it, or switched off at boot (reading then fails)
        return None
    return int(match[1]) * _MICROSECONDS if match else None
