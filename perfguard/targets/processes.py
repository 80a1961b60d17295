"""Start a process so that nothing of it survives, whatever ends perfguard. Knows nothing of servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from perfguard.model.errors import PerfguardError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

# -I -S: neither the environment nor site-packages can get between the reaper and its duty.
_REAPER_COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "inside" / "reaper.py"))
# What the reaper may need beyond the grace it was given: it kills for 15 s at the most.
_REAPER_MARGIN_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """How a stop ended: `killed` processes did not go by themselves, `leftover` pids could not be killed."""

    killed: int
    leftover: tuple[int, ...]


class ManagedProcess:
    """A process and all its descendants, gone when this object is stopped, closed, or perfguard dies.

    A reaper process stands between (see `perfguard/inside/reaper.py` for what it covers). Standard output and
    error go to `log_path`. `environment` is the whole environment. When everything has ended `remove_dirs` are
    removed, and with them the shared-memory segments that the tree left behind; `record_dir` is where the
    hook in the server's processes writes down the segments they create. `stop_signal` asks for a polite end.

    Raises:
        PerfguardError: the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        working_dir: Path,
        log_path: Path,
        remove_dirs: Sequence[Path] = (),
        record_dir: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log_path = log_path
        self.returncode: int | None = None
        self._remove_dirs = tuple(directory.resolve() for directory in remove_dirs)
        self._record_dir = record_dir
        self._stop_signal = stop_signal
        self._known: dict[int, psutil.Process] = {}
        self._report: StopReport | None = None
        self._stopped_message: dict[str, object] | None = None
        self._received = b""
        self._control, reapers_end = socket.socketpair()
        with reapers_end:
            self._reaper = subprocess.Popen(
                [*_REAPER_COMMAND, str(reapers_end.fileno())],
                pass_fds=[reapers_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        self._send(
            {
                "parent": os.getpid(),
                "command": list(command),
                "environment": dict(environment),
                "working_dir": str(working_dir),
                "log": str(log_path),
                "remove_dirs": [str(directory) for directory in remove_dirs],
                "record_dir": str(record_dir) if record_dir else "",
            }
        )
        try:
            message = self._receive(timeout_s=_REAPER_MARGIN_S)
        except BaseException:
            self.stop(grace_s=0)
            raise
        if message.get("event") != "started":
            self.stop(grace_s=0)
            raise PerfguardError(f"cannot start {command[0]}: {message.get('error', 'its supervisor died')}")
        self.pid = int(str(message["pid"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(grace_s=0)

    def descendants(self) -> tuple[int, ...]:
        """List the living processes of the tree, the started one first if it lives, orphans included."""
        below = list(self._known.values())  # whom a reaper had that was killed is known from the last look only
        if self._reaper.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                below = psutil.Process(self._reaper.pid).children(recursive=True)
        living = [process for process in below if _lives(process)]
        self._known = {process.pid: process for process in living}
        return tuple(sorted(self._known, key=lambda pid: (pid != self.pid, pid)))

    def poll(self) -> int | None:
        """Return the exit status of the started process (negative: the signal that ended it), None while it runs."""
        while self.returncode is None and self._receive(timeout_s=0):
            pass
        if self.returncode is None and self._reaper.poll() is not None and self.pid not in self.descendants():
            # The reaper was killed, and the kernel killed the server for it.
            self.returncode = -signal.SIGKILL
        return self.returncode

    def stop(self, grace_s: float) -> StopReport:
        """End the whole tree: ask politely, wait `grace_s` seconds, then kill until nobody is left.

        A second call returns the first one's report.
        """
        if self._report is None:
            with _interrupts_wait():
                self._send({"order": "stop", "signal": int(self._stop_signal), "grace_s": grace_s})
                deadline = time.monotonic() + grace_s + _REAPER_MARGIN_S
                while self._stopped_message is None and self._receive(timeout_s=max(0.0, deadline - time.monotonic())):
                    pass
                self._control.close()
                self._end_reaper()
            message = self._stopped_message
            self._report = (
                self._stop_without_reaper()
                if message is None
                else StopReport(killed=_as_int(message["killed"]), leftover=_as_pids(message["leftover"]))
            )
        return self._report

    def _end_reaper(self) -> None:
        try:
            self._reaper.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._reaper.kill()
            self._reaper.wait()

    def _stop_without_reaper(self) -> StopReport:
        """Kill what a killed reaper left: processes known before, or working in the tree's directories."""
        killed = set()
        deadline = time.monotonic() + _REAPER_MARGIN_S
        while True:
            left = [process for process in self._strays() if _lives(process)]
            if not left or time.monotonic() > deadline:
                break
            for process in left:
                killed.add(process.pid)
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.05)
        subprocess.run(
            [*_REAPER_COMMAND, "--clean", str(self._record_dir or ""), *map(str, self._remove_dirs)], check=False
        )
        return StopReport(killed=len(killed), leftover=tuple(process.pid for process in left))

    def _strays(self) -> list[psutil.Process]:
        strays = dict(self._known)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and Path(process.cwd()) in self._remove_dirs:
                    strays[process.pid] = process
        return list(strays.values())

    def _send(self, message: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):  # a dead reaper is noticed on the next read
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self, *, timeout_s: float) -> dict[str, object]:
        """Read the reaper's next message; empty when none came in time, or the reaper is gone."""
        while b"\n" not in self._received:
            self._control.settimeout(timeout_s)
            try:
                chunk = self._control.recv(65536)
            except OSError:  # nothing yet (a timeout is one, too), or the connection was reset
                chunk = b""
            if not chunk:
                return {}
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        message: dict[str, object] = json.loads(line)
        if message["event"] == "exited":
            self.returncode = _as_int(message["returncode"])
        elif message["event"] == "stopped":
            self._stopped_message = message
        return message


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold back an interrupt until the block has ended: a second Ctrl-C must not leave half a server behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for held_back in handlers:
        signal.signal(held_back, lambda arrived, _frame: held.append(arrived))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _as_int(value: object) -> int:
    return int(str(value))


def _as_pids(value: object) -> tuple[int, ...]:
    return tuple(int(pid) for pid in value) if isinstance(value, list) else ()
