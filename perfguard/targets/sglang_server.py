"""Run the real SGLang server of a revision: how it is launched, what its processes are, when it is idle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from perfguard.model.scenario import Strategy
from perfguard.model.trial import ROLE_DETOKENIZER, ROLE_OTHER, ROLE_TOKENIZER, ServerReport, rank_role
from perfguard.targets import sglang_launch
from perfguard.targets.processes import ManagedProcess
from perfguard.targets.running import OK, LaunchedServer, RunningServer, get
from perfguard.targets.server_records import check_strategy, read_loaded_files, read_stand_ins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perfguard.model.scenario import TargetSpec

_HEALTH_PATH = "/health"
_NOT_FOUND = 404
_TITLES = (
    # Titles that the server's processes give themselves: `sglang::scheduler_DP0_TP1`; TP 1 is `sglang::scheduler`.
    (re.compile(r"sglang::scheduler\S*_TP(\d+)"), None),
    (re.compile(r"sglang::scheduler"), rank_role(0)),
    (re.compile(r"sglang::detokenizer"), ROLE_DETOKENIZER),
    (re.compile(r"sglang::tokenizer_worker"), ROLE_TOKENIZER),
)


class RunningSglang(RunningServer):
    """An SGLang server that answered its health check."""

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
        super().__init__(process=process, port=port, source_root=source_root)
        self._source_tree = source_tree
        self._report_dir = report_dir
        self._command = command
        self._start_s = start_s
        self._packages = packages

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

    def _role_of(self, pid: int) -> str:
        if pid == self._process.pid:
            return ROLE_TOKENIZER
        try:
            title = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            return ROLE_OTHER
        for pattern, role in _TITLES:
            if found := pattern.match(title):
                return role if role is not None else rank_role(int(found[1]))
        return ROLE_OTHER

    def _requests_running(self, timeout_s: float) -> int:
        status, body = get(self._port, "/get_load", timeout_s=timeout_s)
        if status == _NOT_FOUND:
            # A revision without the endpoint: one more request that comes back has passed through every queue.
            status, _ = get(self._port, _HEALTH_PATH, timeout_s=timeout_s)
            if status != OK:
                raise ValueError(f"{_HEALTH_PATH} answered {status}")
            return 0
        loads = json.loads(body)
        entries = loads if isinstance(loads, list) else [loads]
        return sum(int(entry["num_reqs"] if "num_reqs" in entry else entry["load"]) for entry in entries)


class LaunchedSglang(LaunchedServer):
    """An SGLang server that was launched: `wait` for it, and `stop` it whatever happens."""

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
        self._source_tree = source_tree.resolve()
        self._work_dir = work_dir.resolve()
        self._report_dir = self._work_dir / "inside"
        self._strategy = strategy
        source_root = sglang_launch.find_source_root(source_tree)
        sglang_launch.check_environment(target, python)
        self._report_dir.mkdir(parents=True, exist_ok=True)
        self._model = sglang_launch.resolve_model(target, python=python, model_path=model_path, work_dir=self._work_dir)
        super().__init__(
            port=port, source_root=source_root, start_timeout_s=target.start_timeout_s, health_path=_HEALTH_PATH
        )

    def _start(self, port: int) -> ManagedProcess:
        for old in self._report_dir.iterdir():
            old.unlink()
        self._command = sglang_launch.server_command(
            self._target, python=self._python, model_path=self._model, port=port
        )
        # Not below `work_dir`: the server puts sockets there, whose paths must stay under 108 bytes. The server also
        # runs in it, since `python -m` imports from the working directory first.
        temp_dir = Path(tempfile.mkdtemp(prefix="perfguard-"))
        try:
            return ManagedProcess(
                self._command,
                environment=sglang_launch.server_environment(
                    self._target,
                    source_root=self._source_root,
                    temp_dir=temp_dir,
                    report_dir=self._report_dir,
                    cores=tuple(sorted(os.sched_getaffinity(0))),
                    strategy=self._strategy,
                ),
                working_dir=temp_dir,
                log_path=self._work_dir / "server.log",
                remove_dirs=[temp_dir],
                record_dir=self._report_dir,
                # On SIGINT the server ends at once; on SIGTERM it first sleeps for up to five seconds.
                stop_signal=signal.SIGINT,
            )
        except BaseException:
            shutil.rmtree(temp_dir, ignore_errors=True)
            raise

    def _running(self, process: ManagedProcess, port: int, start_s: float) -> RunningServer:
        check_strategy(self._report_dir, self._strategy)
        return RunningSglang(
            process=process,
            port=port,
            source_root=self._source_root,
            source_tree=self._source_tree,
            report_dir=self._report_dir,
            command=self._command,
            start_s=start_s,
            packages=sglang_launch.installed_packages(self._python, self._source_root),
        )


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
    launched = LaunchedSglang(
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
