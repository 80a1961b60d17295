"""A run being measured: trials are asked for in order, and those that the store already holds are not run again.

Every decision follows from the scenario, the seed and the trials so far. So a run that was interrupted is continued by
deciding everything anew, with the trials that were kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType

from perfguard.model.errors import MissingTrialError, PerfguardError
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Completed, Trial
from perfguard.search import Duel, DuelResult, Outcome, Search, Side
from perfguard.workflows.metrics import samples_of, tell_outcome
from perfguard.workflows.servers import Servers
from perfguard.workflows.trial import Bench


class Session:
    """Runs trials in blocks, or takes them from the store; hold it with `with`, so that no server is left."""

    def __init__(self, bench: Bench) -> None:
        """Begin with the trials that the store already holds."""
        self.bench = bench
        self._kept = list(bench.store.trials())
        self._trials: list[Trial] = []
        self._block = 0
        self._servers = Servers(bench)
        self._wanted: tuple[Revision, ...] = ()
        self._strategy = Strategy.AS_COMMITTED
        self._stale = True

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials of this run so far, in order."""
        return tuple(self._trials)

    @property
    def wall_s(self) -> float:
        """What the trials cost, those that were kept included."""
        return sum(trial.wall_s for trial in self._trials)

    def begin_block(
        self,
        revisions: Sequence[Revision],
        *,
        fresh: bool,
        strategy: Strategy = Strategy.AS_COMMITTED,
        join: bool = False,
    ) -> None:
        """Start a new block, in which trials of `revisions` are compared with each other; `strategy` is put into all.

        They run on servers of their own that stay up together: on those of the block before if it had the same
        revisions and `fresh` is False, else on new ones. Nothing is started before the first trial.
        With `join` they belong to the block that is there, and are compared with its trials; its servers stop.
        """
        self._block += not join
        self._stale = self._stale or fresh or (tuple(revisions), strategy) != (self._wanted, self._strategy)
        self._wanted, self._strategy = tuple(revisions), strategy

    def trial(self, revision: Revision, *, may_profile: bool = True) -> Trial:
        """Return the next trial, of `revision`, one of the block's; with its stacks if they are still wanted.

        Raises:
            PerfguardError: the store holds another trial at this place.
            MissingTrialError: the run is only judged again, and this trial is not kept.
        """
        number = len(self._trials) + 1
        if number <= len(self._kept):
            trial = self._kept[number - 1]
            wanted = (revision.commit, self._block, self._strategy.value)
            if (trial.revision, trial.block, trial.strategy) != wanted:
                raise PerfguardError(
                    f"trial {number} in {self.bench.store.run_dir} is of {trial.revision[:12]}, not {revision.label}",
                    hint="the run was made by another version of perfguard or the scenario: start anew",
                )
        else:
            if self.bench.replay:
                raise MissingTrialError(number)
            if self._stale:
                first_start = 1 + max((trial.start for trial in self._trials), default=0)
                self._servers.restart(self._wanted, first_start=first_start, strategy=self._strategy)
                self._stale = False
            trial = self._servers.run(
                revision,
                number=number,
                block=self._block,
                profile=may_profile and self._wants_profile(revision),
            )
            label = self._strategy.labelled(revision.label)
            told = f"{tell_outcome(trial, self.bench.scenario.metric)} ({trial.wall_s:.0f} s)"
            self.bench.progress.say(f"trial {number}, block {self._block}: {label}: {told}")
        self._trials.append(trial)
        return trial

    def duel(self, duel: Duel, pair: tuple[Revision, Revision], value: Callable[[Trial], float]) -> DuelResult:
        """Fight a duel of baseline and candidate to its end; `value` is the log of a metric where larger is worse."""
        revisions = dict(zip((Side.BASELINE, Side.CANDIDATE), pair, strict=True))
        while (round_ := duel.next_round()) is not None:
            self.begin_block(pair, fresh=round_.fresh)
            for side in round_.order:
                trial = self.trial(revisions[side])
                testable = isinstance(trial.outcome, Completed)
                duel.record(side, trial.start, value(trial) if testable else Outcome.UNTESTABLE)
                if not testable:
                    break
        return duel.result()

    def search(self, search: Search, revisions: tuple[Revision, ...], value: Callable[[Trial], float]) -> None:
        """Run a search to its end, every trial on a server of its own.

        `value` turns a completed trial into the log of a metric where larger is worse; NaN is untestable, too.
        """
        while (block := search.next_block()) is not None:
            self.begin_block([revisions[index] for index in dict.fromkeys(block)], fresh=True)
            for index in block:
                trial = self.trial(revisions[index])
                measured = value(trial) if isinstance(trial.outcome, Completed) else math.nan
                search.record(index, Outcome.UNTESTABLE if math.isnan(measured) else measured)

    def _wants_profile(self, revision: Revision) -> bool:
        profiling = self.bench.scenario.profiling
        starts = [
            trial.start
            for trial in self._trials
            if (trial.revision, trial.strategy) == (revision.commit, self._strategy.value)
            and (samples := samples_of(trial)) is not None
            and samples.profiles
        ]
        return (
            profiling.enabled
            and len(starts) < profiling.trials_per_revision
            and starts.count(self._servers.start_of(revision)) < math.ceil(profiling.trials_per_revision / 2)
        )
