"""What servers of every kind share: they start, answer a health check, are parked, drain and end.

Each kind adds how it is started, what its processes are and how it tells that nothing is left to do.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError, UntestableError
from perfguard.model.trial import ROLE_OTHER
from perfguard.targets import server_log
from perfguard.targets.ports import HOST, free_port, listens, port_is_free

if TYPE_CHECKING:
    from perfguard.model.trial import ServerReport
    from perfguard.targets.processes import ManagedProcess

OK = 200
# Goes on the import path of every server: what is in it prepares the server's Python processes.
SITE = Path(__file__).parents[1] / "inside" / "site"
_POLL_S = 0.1
_HEALTH_REQUEST_LIMIT_S = 30.0
_STOP_GRACE_S = 5.0
_LOG_TAIL_LINES = 60
# The user's own settings of Python, of the server and of its libraries would make runs differ between users.
_DROPPED_VARIABLES = re.compile(
    r"PYTHON|SGLANG_|SGL_|PERFGUARD_|OMP_|MKL_|GLOO_|NCCL_|TORCH|LD_PRELOAD$|RANK$|LOCAL_RANK$|WORLD_SIZE$|MASTER_"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """One process of a running server; `role` as in `perfguard.model.trial`."""

    pid: int
    role: str


class RunningServer(ABC):
    """A server that answered its health check. `base_url` has no trailing slash."""

    def __init__(self, *, process: ManagedProcess, port: int, source_root: Path) -> None:
        self.base_url = f"http://{HOST}:{port}"
        self.log_path = process.log_path
        self._process = process
        self._port = port
        self._source_root = source_root
        self._at_start = self.processes()

    @property
    @abstractmethod
    def report(self) -> ServerReport:
        """How the server was started, and what it said of itself until now."""

    @abstractmethod
    def _role_of(self, pid: int) -> str:
        """Name what the process `pid` does; `ROLE_OTHER` where it is of no interest."""

    @abstractmethod
    def _requests_running(self, timeout_s: float) -> int:
        """Ask the server how many requests it works on; what goes wrong with that is raised, and asked again."""

    def processes(self) -> tuple[ServerProcess, ...]:
        """List the server's living processes with their roles."""
        return tuple(ServerProcess(pid=pid, role=self._role_of(pid)) for pid in self._process.descendants())

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the server's log."""
        return server_log.tail(self.log_path, lines)

    def park(self) -> None:
        """Stop every process of the server (SIGSTOP), so that it uses no CPU: an idle scheduler spins."""
        self._signal(signal.SIGSTOP)

    def unpark(self) -> None:
        """Let a parked server go on; its processes find each other again by themselves."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._process.descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def check_alive(self) -> None:
        """Make sure that no process of the server has died.

        Raises:
            UntestableError: one has; with its exception and the log's end.
        """
        if self._process.poll() is not None:
            raise died(self._process, self._source_root, when="while it ran")
        living = set(self._process.descendants())
        for process in self._at_start:
            if process.role != ROLE_OTHER and process.pid not in living:
                time.sleep(_POLL_S)  # a server that ends itself when one of its processes dies then tells more
                if self._process.poll() is not None:
                    raise died(self._process, self._source_root, when="while it ran")
                reason = server_log.last_exception(self.log_path, source_root=self._source_root)
                raise UntestableError(
                    f"{reason or 'no exception in the log'} (the server's {process.role} process died)",
                    log_tail=self.log_tail(_LOG_TAIL_LINES),
                )

    def drain(self, timeout_s: float) -> None:
        """Wait until the server has no request left, `timeout_s` seconds at the most.

        Raises:
            UntestableError: it did not get there in time, or a process of it died.
        """
        deadline = time.monotonic() + timeout_s
        running: int | None = None
        while True:
            self.check_alive()
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                running = self._requests_running(max(_POLL_S, deadline - time.monotonic()))
            if running == 0:
                return
            if time.monotonic() > deadline:
                what = "it did not say how many requests run" if running is None else f"{running} requests still run"
                raise UntestableError(
                    f"the server did not drain within {timeout_s:g} s: {what}", log_tail=self.log_tail(_LOG_TAIL_LINES)
                )
            time.sleep(_POLL_S)


class LaunchedServer(ABC):
    """A server that was launched, and may still be starting: `wait` for it, and `stop` it whatever happens.

    Several can be launched before the first is waited for.
    """

    def __init__(self, *, port: int | None, source_root: Path, start_timeout_s: float, health_path: str) -> None:
        """Launch it on `port`, or on any free one; what `_start` needs must be there before this is called."""
        if port is not None and not port_is_free(port):
            raise PerfguardError(f"port {port} on {HOST} is taken", hint="name another one, or none for any free port")
        self._fixed_port = port
        self._source_root = source_root
        self._start_timeout_s = start_timeout_s
        self._health_path = health_path
        self._launch()

    @abstractmethod
    def _start(self, port: int) -> ManagedProcess:
        """Start the server's first process."""

    @abstractmethod
    def _running(self, process: ManagedProcess, port: int, start_s: float) -> RunningServer:
        """Give the server, which has answered its health check `start_s` seconds after it was launched."""

    def _launch(self) -> None:
        self._port = self._fixed_port if self._fixed_port is not None else free_port()
        self._begin = time.monotonic()
        self._process = self._start(self._port)

    def wait(self) -> RunningServer:
        """Wait until the server answers its health check.

        Raises:
            UntestableError: it died while it started, or did not answer in time; the strategy does not know the
                revision's code.
        """
        try:
            self._wait_until_healthy()
        except UntestableError:
            # Somebody was faster at the port; that says nothing about the revision.
            if self._fixed_port is not None or not server_log.died_of_taken_address(self._process.log_path):
                raise
            self.stop()
            self._launch()
            self._wait_until_healthy()
        return self._running(self._process, self._port, time.monotonic() - self._begin)

    def stop(self) -> None:
        """End every process of the server.

        Raises:
            PerfguardError: a process survived SIGKILL.
        """
        report = self._process.stop(_STOP_GRACE_S)
        if report.leftover:
            pids = ", ".join(str(pid) for pid in report.leftover)
            raise PerfguardError(
                f"processes of the server on port {self._port} survived SIGKILL: {pids}",
                hint="they hang in the kernel (a driver, a dead file system): reboot before measuring again",
            )

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            if self._process.poll() is not None:
                raise died(self._process, self._source_root, when="during start")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise UntestableError(
                    f"the server did not answer {self._health_path} within {self._start_timeout_s:g} s",
                    log_tail=server_log.tail(self._process.log_path, _LOG_TAIL_LINES),
                )
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, _ = get(self._port, self._health_path, timeout_s=min(left_s, _HEALTH_REQUEST_LIMIT_S))
                # Another program may have taken the port in the meantime, and answer in the server's place.
                if status == OK and self._process.poll() is None and listens(self._process, self._port):
                    return
            time.sleep(_POLL_S)


def died(process: ManagedProcess, source_root: Path, *, when: str) -> UntestableError:
    """Say what the server died of, as well as its log and its exit status tell."""
    # The reaper told of the server's end; other processes of it may still be writing why.
    time.sleep(_POLL_S)
    code = process.returncode
    ended = (
        f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exited with code {code}"
    )
    reason = server_log.last_exception(process.log_path, source_root=source_root)
    killed_from_outside = reason is None and code == -signal.SIGKILL
    return UntestableError(
        f"{reason or 'no exception in the log'} (server {ended} {when})",
        hint="the machine may have run out of memory: see `dmesg`" if killed_from_outside else None,
        log_tail=server_log.tail(process.log_path, _LOG_TAIL_LINES),
    )


def get(port: int, path: str, *, timeout_s: float) -> tuple[int, bytes]:
    """GET from the loopback interface: the status and the body; proxies, which a user may have set, are not asked."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def user_environment() -> dict[str, str]:
    """Return the user's environment without what steers Python, SGLang's server or libraries that compute."""
    return {name: value for name, value in os.environ.items() if not _DROPPED_VARIABLES.match(name)}
