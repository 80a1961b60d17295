"""Stacks of running Python processes by py-spy: one recorder a process, started and stopped around a load.

One recorder for each process, and not one `--subprocesses` recorder for the tree: on a server of four processes the
single one cost no less CPU (0.28 of a core against 0.26 at 100 Hz), slowed the server no less, sampled helper processes
that nobody asked for, and does not tell when each of the processes is attached.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import psutil

from perfguard.model.errors import PerfguardError
from perfguard.samplers.ptrace import is_denial, why_denied

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_BEGIN_TIMEOUT_S = 30.0
_FLUSH_TIMEOUT_S = 30.0
_POLL_S = 0.01
# py-spy wants a duration; it is always interrupted long before.
_FOREVER_S = 1_000_000
_BEGAN = "Sampling process"
_ENDED_EARLY = "because process exited"
_BEHIND = "behind in sampling"
_COUNTS = re.compile(r"Samples: (\d+) Errors: (\d+)")
# Without `--subprocesses` every record begins with its thread.
_RECORDS = re.compile(r"^(?=thread \()", re.MULTILINE)
_RECORD = re.compile(r"[^\n]* (?P<samples>[1-9]\d{0,17})\n?", re.ASCII)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RawProfile:
    """What py-spy recorded of one process. `text` is its raw format: a folded stack and a count on every line.

    Frames read `function (file:line)` with the file's full path, so that they can be looked up in a source tree. Idle
    threads are left out. A thread that waits for a core is not idle: on a busy machine samples over rate are more than
    CPU seconds, so take a stack's share of the samples times the CPU of its process.

    `samples` is the sum of the counts, `lost` how often a stack could not be read or came out torn. `text` is empty
    where the recorder failed; `warnings` then says why. `sampler_cpu_s` is py-spy's own CPU from when it sampled.
    """

    role: str
    pid: int
    rate_hz: int
    duration_s: float
    samples: int
    lost: int
    warnings: tuple[str, ...]
    text: str
    sampler_cpu_s: float = 0.0


def find_py_spy() -> Path:
    """Return py-spy's executable: the one installed beside this Python, else the first on PATH.

    Raises:
        PerfguardError: there is none.
    """
    beside = Path(sys.executable).parent / "py-spy"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("py-spy")
    if found is None:
        raise PerfguardError(
            f"py-spy is neither beside {sys.executable} nor on PATH", hint="install it: pip install py-spy"
        )
    return Path(found)


def check_attach(executable: Path | None = None) -> str | None:
    """Try on a small Python child whether py-spy may read it: None if so, else what is wrong and what mends it."""
    try:
        command = [str(executable or find_py_spy()), "dump", "--pid"]
    except PerfguardError as error:
        return f"{error.message}; {error.hint}"
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        if child.stdout is not None:
            child.stdout.readline()
        dump = subprocess.run(
            [*command, str(child.pid)], capture_output=True, text=True, timeout=_BEGIN_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"py-spy ({command[0]}) cannot be run: {error}"
    finally:
        child.kill()
        child.communicate()
    if dump.returncode == 0:
        return None
    said = dump.stderr + dump.stdout
    if not is_denial(said):
        return f"py-spy cannot read a Python process: {error_line(said)}"
    reason, mend = why_denied()
    return f"py-spy may not read other processes: {reason}; {mend}"


@final
class PySpySampler:
    """Samples the stacks of `processes`, (pid, role) pairs, `rate_hz` times a second.

    `nonblocking` reads the stacks without pausing the process, at the price of some lost samples. Recorders end with
    the thread that called `start()`, even where it is killed, so call it from one that outlives the load. As a context
    manager it starts nothing by itself and leaves no recorder behind.
    """

    def __init__(
        self,
        processes: Sequence[tuple[int, str]],
        *,
        rate_hz: int,
        nonblocking: bool,
        work_dir: Path,
        executable: Path | None = None,
    ) -> None:
        self._processes = tuple(processes)
        self._rate_hz = rate_hz
        self._nonblocking = nonblocking
        self._work_dir = work_dir
        self._executable = executable
        self._recorders: list[_Recorder] = []

    def start(self) -> None:
        """Start a recorder for every process, and return once each of them samples (or has failed to).

        Raises:
            PerfguardError: py-spy is missing, or may not read the processes; says what mends it.
        """
        executable = self._executable or find_py_spy()
        self._work_dir.mkdir(parents=True, exist_ok=True)
        try:
            for pid, role in self._processes:
                self._recorders.append(self._launch(executable, pid, role))
            for recorder in self._recorders:
                recorder.wait_until_sampling()
        except BaseException:
            self.close()
            raise

    def stop(self) -> tuple[RawProfile, ...]:
        """End all recorders and return their profiles, in the order of the processes; one that failed has a warning."""
        recorders, stopped_at = self._recorders, time.time()
        for recorder in recorders:
            recorder.interrupt()
        profiles = tuple(recorder.collect(stopped_at, self._rate_hz) for recorder in recorders)
        self._recorders = []
        return profiles

    def close(self) -> None:
        """Kill the recorders that still run; what they sampled is lost. Does nothing after `stop()`."""
        for recorder in self._recorders:
            recorder.kill()
        self._recorders = []

    def __enter__(self) -> PySpySampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, executable: Path, pid: int, role: str) -> _Recorder:
        raw, log = self._work_dir / f"py-spy-{pid}.raw", self._work_dir / f"py-spy-{pid}.log"
        # An earlier recording of the same process must never pass for this one.
        raw.unlink(missing_ok=True)
        command = [str(executable), "record", "--format", "raw", "--threads", "--full-filenames"]
        command += ["--rate", str(self._rate_hz), "--duration", str(_FOREVER_S)]
        command += ["--nonblocking"] if self._nonblocking else []
        command += ["--pid", str(pid), "--output", str(raw)]
        try:
            process = _popen(command, log)
        except OSError as error:
            raise PerfguardError(
                f"py-spy ({executable}) cannot be started: {error.strerror}", hint="reinstall it: pip install py-spy"
            ) from error
        return _Recorder(process, pid=pid, role=role, raw=raw, log=log)


class _Recorder:
    """One py-spy process and its two files."""

    def __init__(self, process: subprocess.Popen[bytes], *, pid: int, role: str, raw: Path, log: Path) -> None:
        self._process = process
        self._pid = pid
        self._role = role
        self._raw = raw
        self._log = log
        self._began_at: float | None = None
        self._began_cpu_s = self._cpu_s = 0.0
        self._warnings: list[str] = []

    def wait_until_sampling(self) -> None:
        """Wait for py-spy's word that it samples, which it gives once it is attached."""
        deadline = time.monotonic() + _BEGIN_TIMEOUT_S
        while _BEGAN not in (said := self._said()):
            if self._process.poll() is not None and _BEGAN not in (said := self._said()):
                if is_denial(said):
                    reason, mend = why_denied()
                    raise PerfguardError(f"py-spy may not read process {self._pid} ({self._role}): {reason}", hint=mend)
                self._warnings.append(f"py-spy did not begin: {error_line(said)}")
                return
            if time.monotonic() > deadline:
                self.kill()
                self._warnings.append(f"py-spy did not begin within {_BEGIN_TIMEOUT_S:.0f} s")
                return
            time.sleep(_POLL_S)
        self._began_at, self._began_cpu_s = time.time(), self._read_cpu_s()

    def interrupt(self) -> None:
        """Tell py-spy to write its file and end."""
        if self._process.poll() is None:
            self._cpu_s = self._read_cpu_s() - self._began_cpu_s
            self._process.send_signal(signal.SIGINT)

    def collect(self, stopped_at: float, rate_hz: int) -> RawProfile:
        """Wait for py-spy's end and read what it wrote. `stopped_at` is when it was interrupted, as `time.time()`."""
        try:
            self._process.wait(_FLUSH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._warnings.append(f"py-spy did not write its samples within {_FLUSH_TIMEOUT_S:.0f} s and was killed")
        said = self._said()
        text, samples, torn = _whole_stacks(self._raw) if self._raw.exists() else ("", 0, 0)
        counts = _COUNTS.search(said)
        if self._began_at is not None:
            self._warnings += _complaints(said)
            if counts is None:
                self._warnings.append(f"py-spy died (exit status {self._process.returncode}): {error_line(said)}")
            elif _ENDED_EARLY in said:
                stopped_at = min(stopped_at, self._raw.stat().st_mtime)
                self._warnings.append(f"process {self._pid} ended while it was sampled")
        return RawProfile(
            role=self._role,
            pid=self._pid,
            rate_hz=rate_hz,
            duration_s=0.0 if self._began_at is None else max(0.0, stopped_at - self._began_at),
            samples=samples,
            lost=(int(counts[2]) if counts else 0) + torn,
            warnings=tuple(self._warnings),
            text=text,
            sampler_cpu_s=self._cpu_s,
        )

    def kill(self) -> None:
        """End py-spy at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _read_cpu_s(self) -> float:
        try:
            used = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return self._began_cpu_s
        return float(used.user + used.system)

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


def _popen(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start py-spy apart from the terminal's Ctrl-C, bound to the life of this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    environment = {key: value for key, value in os.environ.items() if key != "RUST_LOG"}
    with log.open("wb") as sink:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - makes two system calls only, no lock is taken
        )


def _whole_stacks(raw: Path) -> tuple[str, int, int]:
    """Read py-spy's file: the text of its whole records, their samples, and how many records are left out as torn.

    A process that runs on while it is read (`nonblocking`) may show memory that is already used for something else: a
    function's name is then any text of the program, line breaks included, and what its record counts is no stack. The
    last record of a file that was cut off is torn too.
    """
    # Only a line feed ends a line, and "\r" in a name stays what it is.
    text = raw.read_bytes().decode(errors="replace")
    matches = [(record, _RECORD.fullmatch(record)) for record in _RECORDS.split(text) if record.strip()]
    whole = [(record, int(match["samples"])) for record, match in matches if match]
    return "".join(record for record, _ in whole), sum(samples for _, samples in whole), len(matches) - len(whole)


def error_line(said: str) -> str:
    """Pick the one line of py-spy's output that says what went wrong; its causes and backtraces are left out."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith(("Error:", "error:"))]
    return (errors or lines or ["it said nothing"])[-1 if not errors else 0]


def _complaints(said: str) -> list[str]:
    """Return py-spy's last word on falling behind, and how often it said so."""
    behind = [line.strip().removeprefix("py-spy> ") for line in said.splitlines() if _BEHIND in line]
    if not behind:
        return []
    return [f"{behind[-1]} (said {len(behind)} times)" if len(behind) > 1 else behind[-1]]
