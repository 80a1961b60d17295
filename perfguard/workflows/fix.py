"""What gives the lost performance back: the culprit's revert, and strategies, beside GOOD and BAD in the same blocks.

It follows a bisect and changes nothing that the bisect concluded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from perfguard.model.errors import PerfguardError
from perfguard.model.fix import FixArm, FixMode, FixResult, FixVerdict, Recovery, RevertConflict
from perfguard.model.result import BisectResult, BisectVerdict, Direction
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Completed, Trial, Untestable
from perfguard.report.document import write_bytes
from perfguard.revisions.bundles import Bundle
from perfguard.stats.recovery import Recovered, recoveries
from perfguard.workflows.judge import is_of, run_info
from perfguard.workflows.metrics import log_worse, samples_of, user_value
from perfguard.workflows.rounds import Arm, run_blocks
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest

PATCH = "fix.patch"
# Server starts differ by several percent, which only more of them settles; more arms tell more of how much.
ROUNDS = {FixMode.NONE: 0, FixMode.REVERT: 5, FixMode.ALL: 4}
# Half of the loss: what gives back less is no fix.
ENOUGH_FRAC = 0.5
STRATEGIES = (Strategy.LOCAL, Strategy.CONDITIONAL, Strategy.TENSOR_BROADCAST, Strategy.SHARED_MEMORY)
_MOST_NAMED = 3
# GOOD and BAD, which come first among the arms.
_ENDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reverted:
    """What the revert came to: a revision to measure, or why there is none."""

    revision: Revision | None = None
    conflicts: tuple[RevertConflict, ...] = ()
    patch: str = ""
    note: str = ""


def with_fix(result: BisectResult, request: RunRequest, session: Session, mode: FixMode, rounds: int) -> BisectResult:
    """Measure what `mode` asks for in `rounds` blocks and add it to `result`, which stays as it is otherwise.

    Raises:
        MissingTrialError: the run is only judged again, and a trial of this is not kept.
        PerfguardError: the revert cannot be made, or the patch cannot be written.
    """
    if mode is FixMode.NONE:
        return result
    fix = _try(result, request, session, mode, rounds)
    return replace(result, fix=fix, run=run_info(request, session), trials=session.trials)


def _try(result: BisectResult, request: RunRequest, session: Session, mode: FixMode, rounds: int) -> FixResult:
    if (reason := _why_not(result)) or result.culprit is None:
        return _untried(mode, f"Nothing was tried to give it back: {reason}.")
    reverted = _revert(result.culprit.revision, result.bad, request, session)
    notes = [reverted.note] if reverted.note else []
    tried: list[Arm] = [(reverted.revision, Strategy.AS_COMMITTED)] if reverted.revision is not None else []
    if mode is FixMode.ALL and not request.scenario.load.carries_media:
        notes.append("No strategy was tried: they share images, and the scenario's requests carry none.")
    elif mode is FixMode.ALL:
        tried += [(result.bad, strategy) for strategy in STRATEGIES]
    ends = ((result.good, Strategy.AS_COMMITTED), (result.bad, Strategy.AS_COMMITTED))
    first = len(session.trials) + 1
    if tried:
        _measure(session, (*ends, *tried), rounds, request)
    trials = session.trials[first - 1 :]
    arms = _judged((*ends, *tried), trials, request) if tried else ()
    return FixResult(
        mode=mode,
        sentence=_sentence(result, reverted, arms),
        notes=tuple(notes),
        reverted=reverted.revision,
        conflicts=reverted.conflicts,
        patch=reverted.patch,
        arms=arms,
        first_trial=first if trials else None,
    )


def _why_not(result: BisectResult) -> str:
    if result.verdict is not BisectVerdict.CULPRIT:
        return "there is no culprit"
    if result.direction is not Direction.REGRESSION:
        return "an improvement needs no fix"
    return ""


def _untried(mode: FixMode, sentence: str) -> FixResult:
    return FixResult(
        mode=mode, sentence=sentence, notes=(), reverted=None, conflicts=(), patch="", arms=(), first_trial=None
    )


def _revert(culprit: Revision, bad: Revision, request: RunRequest, session: Session) -> _Reverted:
    """Revert the culprit on BAD, and keep the patch in the run's folder."""
    repository = session.bench.repository
    if isinstance(repository, Bundle):
        return _Reverted(note="A bundle holds no history to revert in.")
    try:
        done, revision = repository.revert(culprit, on=bad)
    except PerfguardError as error:
        if request.replay:
            raise  # it could be made when it was measured: what was concluded then is told instead
        return _Reverted(note=f"The revert of {culprit.label} could not be made: {error.message}.")
    if done.conflicts:
        return _Reverted(conflicts=done.conflicts)
    if revision is None:
        return _Reverted(note=f"Nothing of {culprit.label} is left in {bad.label} to revert.")
    if not request.replay:
        write_bytes(done.patch, request.run_dir / PATCH)
    return _Reverted(revision=revision, patch=PATCH)


def _measure(session: Session, arms: Sequence[Arm], rounds: int, request: RunRequest) -> None:
    """Run every arm once a round, in random order, one server at a time; all of a round is one block."""
    bench = session.bench
    if not bench.replay:
        count = len(arms) * rounds
        minutes = count * _start_wall_s(session.trials) / 60.0
        bench.progress.say(
            f"what gives it back: {len(arms)} arms, {rounds} rounds: {count} trials, each on a server of its own; "
            f"about {max(1, round(minutes))} min"
        )
    run_blocks(session, arms, rounds, seed=request.seed, may_profile=False)


