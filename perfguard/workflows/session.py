"""A run being measured: trials are asked for in order, and those that the store already holds are not run again.

Every decision follows from the scenario, the seed and the trials so far. So a run that was interrupted is continued by
deciding everything anew, with the trials that were kept.
"""

from __future__ import annotations

from collections.abc import Callable

from perfguard.model.errors import PerfguardError
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Completed, Trial, Untestable
from perfguard.search import Outcome, Search
from perfguard.workflows.metrics import samples_of, user_value
from perfguard.workflows.trial import Bench, run_trial


class Session:
    """Runs trials in blocks, or takes them from the store."""

    def __init__(self, bench: Bench) -> None:
        """Begin with the trials that the store already holds."""
        self.bench = bench
        self._kept = list(bench.store.trials())
        self._trials: list[Trial] = []
        self._block = 0

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials of this run so far, in order."""
        return tuple(self._trials)

    @property
    def wall_s(self) -> float:
        """What the trials cost, those that were kept included."""
        return sum(trial.wall_s for trial in self._trials)

    def begin_block(self) -> None:
        """Start a new block: trials are compared with each other inside it."""
        self._block += 1

    def trial(self, revision: Revision) -> Trial:
        """Return the next trial, of `revision`.

        Raises:
            PerfguardError: the store holds another trial at this place.
        """
        number = len(self._trials) + 1
        if number <= len(self._kept):
            trial = self._kept[number - 1]
            if trial.revision != revision.commit or trial.block != self._block:
                raise PerfguardError(
                    f"trial {number} in {self.bench.store.run_dir} is of {trial.revision[:12]}, not {revision.label}",
                    hint="the run was made by another version of perfguard or the scenario: start anew",
                )
        else:
            trial = run_trial(
                self.bench,
                revision,
                number=number,
                block=self._block,
                strategy=Strategy.AS_COMMITTED,
                profile=self._wants_profile(revision),
            )
            self.bench.progress.say(f"trial {number}, block {self._block}: {revision.label}: {self._tell(trial)}")
        self._trials.append(trial)
        return trial

    def drive(self, search: Search, revisions: tuple[Revision, ...], value: Callable[[Trial], float]) -> None:
        """Run a search to its end; `value` turns a completed trial into the log of a metric where larger is worse."""
        while (block := search.next_block()) is not None:
            self.begin_block()
            for index in block:
                trial = self.trial(revisions[index])
                search.record(index, value(trial) if isinstance(trial.outcome, Completed) else Outcome.UNTESTABLE)

    def _wants_profile(self, revision: Revision) -> bool:
        profiling = self.bench.scenario.profiling
        profiled = sum(
            1
            for trial in self._trials
            if trial.revision == revision.commit and (samples := samples_of(trial)) is not None and samples.profiles
        )
        return profiling.enabled and profiled < profiling.trials_per_revision

    def _tell(self, trial: Trial) -> str:
        outcome = trial.outcome
        if isinstance(outcome, Untestable):
            return f"untestable: {outcome.reason}"
        metric = self.bench.scenario.metric
        return f"{user_value(outcome.samples.load, metric):.4g} {metric.value} ({trial.wall_s:.0f} s)"
