"""Compare two revisions: interleaved blocks until the difference is clear, or clearly too small to matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from perfguard.evidence.callsites import SourceLookup
from perfguard.evidence.diff import diff_profiles
from perfguard.evidence.profiles import merge_roles
from perfguard.evidence.trial import TrialEvidence
from perfguard.model.errors import UsageError
from perfguard.model.progress import Progress
from perfguard.model.result import CompareResult, CompareVerdict, Direction, Effect, GrownFrame
from perfguard.model.revision import Revision
from perfguard.model.scenario import Limits
from perfguard.model.trial import Trial, Untestable
from perfguard.search import Duel, DuelConfig, DuelResult, DuelVerdict, Question
from perfguard.workflows.judge import Judge, judge_rules, percent, run_info, summarise_revisions
from perfguard.workflows.metrics import log_worse, user_effects
from perfguard.workflows.outlook import Outlook
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest, open_bench, open_named, open_store

# What 24 rounds on several starts do not settle is too close to the smallest effect asked for.
MAX_ROUNDS = 24

# What a duel's verdict on the candidate is called.
VERDICTS = {
    DuelVerdict.WORSE: CompareVerdict.SLOWER,
    DuelVerdict.BETTER: CompareVerdict.FASTER,
    DuelVerdict.NO_CHANGE: CompareVerdict.NO_CHANGE,
    DuelVerdict.UNKNOWN: CompareVerdict.UNKNOWN,
}


def compare(request: RunRequest, baseline_ref: str, candidate_ref: str, progress: Progress) -> CompareResult:
    """Measure two revisions in randomised blocks and say whether the candidate is slower.

    Raises:
        UsageError: the two are the same revision, or one does not exist.
    """
    repository = open_named(request, (baseline_ref, candidate_ref), progress)
    baseline, candidate = repository.resolve(baseline_ref), repository.resolve(candidate_ref)
    if baseline.commit == candidate.commit:
        raise UsageError(f"{baseline_ref} and {candidate_ref} are the same revision, {baseline.label}")
    with (
        open_store(request, "compare", (baseline, candidate)) as store,
        Session(open_bench(request, repository, store, progress)) as session,
    ):
        verdict, reason = _measure(session, baseline, candidate, request.seed)
        return _assemble(request, session, (baseline, candidate), verdict, reason)


def _measure(session: Session, baseline: Revision, candidate: Revision, seed: int) -> tuple[CompareVerdict, str]:
    """Fight the duel of both revisions."""
    scenario = session.bench.scenario
    config = duel_config(Question.DIFFERENT, scenario.limits, trials_left=scenario.limits.max_trials)
    outlook = Outlook(max_trials=scenario.limits.max_trials, seed=seed)
    session.bench.progress.say(outlook.of_duel(config, session.trials))
    result = session.duel(
        Duel(config, seed=seed),
        (baseline, candidate),
        log_worse(scenario.metric),
        lambda begun: outlook.of_duel(config, session.trials, begun),
    )
    return VERDICTS[result.verdict], why_unknown(result, session.trials, (baseline, candidate))


def duel_config(question: Question, limits: Limits, *, trials_left: int) -> DuelConfig:
    """Return when a duel stops under the scenario's limits, with `trials_left` trials to spend."""
    return DuelConfig(
        question=question,
        confidence=limits.confidence,
        min_effect=math.log1p(limits.min_effect_frac),
        max_rounds=min(MAX_ROUNDS, trials_left // 2),
    )


def why_unknown(result: DuelResult, trials: Sequence[Trial], pair: tuple[Revision, Revision]) -> str:
    """Say why a duel settled nothing, a revision's own failure first; empty where it settled something."""
    if result.verdict is not DuelVerdict.UNKNOWN:
        return ""
    for revision in pair:
        failures = [
            trial.outcome
            for trial in trials
            if trial.revision == revision.commit and isinstance(trial.outcome, Untestable)
        ]
        if len(failures) > 1 and "cannot be tested" in result.reason:
            return f"{revision.label} cannot be tested: {failures[-1].reason}"
    return result.reason


def _assemble(
    request: RunRequest,
    session: Session,
    pair: tuple[Revision, Revision],
    verdict: CompareVerdict,
    reason: str,
) -> CompareResult:
    baseline, candidate = pair
    limits = session.bench.scenario.limits
    verdicts = Judge(session, pair)
    before = verdicts.evidence(session.trials, baseline)
    after = verdicts.evidence(session.trials, candidate)
    effects = user_effects(
        session.trials,
        baseline.commit,
        candidate.commit,
        first=session.bench.scenario.metric,
        confidence=limits.confidence,
    )
    return CompareResult(
        run=run_info(request, session),
        baseline=baseline,
        candidate=candidate,
        verdict=verdict,
        sentence=tell_verdict(pair, verdict, reason, effects, limits.min_effect_frac),
        effects=effects,
        findings=judge_rules(session, verdicts, baseline, candidate),
        grown_frames=compare_stacks(
            before,
            after,
            confidence=limits.confidence,
            direction=Direction.IMPROVEMENT if verdict is CompareVerdict.FASTER else Direction.REGRESSION,
            sources=(verdicts.sources(baseline), verdicts.sources(candidate)) if before and after else None,
        ),
        baseline_profiles=merge_roles(before),
        candidate_profiles=merge_roles(after),
        revisions=summarise_revisions(session, pair),
        trials=session.trials,
    )


def tell_verdict(
    pair: tuple[Revision, Revision],
    verdict: CompareVerdict,
    reason: str,
    effects: tuple[Effect, ...],
    min_effect_frac: float,
) -> str:
    """Tell what the comparison of baseline and candidate concluded, in one sentence; `reason` is why it is unknown."""
    baseline, candidate = pair[0].label, pair[1].label
    measured = tell_effect(effects[0]) if effects else "nothing measured"
    tell: dict[CompareVerdict, Callable[[], str]] = {
        CompareVerdict.SLOWER: lambda: f"{candidate} is slower than {baseline}: {measured}.",
        CompareVerdict.FASTER: lambda: f"{candidate} is faster than {baseline}: {measured}.",
        CompareVerdict.NO_CHANGE: lambda: (
            f"No change of {100 * min_effect_frac:g}% or more between {baseline} and {candidate}: {measured}."
        ),
        CompareVerdict.UNKNOWN: lambda: f"Cannot tell {candidate} from {baseline}: {reason} ({measured}).",
    }
    return tell[verdict]()


def compare_stacks(
    before: Sequence[TrialEvidence],
    after: Sequence[TrialEvidence],
    *,
    confidence: float,
    direction: Direction = Direction.REGRESSION,
    sources: tuple[SourceLookup, SourceLookup] | None = None,
) -> tuple[GrownFrame, ...]:
    """Return the frames whose cost changed, those that explain the direction first; none without profiles.

    `sources` are those of before and after; they tell which functions changed, and which only changed their names.
    """
    if not before or not after:
        return ()
    costs_before, costs_after = [trial.costs for trial in before], [trial.costs for trial in after]
    if direction is Direction.REGRESSION:
        return diff_profiles(costs_before, costs_after, confidence=confidence, sources=sources)
    # What shrank from before to after grew from after to before, and is listed first that way.
    back = diff_profiles(costs_after, costs_before, confidence=confidence, sources=sources and (sources[1], sources[0]))
    return tuple(turned(frame) for frame in back)


def turned(frame: GrownFrame) -> GrownFrame:
    """Exchange the sides of a frame's change."""
    return GrownFrame(
        frame=frame.frame,
        role=frame.role,
        before_ms_per_request=frame.after_ms_per_request,
        after_ms_per_request=frame.before_ms_per_request,
        before_self_ms_per_request=frame.after_self_ms_per_request,
        after_self_ms_per_request=frame.before_self_ms_per_request,
        low_ms=None if frame.high_ms is None else -frame.high_ms,
        high_ms=None if frame.low_ms is None else -frame.low_ms,
        significant=frame.significant,
    )


def tell_effect(effect: Effect) -> str:
    """Render an effect as `throughput -17.3% (95% interval -20.1% to -14.2%, 6 pairs of trials on ...)`."""
    name = effect.metric.rpartition("_")[0].replace("_", " ")
    return (
        f"{name} {percent(effect.ratio)} ({100 * effect.confidence:g}% interval "
        f"{percent(effect.low)} to {percent(effect.high)}, {_count(effect.pairs, 'pair')} of trials on "
        f"{_count(effect.starts, 'pair')} of server starts)"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
