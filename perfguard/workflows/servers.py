"""The servers that trials run on: launched together, parked between their trials, and gone when they are not needed.

One that fails is stopped at once: left alone it would spin beside the others' trials.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from perfguard.model.errors import UntestableError
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Completed, Samples, Trial, TrialOutcome, Untestable
from perfguard.targets.running import LaunchedServer, RunningServer
from perfguard.workflows.kinds import launch
from perfguard.workflows.trial import Bench, run_trial


@dataclass(slots=True, kw_only=True)
class _Stall:
    """One start of a server: `running` while it can be measured, else `failure` says why it cannot."""

    start: int
    work_dir: Path
    launched: LaunchedServer | None = None
    running: RunningServer | None = None
    failure: UntestableError | None = None
    trials: int = 0
    unpaid_wall_s: float = 0.0


class Servers:
    """A running server for each of a few revisions; whoever makes it closes it, so that none is left."""

    def __init__(self, bench: Bench) -> None:
        """Begin without a server."""
        self._bench = bench
        self._stalls: dict[str, _Stall] = {}
        self._strategy = Strategy.AS_COMMITTED

    def start_of(self, revision: Revision) -> int:
        """Return the number of the server start that trials of `revision` run on."""
        return self._stalls[revision.commit].start

    def restart(self, revisions: Sequence[Revision], *, first_start: int, strategy: Strategy) -> None:
        """Stop all servers and start one for each of `revisions`, all at once; starts are numbered from `first_start`.

        `strategy` is put into all of them.

        Where one does not start, its trial tells.
        """
        self.close()
        self._strategy = strategy
        clock = time.monotonic()
        labels = " and ".join(strategy.labelled(revision.label) for revision in revisions)
        self._bench.progress.step(f"starting {labels}")
        for offset, revision in enumerate(revisions):
            self._launch(revision, first_start + offset, port_offset=offset)
        for stall in self._stalls.values():
            self._wait(stall)
        for stall in self._stalls.values():
            stall.unpaid_wall_s = (time.monotonic() - clock) / len(revisions)

    def run(self, revision: Revision, *, number: int, block: int, profile: bool) -> Trial:
        """Run one trial on the server of `revision`, and keep it in the store; the other servers stay parked.

        A server that did not start, failed or did not drain, and a load generator that could not keep up, end as
        `Untestable`; what is wrong with perfguard itself or the machine is raised.
        """
        stall = self._stalls[revision.commit]
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        clock = time.monotonic()
        self._bench.progress.step(f"trial {number}: measuring {revision.label}{', with its stacks' if profile else ''}")
        outcome: TrialOutcome
        try:
            outcome = Completed(samples=self._measure(stall, profile=profile))
        except UntestableError as error:
            _give_up(stall, error)
            outcome = Untestable(reason=error.reason, log=error.log_tail)
        trial = Trial(
            number=number,
            block=block,
            start=stall.start,
            revision=revision.commit,
            strategy=self._strategy.value,
            started_at=started_at,
            wall_s=time.monotonic() - clock + stall.unpaid_wall_s,
            outcome=outcome,
        )
        stall.unpaid_wall_s = 0.0
        self._bench.store.add_trial(trial)
        return trial

    def close(self) -> None:
        """Stop every server; all are stopped even where one cannot be."""
        stalls, self._stalls = self._stalls, {}
        with contextlib.ExitStack() as stack:
            for stall in stalls.values():
                stack.callback(shutil.rmtree, stall.work_dir, ignore_errors=True)
                if stall.launched is not None:
                    stack.callback(stall.launched.stop)

    def _launch(self, revision: Revision, start: int, *, port_offset: int) -> None:
        bench = self._bench
        work_dir = bench.store.run_dir / "work" / f"start-{start}"
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True)
        stall = self._stalls[revision.commit] = _Stall(start=start, work_dir=work_dir)
        try:
            stall.launched = launch(
                bench,
                source_tree=bench.repository.worktree(revision),
                work_dir=work_dir,
                port=None if bench.port is None else bench.port + port_offset,
                strategy=self._strategy,
            )
        except UntestableError as error:
            stall.failure = error

    def _wait(self, stall: _Stall) -> None:
        if stall.launched is None:
            return
        try:
            stall.running = stall.launched.wait()
            stall.running.park()
        except UntestableError as error:
            _give_up(stall, error)

    def _measure(self, stall: _Stall, *, profile: bool) -> Samples:
        if stall.failure is not None:
            raise stall.failure
        if stall.running is None:
            raise RuntimeError("a server was neither started nor found wanting")
        stall.running.unpark()
        samples = run_trial(self._bench, stall.running, stall.work_dir, first=stall.trials == 0, profile=profile)
        stall.running.park()
        stall.trials += 1
        return samples


def _give_up(stall: _Stall, error: UntestableError) -> None:
    stall.failure = error
    if stall.launched is not None:
        stall.launched.stop()
