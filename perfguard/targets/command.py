"""Run any server that a command starts: a revision's tree, an interpreter, a port and a path that tells it is ready."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import psutil

from perfguard.model.errors import UntestableError, UsageError
from perfguard.model.scenario import CommandSpec, Strategy, TargetSpec
from perfguard.model.trial import ROLE_OTHER, ROLE_SERVER, ServerReport, worker_role
from perfguard.targets.processes import ManagedProcess
from perfguard.targets.running import OK, SITE, LaunchedServer, RunningServer, get, user_environment

_PYTHON = re.compile(r"python[\d.]*t?|pypy[\d.]*")
# What `multiprocessing` runs for its own sake; it does nothing for requests.
_HELPERS = re.compile(r"multiprocessing\.resource_tracker")


class RunningCommand(RunningServer):
    """A server that answered a GET of its health path."""

    def __init__(
        self,
        *,
        process: ManagedProcess,
        port: int,
        source_root: Path,
        command: tuple[str, ...],
        health_path: str,
        start_s: float,
    ) -> None:
        self._workers: dict[int, str] = {}
        super().__init__(process=process, port=port, source_root=source_root)
        self._command = command
        self._health_path = health_path
        self._start_s = start_s

    @property
    def report(self) -> ServerReport:
        """How the server was started; nothing stands in for anything, and what it loaded is not known."""
        return ServerReport(command=self._command, start_s=self._start_s, stand_ins=(), packages=())

    def _role_of(self, pid: int) -> str:
        """Name the process that was started `server`, those below it `worker-1` and so on in order of start.

        Only Python processes have a role: of others nothing can be sampled.
        """
        if not _is_python(pid):
            return ROLE_OTHER
        if pid == self._process.pid:
            return ROLE_SERVER
        if pid not in self._workers:
            # A worker keeps its number for as long as the server runs, also where one before it has ended.
            for new in sorted(set(self._process.descendants()) - {self._process.pid, *self._workers}, key=_started):
                if _is_python(new):
                    self._workers[new] = worker_role(len(self._workers) + 1)
        return self._workers.get(pid, ROLE_OTHER)

    def _requests_running(self, timeout_s: float) -> int:
        # The load's clients wait for their answers; one more request that comes back tells that the server is free.
        status, _ = get(self._port, self._health_path, timeout_s=timeout_s)
        if status != OK:
            raise ValueError(f"{self._health_path} answered {status}")
        return 0


class LaunchedCommand(LaunchedServer):
    """A command that was launched: `wait` until it serves, and `stop` it whatever happens."""

    def __init__(
        self,
        target: TargetSpec,
        *,
        source_tree: Path,
        python: Path,
        work_dir: Path,
        port: int | None = None,
        strategy: Strategy = Strategy.AS_COMMITTED,
    ) -> None:
        """Launch the target's command in `source_tree`; the log is written to `work_dir`, `port` None takes a free one.

        Raises:
            UntestableError: the tree has no such source root.
            UsageError: the target has no command; a strategy, which is for SGLang's servers only.
            PerfguardError: the port is taken, or the command cannot be started.
        """
        if target.command is None:
            raise UsageError("a target of kind command needs a [target.command]")
        if strategy is not Strategy.AS_COMMITTED:
            raise UsageError(f"strategy {strategy.value} can only be put into SGLang's servers, not into a command")
        self._spec = target.command
        self._extra = dict(target.extra_environment)
        self._extra_args = target.extra_args
        self._python = python
        self._tree = source_tree.resolve()
        self._work_dir = work_dir.resolve()
        self._report_dir = self._work_dir / "inside"
        self._report_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(
            port=port,
            source_root=find_source_root(self._spec, self._tree),
            start_timeout_s=target.start_timeout_s,
            health_path=self._spec.health_path,
        )

    def _start(self, port: int) -> ManagedProcess:
        for old in self._report_dir.iterdir():
            old.unlink()
        line = command_line(self._spec, python=self._python, port=port, tree=self._tree)
        self._command = (*line, *self._extra_args)
        temp_dir = Path(tempfile.mkdtemp(prefix="perfguard-"))
        try:
            return ManagedProcess(
                self._command,
                environment=user_environment()
                | command_environment(self._source_root, temp_dir=temp_dir, report_dir=self._report_dir)
                | self._extra,
                working_dir=self._tree,
                log_path=self._work_dir / "server.log",
                remove_dirs=[temp_dir],
                record_dir=self._report_dir,
            )
        except BaseException:
            shutil.rmtree(temp_dir, ignore_errors=True)
            raise

    def _running(self, process: ManagedProcess, port: int, start_s: float) -> RunningServer:
        return RunningCommand(
            process=process,
            port=port,
            source_root=self._source_root,
            command=self._command,
            health_path=self._spec.health_path,
            start_s=start_s,
        )


def find_source_root(spec: CommandSpec, source_tree: Path) -> Path:
    """Return the directory of a revision's tree that goes on the import path.

    Raises:
        UntestableError: the revision does not have it.
    """
    root = source_tree / spec.source_root
    if not root.is_dir():
        raise UntestableError(f"no folder {spec.source_root} in {source_tree}")
    return root.resolve()


def command_line(spec: CommandSpec, *, python: Path, port: int, tree: Path) -> tuple[str, ...]:
    """Fill in what differs between two starts; other braces (of JSON, say) stay as they are."""
    values = {"{python}": str(python), "{port}": str(port), "{tree}": str(tree)}
    return tuple(
        re.sub(r"\{(?:python|port|tree)\}", lambda found: values[found[0]], argument) for argument in spec.line
    )


def command_environment(source_root: Path, *, temp_dir: Path, report_dir: Path) -> dict[str, str]:
    """Return what perfguard adds to the user's environment for a server that is not SGLang's."""
    return {
        # The hook lets the profiler read the server's processes and notes the shared memory they create.
        "PYTHONPATH": os.pathsep.join((str(SITE), str(source_root))),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temp_dir),
        "PERFGUARD_REPORT_DIR": str(report_dir),
        "PERFGUARD_SERVER": "any",
    }


def _is_python(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return (
            _PYTHON.fullmatch(Path(process.exe()).name) is not None
            and _HELPERS.search(" ".join(process.cmdline())) is None
        )
    except psutil.Error:
        return False


def _started(pid: int) -> tuple[float, int]:
    try:
        return psutil.Process(pid).create_time(), pid
    except psutil.Error:
        return 0.0, pid