def _start_wall_s(trials: Sequence[Trial]) -> float:
    """Return what a trial on a new server cost on average, its start included."""
    first: dict[int, float] = {}
    for trial in trials:
        first.setdefault(trial.start, trial.wall_s)
    return fmean(first.values())


def _judged(arms: Sequence[Arm], trials: Sequence[Trial], request: RunRequest) -> tuple[FixArm, ...]:
    """Judge every arm on all rounds together; the first two are GOOD and BAD."""
    blocks = sorted({trial.block for trial in trials})
    value = log_worse(request.scenario.metric)
    values = np.full((len(blocks), len(arms)), np.nan)
    own = [[trial for trial in trials if is_of(trial, *arm)] for arm in arms]
    for column, of_arm in enumerate(own):
        for trial in of_arm:
            if isinstance(trial.outcome, Completed):
                values[blocks.index(trial.block), column] = value(trial)
    confidence = request.scenario.limits.confidence
    found = (None, None, *recoveries(values, confidence=confidence))
    return tuple(
        _arm(arm, of_arm, recovered, request, is_end=place < _ENDS)
        for place, (arm, of_arm, recovered) in enumerate(zip(arms, own, found, strict=True))
    )


def _arm(
    arm: Arm, trials: Sequence[Trial], recovered: Recovered | None, request: RunRequest, *, is_end: bool
) -> FixArm:
    revision, strategy = arm
    metric, confidence = request.scenario.metric, request.scenario.limits.confidence
    logs = [
        math.log(user_value(samples.load, metric)) for trial in trials if (samples := samples_of(trial)) is not None
    ]
    reasons = [trial.outcome.reason for trial in trials if isinstance(trial.outcome, Untestable)]
    found = None
    if recovered is not None:
        found = Recovery(
            frac=recovered.frac, low=recovered.low, high=recovered.high, confidence=confidence, rounds=len(logs)
        )
    return FixArm(
        revision=revision,
        strategy=strategy,
        trials=len(trials),
        mean=math.exp(fmean(logs)) if logs else None,
        untestable_reason=reasons[0] if reasons else "",
        verdict=None if is_end else _verdict(found),
        recovery=found,
    )


def _verdict(found: Recovery | None) -> FixVerdict:
    if found is None or found.low is None or found.high is None:
        return FixVerdict.CANNOT_TELL
    if found.low >= ENOUGH_FRAC:
        return FixVerdict.RESTORES
    if found.low > 0.0:
        return FixVerdict.HELPS
    return FixVerdict.DOES_NOT_HELP if found.high < ENOUGH_FRAC else FixVerdict.CANNOT_TELL


def _sentence(result: BisectResult, reverted: _Reverted, arms: tuple[FixArm, ...]) -> str:
    """Say what the revert does, then the best strategy, or that nothing gives it back."""
    culprit = result.culprit.revision.label if result.culprit is not None else ""
    tried = [arm for arm in arms if arm.verdict is not None]
    said = []
    if reverted.conflicts:
        said.append(f"Reverting {culprit} on {result.bad.label} conflicts in {_tell_conflicts(reverted.conflicts)}.")
    said += [
        _tell(f"Reverting {culprit} on {result.bad.label}", arm, result.run.metric)
        for arm in tried
        if arm.strategy is Strategy.AS_COMMITTED
    ]
    strategies = [arm for arm in tried if arm.strategy is not Strategy.AS_COMMITTED]
    if strategies:
        best = max(strategies, key=_rank)
        said.append(_tell(f"The strategy {best.strategy.value} on {result.bad.label}", best, result.run.metric))
    if not tried or all(arm.verdict is FixVerdict.DOES_NOT_HELP for arm in tried):
        said.append("Nothing measured gives it back." if tried else "Nothing was measured.")
    return " ".join(said)


def _rank(arm: FixArm) -> tuple[int, float]:
    """Order arms: those that surely give more back come last."""
    verdicts = (FixVerdict.DOES_NOT_HELP, FixVerdict.CANNOT_TELL, FixVerdict.HELPS, FixVerdict.RESTORES)
    surely = -math.inf if arm.recovery is None or arm.recovery.low is None else arm.recovery.low
    return verdicts.index(arm.verdict or FixVerdict.CANNOT_TELL), surely


def _tell(what: str, arm: FixArm, metric: str) -> str:
    name = metric.rpartition("_")[0].replace("_", " ")
    found = arm.recovery
    if found is None:
        return f"{what} could not be measured: {arm.untestable_reason or 'no round connects it with both ends'}."
    if found.low is None or found.high is None:
        return f"Cannot tell: {what[:1].lower()}{what[1:]} was measured, but its rounds do not tell GOOD from BAD."
    measured = (
        f"gives back {100 * found.frac:.0f}% of the lost {name} ({100 * found.confidence:g}% interval "
        f"{100 * found.low:.0f}% to {100 * found.high:.0f}%, {found.rounds} rounds)"
    )
    if arm.verdict is FixVerdict.CANNOT_TELL:
        return f"{what} {measured}: too wide to tell."
    return f"{what} {measured}{': that is no fix' if arm.verdict is FixVerdict.DOES_NOT_HELP else ''}."


def _tell_conflicts(conflicts: tuple[RevertConflict, ...]) -> str:
    told = [
        f"{each.path} ({each.reason}{': ' + ', '.join(each.functions[:_MOST_NAMED]) if each.functions else ''})"
        for each in conflicts[:_MOST_NAMED]
    ]
    more = len(conflicts) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")
