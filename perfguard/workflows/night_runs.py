"""The measurements of a night: each a run in a folder of its own below `runs/`, with its report.

What a night begins is written down before, so that the next night goes on where this one was cut short, be it by its
budget or by a kill.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from perfguard.model.errors import InterruptedRunError, OutOfTimeError, PerfguardError
from perfguard.model.night import NIGHT_SCHEMA_VERSION, BegunRun, PendingSearch, Stage
from perfguard.model.progress import Progress
from perfguard.model.result import BisectResult, CompareResult, Direction
from perfguard.model.revision import Revision
from perfguard.report.index_entry import write_entry
from perfguard.report.render import write_report
from perfguard.store.nights import RUNS, NightStore
from perfguard.store.runs import is_resumable
from perfguard.workflows.bisect import bisect
from perfguard.workflows.compare import compare
from perfguard.workflows.replay import keep_result
from perfguard.workflows.setup import RunRequest

_REPORT = "report.html"
# What measures the same again must not repeat the order of its trials.
_SEED_OF_ATTEMPT = 10_000

ResultT = TypeVar("ResultT", CompareResult, BisectResult)


@dataclass(frozen=True, slots=True, kw_only=True)
class NightlyRequest:
    """What a night is asked: `run` is what its measurements have in common, `options` repeat them on a command line.

    `budget_s` is how long it may take, None for as long as it needs.
    """

    run: RunRequest
    repo: str
    branch: str
    state: Path
    options: tuple[str, ...]
    budget_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NightContext:
    """Which night measures: its id, the key of its machine, and when it has to end (of `time.monotonic()`)."""

    night: str
    machine: str
    until: float | None


class NightRuns:
    """Measures for one night. `trials` counts what it cost, `report` is the newest report, `notes` are remarks."""

    def __init__(
        self,
        request: NightlyRequest,
        store: NightStore,
        begun: tuple[BegunRun, ...],
        context: NightContext,
        progress: Progress,
    ) -> None:
        """Begin; `begun` is what the nights before left."""
        self._request = request
        self._store = store
        series = (request.branch, request.run.scenario.name)
        self._left = tuple(each for each in begun if (each.branch, each.scenario) == series)
        self._context = context
        self._progress = progress
        self._own: list[BegunRun] = []
        self._cut_short: BegunRun | None = None
        self.trials = 0
        self.report: Path | None = None
        self.notes: list[str] = []

    @property
    def left_search(self) -> PendingSearch | None:
        """The search that a night was in when it was killed."""
        for each in reversed(self._left):
            if each.stage is Stage.SEARCH and each.direction and is_resumable(self._request.state / each.run_dir):
                return PendingSearch(good=each.low, bad=each.high, direction=each.direction, run_dir=each.run_dir)
        return None

    def compare(self, stage: Stage, attempt: int, baseline: Revision, head: Revision) -> CompareResult:
        """Measure two revisions beside each other.

        Raises:
            OutOfTimeError: the budget ended; the next night goes on, if both are the same.
        """
        return self._run(
            self._begin(stage, attempt, baseline, head),
            lambda run: compare(run, baseline.commit, head.commit, self._progress),
        )

    def bisect(self, base: Revision, head: Revision, direction: Direction) -> BisectResult:
        """Search for the commit that changed the speed.

        Raises:
            OutOfTimeError: the budget ended; see `pending`.
        """
        return self._run(
            self._begin(Stage.SEARCH, 1, base, head, direction),
            lambda run: bisect(run, base.commit, head.commit, direction, self._progress),
        )

    @property
    def pending(self) -> PendingSearch | None:
        """The search that the budget cut short, None where none was."""
        cut = self._cut_short
        if cut is None or cut.stage is not Stage.SEARCH or cut.direction is None:
            return None
        return PendingSearch(good=cut.low, bad=cut.high, direction=cut.direction, run_dir=cut.run_dir)

    def close(self, *, is_judged: bool) -> None:
        """Forget what was begun and needs no going on with; the leavings of other nights too if the head `is_judged`.

        Raises:
            PerfguardError: the state folder cannot be written.
        """
        for each in self._own:
            if each is not self._cut_short:
                self._store.remove_begun(each)
        for each in self._left:
            run_dir = self._request.state / each.run_dir
            # A run that cannot be resumed but is there is another night's that goes on right now.
            if is_judged and (is_resumable(run_dir) or not run_dir.is_dir()):
                self._store.remove_begun(each)

    def _begin(
        self, stage: Stage, attempt: int, low: Revision, high: Revision, direction: Direction | None = None
    ) -> tuple[BegunRun, bool]:
        """Write down what begins; also gives whether it goes on with what an earlier night left on this machine."""
        wanted = (stage, attempt, low.commit, high.commit, direction, self._context.machine)
        left = next(
            (
                each
                for each in reversed(self._left)
                if (each.stage, each.attempt, each.low, each.high, each.direction, each.machine) == wanted
                and is_resumable(self._request.state / each.run_dir)
            ),
            None,
        )
        count = 1 + sum(1 for each in self._own if each.stage is stage)
        name = f"{self._context.night}-{stage.value}" + (f"-{count}" if count > 1 else "")
        begun = BegunRun(
            id=name,
            schema_version=NIGHT_SCHEMA_VERSION,
            night=self._context.night,
            branch=self._request.branch,
            scenario=self._request.run.scenario.name,
            machine=self._context.machine,
            stage=stage,
            attempt=attempt,
            low=low.commit,
            high=high.commit,
            run_dir=left.run_dir if left else f"{RUNS}/{name}",
            direction=direction,
        )
        self._store.add_begun(begun)
        self._own.append(begun)
        if left:
            self.notes.append(f"went on with what night {left.night} began ({stage.value})")
        return begun, left is not None

    def _run(self, what: tuple[BegunRun, bool], measure: Callable[[RunRequest], ResultT]) -> ResultT:
        begun, is_resumed = what
        try:
            result = measure(self._asked(begun, resume=is_resumed))
        except InterruptedRunError:
            raise
        except OutOfTimeError:
            self._cut_short = begun
            raise
        except PerfguardError as error:
            if not is_resumed:
                raise
            # The scenario or perfguard changed since, or the run is damaged.
            self.notes.append(
                f"what an earlier night began could not be continued, so it was begun anew: {error.message}"
            )
            anew = replace(begun, run_dir=f"{RUNS}/{begun.id}")
            self._store.add_begun(anew)
            self._own[-1] = anew
            return self._run((anew, False), measure)
        self._keep(result, self._request.state / begun.run_dir)
        return result

    def _asked(self, begun: BegunRun, *, resume: bool) -> RunRequest:
        verb = "bisect" if begun.direction else "compare"
        words = ("perfguard", verb, begun.low, begun.high, *self._request.options)
        run = self._request.run
        return replace(
            run,
            command=shlex.join(words if begun.direction is None else (*words, "--find", begun.direction.value)),
            run_dir=self._request.state / begun.run_dir,
            refs=(begun.low, begun.high),
            seed=run.seed + _SEED_OF_ATTEMPT * (begun.attempt - 1),
            resume=resume,
            until=self._context.until,
        )

    def _keep(self, result: CompareResult | BisectResult, run_dir: Path) -> None:
        self.trials += len(result.trials)
        report = run_dir / _REPORT
        keep_result(result, run_dir)
        write_report(result, report)
        write_entry(result, report)
        self.report = report
