"""Run the real SGLang server of a revision: start, health, drain, stop."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from perfguard.model.errors import PerfguardError, UntestableError
from perfguard.model.scenario import Strategy
from perfguard.model.trial import ROLE_DETOKENIZER, ROLE_OTHER, ROLE_TOKENIZER, ServerReport, rank_role
from perfguard.targets import server_log, sglang_launch
from perfguard.targets.ports import HOST, free_port, listens, port_is_free
from perfguard.targets.processes import ManagedProcess
from perfguard.targets.server_records import check_strategy, read_loaded_files, read_stand_ins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perfguard.model.scenario import TargetSpec

_POLL_S = 0.1
_HEALTH_REQUEST_LIMIT_S = 30.0
_STOP_GRACE_S = 5.0
_LOG_TAIL_LINES = 60
_NOT_FOUND = 404
_OK = 200
_TITLES = (
    # Titles that the server's processes give themselves: `sglang::scheduler_DP0_TP1`; TP 1 is `sglang::scheduler`.
    (re.compile(r"sglang::scheduler\S*_TP(\d+)"), None),
    (re.compile(r"sglang::scheduler"), rank_role(0)),
    (re.compile(r"sglang::detokenizer"), ROLE_DETOKENIZER),
    (re.compile(r"sglang::tokenizer_worker"), ROLE_TOKENIZER),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """One process of a running server; `role` as in `perfguard.model.trial`."""

    pid: int
    role: str


class RunningServer:
    """A server that answered its health check. `base_url` has no trailing slash."""

    def __init__(
        self,
        *,
        process: ManagedProcess,
        port: int,
        source_root: Path,
        source_tree: Path,
        report_dir: Path,
        command: tuple[str, ...],
        start_s: float,
        packages: tuple[tuple[str, str], ...],
    ) -> None:
        self.base_url = f"http://{HOST}:{port}"
        self.log_path = process.log_path
        self._process = process
        self._port = port
        self._source_root = source_root
        self._source_tree = source_tree
        self._report_dir = report_dir
        self._command = command
        self._start_s = start_s
        self._packages = packages
        self._at_start = self.processes()

    @property
    def report(self) -> ServerReport:
        """How the server was started, and what stood in for what until now (a kernel may be called under load)."""
        return ServerReport(
            command=self._command,
            start_s=self._start_s,
            stand_ins=read_stand_ins(self._report_dir),
            packages=self._packages,
            loaded_files=read_loaded_files(self._report_dir, self._source_root, self._source_tree),
        )

    def processes(self) -> tuple[ServerProcess, ...]:
        """List the server's living processes with their roles."""
        return tuple(
            ServerProcess(pid=pid, role=_role_of(pid, http_pid=self._process.pid))
            for pid in self._process.descendants()
        )

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the server's log."""
        return server_log.tail(self.log_path, lines)

    def park(self) -> None:
        """Stop every process of the server (SIGSTOP), so that it uses no CPU: an idle scheduler spins."""
        self._signal(signal.SIGSTOP)

    def unpark(self) -> None:
        """Let a parked server go on; its ranks find each other again by themselves."""
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
            raise _died(self._process, self._source_root, when="while it ran")
        living = set(self._process.descendants())
        for process in self._at_start:
            if process.role != ROLE_OTHER and process.pid not in living:
                time.sleep(_POLL_S)  # the server ends itself when a rank dies, and then tells more
                if self._process.poll() is not None:
                    raise _died(self._process, self._source_root, when="while it ran")
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
                running = _requests_running(self._port, timeout_s=max(_POLL_S, deadline - time.monotonic()))
            if running == 0:
                return
            if time.monotonic() > deadline:
                what = "it did not say how many requests run" if running is None else f"{running} requests still run"
                raise UntestableError(
                    f"the server did not drain within {timeout_s:g} s: {what}", log_tail=self.log_tail(_LOG_TAIL_LINES)
                )
            time.sleep(_POLL_S)


class LaunchedServer:
    """A server that was launched, and may still be starting: `wait` for it, and `stop` it whatever happens.

    Several can be launched before the first is waited for.
    """

    def __init__(
        self,
        target: TargetSpec,
        *,
        source_tree: Path,
        python: Path,
        work_dir: Path,
        port: int | None = None,
        model_path: Path | None = None,
        strategy: Strategy = Strategy.AS_COMMITTED,
    ) -> None:
        """Launch the SGLang server of a checkout or an unpacked release; see `start_server` for what is what."""
        self._target = target
        self._python = python
        self._source_root = sglang_launch.find_source_root(source_tree)
        self._source_tree = source_tree.resolve()
        self._work_dir = work_dir.resolve()
        self._report_dir = self._work_dir / "inside"
        self._report_dir.mkdir(parents=True, exist_ok=True)
        self._model = sglang_launch.resolve_model(target, python=python, model_path=model_path, work_dir=self._work_dir)
        if port is not None and not port_is_free(port):
            raise PerfguardError(f"port {port} on {HOST} is taken", hint="name another one, or none for any free port")
        self._fixed_port = port
        self._strategy = strategy
        self._launch()

    def _launch(self) -> None:
        for old in self._report_dir.iterdir():
            old.unlink()
        self._port = self._fixed_port if self._fixed_port is not None else free_port()
        self._command = sglang_launch.server_command(
            self._target, python=self._python, model_path=self._model, port=self._port
        )
        self._begin = time.monotonic()
        self._process = _start_process(
            self._target,
            self._command,
            self._source_root,
            self._work_dir,
            self._report_dir,
            strategy=self._strategy,
        )

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
        check_strategy(self._report_dir, self._strategy)
        return RunningServer(
            process=self._process,
            port=self._port,
            source_root=self._source_root,
            source_tree=self._source_tree,
            report_dir=self._report_dir,
            command=self._command,
            start_s=time.monotonic() - self._begin,
            packages=sglang_launch.installed_packages(self._python, self._source_root),
        )

    def stop(self) -> None:
        """End every process of the server.

        Raises:
            PerfguardError: a process survived SIGKILL.
        """
        _stop(self._process, self._port)

    def _wait_until_healthy(self) -> None:
        _wait_until_healthy(self._process, self._port, self._source_root, self._target.start_timeout_s)


