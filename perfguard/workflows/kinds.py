"""The kinds of target: which server is launched, and where the code that it runs lies."""

from __future__ import annotations

from pathlib import Path

from perfguard.model.scenario import Strategy, TargetSpec
from perfguard.targets import command, sglang_launch
from perfguard.targets.running import LaunchedServer
from perfguard.targets.sglang_server import LaunchedSglang
from perfguard.workflows.trial import Bench


def launch(bench: Bench, *, source_tree: Path, work_dir: Path, port: int | None, strategy: Strategy) -> LaunchedServer:
    """Launch the scenario's server from a revision's tree; `port` None takes a free one.

    Raises:
        UntestableError: the tree holds no such server.
        UsageError: the target asks for what cannot be.
        PerfguardError: the port is taken, or the server cannot be started.
    """
    target, python = bench.scenario.target, bench.environment.python
    if target.command is not None:
        return command.LaunchedCommand(
            target, source_tree=source_tree, python=python, work_dir=work_dir, port=port, strategy=strategy
        )
    return LaunchedSglang(
        target,
        source_tree=source_tree,
        python=python,
        work_dir=work_dir,
        model_path=bench.model_path,
        port=port,
        strategy=strategy,
    )


def find_source_root(target: TargetSpec, source_tree: Path) -> Path:
    """Return the directory of a revision's tree that goes on the import path.

    Raises:
        UntestableError: it is not there.
    """
    if target.command is not None:
        return command.find_source_root(target.command, source_tree)
    return sglang_launch.find_source_root(source_tree)
