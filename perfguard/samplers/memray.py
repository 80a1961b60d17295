"""Who allocates the memory of running processes: memray is put into each of them for a while, and draws a flamegraph.

memray has to be importable in the process's own environment as well, and gets in by a debugger (gdb or lldb), or by
`sys.remote_exec` where both run the same Python from 3.14 on. A debugger pauses the process for a moment, and from then
on until the end every allocation costs more, so this runs when the other samplers have ended.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from perfguard.model.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

# A debugger gets in at the next allocation of the process; one that sleeps makes none.
_ATTACH_TIMEOUT_S = 30.0
_LEAVE_TIMEOUT_S = 15.0
_WRITE_TIMEOUT_S = 60.0
_DRAW_TIMEOUT_S = 300.0
_POLL_S = 0.1
_MISSING = "No module named 'memray'"
_BEGAN = "tracking PID"
_MEMRAY = (sys.executable, "-m", "memray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocations:
    """What memray drew of one process: an HTML file, or None and why there is none."""

    pid: int
    flamegraph: Path | None
    unknown: str = ""


def check_memray() -> None:
    """Check that memray can be used from here.

    Raises:
        UsageError: it is not installed, or there is no debugger to put it into a process.
    """
    if importlib.util.find_spec("memray") is None:
        raise UsageError(
            "memray is not installed here",
            hint="pip install 'perfguard[memray]', and memray in the server's own environment",
        )
    if not (shutil.which("gdb") or shutil.which("lldb") or hasattr(sys, "remote_exec")):
        raise UsageError("memray needs a debugger to enter a running process", hint="install gdb")


def draw_allocations(
    processes: Sequence[tuple[int, str]], *, seconds: float, output_dir: Path
) -> tuple[Allocations, ...]:
    """Track the allocations of `processes`, (pid, Python's version) pairs, all at once, and draw what each had at most.

    The flamegraphs are written to `output_dir` as `memray-PID.html`. What was allocated before is not in them.
    """
    began = [(pid, _begin(pid, python, seconds, _records(output_dir, pid))) for pid, python in processes]
    if not all(unknown for _, unknown in began):
        time.sleep(math.ceil(seconds))
    return tuple(
        Allocations(pid=pid, flamegraph=None, unknown=unknown) if unknown else _draw(pid, output_dir)
        for pid, unknown in began
    )


def _records(output_dir: Path, pid: int) -> Path:
    return output_dir / f"memray-{pid}.bin"


def _begin(pid: int, python: str, seconds: float, records: Path) -> str:
    """Put memray into a process; returns why that could not be done, or nothing."""
    # It ends by itself, also where this process ends before.
    command = ["attach", "--force", "--aggregate", "--output", str(records), "--duration", str(math.ceil(seconds))]
    same = python == f"{sys.version_info[0]}.{sys.version_info[1]}" and hasattr(sys, "remote_exec")
    for debugger in ("gdb", "lldb"):
        if not same and shutil.which(debugger):
            command += ["--method", debugger]
            break
    said = _attach([*command, str(pid)])
    if said is None:
        return f"memray did not get into it within {_ATTACH_TIMEOUT_S:.0f} s: it allocated nothing meanwhile"
    if _MISSING in said:
        return "memray is not installed in the process's own environment"
    if records.exists():
        return ""
    if _BEGAN in said:
        return "what memray writes there is not to be seen from here: the process has other files (a container)"
    return f"memray could not enter it: {_last_line(said)}"


def _draw(pid: int, output_dir: Path) -> Allocations:
    """Wait until the process has written its records, and make the flamegraph of them."""
    records, graph = _records(output_dir, pid), output_dir / f"memray-{pid}.html"
    deadline = time.monotonic() + _WRITE_TIMEOUT_S
    while _has_open(pid, records):
        if time.monotonic() > deadline:
            return Allocations(pid=pid, flamegraph=None, unknown="memray did not finish its records")
        time.sleep(_POLL_S)
    command = [*_MEMRAY, "flamegraph", "--force", "--output", str(graph), str(records)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_DRAW_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Allocations(pid=pid, flamegraph=None, unknown=f"memray drew nothing within {_DRAW_TIMEOUT_S:.0f} s")
    finally:
        records.unlink()
    if graph.exists():
        return Allocations(pid=pid, flamegraph=graph)
    return Allocations(pid=pid, flamegraph=None, unknown=f"memray drew nothing: {_last_line(done.stdout)}")


def _attach(arguments: Sequence[str]) -> str | None:
    """Let memray put itself into a process, and return what it said; None where it took too long and was ended."""
    process = subprocess.Popen(
        [*_MEMRAY, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C must not end a debugger that is at work
    )
    try:
        said, _ = process.communicate(timeout=_ATTACH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _interrupt_debuggers(process)
        return None
    except KeyboardInterrupt:
        _interrupt_debuggers(process)
        raise
    return said


def _interrupt_debuggers(process: subprocess.Popen[str]) -> None:
    """Let the debuggers of a memray that does not get on leave; their breakpoints go with them.

    Interrupted, and neither terminated nor killed: that leaves the breakpoints behind, and the next one that the
    process meets ends it.
    """
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):  # it may go on without us: it ends by itself
        process.communicate(timeout=_LEAVE_TIMEOUT_S)


def _has_open(pid: int, file: Path) -> bool:
    try:
        return any(os.path.realpath(link) == str(file) for link in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):  # it ended, and its records with it
        return False


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