@contextlib.contextmanager
def start_server(
    target: TargetSpec,
    *,
    source_tree: Path,
    python: Path,
    work_dir: Path,
    port: int | None = None,
    model_path: Path | None = None,
    strategy: Strategy = Strategy.AS_COMMITTED,
) -> Iterator[RunningServer]:
    """Start the SGLang server of a checkout or an unpacked release, and end every process of it afterwards.

    `source_tree` is overlaid on the environment of `python`; the log and the record of stand-ins are written to
    `work_dir`. `port` None takes a free one. `model_path` is the generated model (`ensure_tiny_model`) where
    the target names none; without it the model is written to `work_dir`. `strategy` is put into the server's processes;
    what it replaced is among the report's stand-ins.

    Raises:
        UntestableError: no sglang in the tree; the server died while it started, or did not answer in time; the
            strategy does not know the revision's code.
        UsageError: the target asks for what cannot be.
        PerfguardError: the port is taken, or a process survived SIGKILL.
    """
    launched = LaunchedServer(
        target,
        source_tree=source_tree,
        python=python,
        work_dir=work_dir,
        port=port,
        model_path=model_path,
        strategy=strategy,
    )
    try:
        yield launched.wait()
    finally:
        launched.stop()


def _start_process(
    target: TargetSpec,
    command: tuple[str, ...],
    source_root: Path,
    work_dir: Path,
    report_dir: Path,
    *,
    strategy: Strategy,
) -> ManagedProcess:
    # Not below `work_dir`: the server puts sockets there, whose paths must stay under 108 bytes. The server also runs
    # in it, since `python -m` imports from the working directory first.
    temp_dir = Path(tempfile.mkdtemp(prefix="perfguard-"))
    try:
        return ManagedProcess(
            command,
            environment=sglang_launch.server_environment(
                target,
                source_root=source_root,
                temp_dir=temp_dir,
                report_dir=report_dir,
                cores=tuple(sorted(os.sched_getaffinity(0))),
                strategy=strategy,
            ),
            working_dir=temp_dir,
            log_path=work_dir / "server.log",
            remove_dirs=[temp_dir],
            record_dir=report_dir,
            # On SIGINT the server ends at once; on SIGTERM it first sleeps for up to five seconds.
            stop_signal=signal.SIGINT,
        )
    except BaseException:
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise


def _wait_until_healthy(process: ManagedProcess, port: int, source_root: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        if process.poll() is not None:
            raise _died(process, source_root, when="during start")
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise UntestableError(
                f"the server did not answer /health within {timeout_s:g} s",
                log_tail=server_log.tail(process.log_path, _LOG_TAIL_LINES),
            )
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = _get(port, "/health", timeout_s=min(left_s, _HEALTH_REQUEST_LIMIT_S))
            # Another program may have taken the port in the meantime, and answer in the server's place.
            if status == _OK and process.poll() is None and listens(process, port):
                return
        time.sleep(_POLL_S)


def _died(process: ManagedProcess, source_root: Path, *, when: str) -> UntestableError:
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


def _stop(process: ManagedProcess, port: int) -> None:
    report = process.stop(_STOP_GRACE_S)
    if report.leftover:
        pids = ", ".join(str(pid) for pid in report.leftover)
        raise PerfguardError(
            f"processes of the server on port {port} survived SIGKILL: {pids}",
            hint="they hang in the kernel (a driver, a dead file system): reboot before measuring again",
        )


def _requests_running(port: int, *, timeout_s: float) -> int:
    status, body = _get(port, "/get_load", timeout_s=timeout_s)
    if status == _NOT_FOUND:
        # A revision without the endpoint: one more request that comes back has passed through every queue.
        status, _ = _get(port, "/health", timeout_s=timeout_s)
        if status != _OK:
            raise ValueError(f"/health answered {status}")
        return 0
    loads = json.loads(body)
    entries = loads if isinstance(loads, list) else [loads]
    return sum(int(entry["num_reqs"] if "num_reqs" in entry else entry["load"]) for entry in entries)


def _get(port: int, path: str, *, timeout_s: float) -> tuple[int, bytes]:
    """GET from the loopback interface; proxies, which a user may have set, are not asked."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def _role_of(pid: int, *, http_pid: int) -> str:
    if pid == http_pid:
        return ROLE_TOKENIZER
    try:
        title = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ROLE_OTHER
    for pattern, role in _TITLES:
        if found := pattern.match(title):
            return role if role is not None else rank_role(int(found[1]))
    return ROLE_OTHER
