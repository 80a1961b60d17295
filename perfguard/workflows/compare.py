"""Compare two revisions: interleaved blocks until the difference is clear, or clearly too small to matter."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from perfguard.evidence.diff import diff_profiles
from perfguard.evidence.profiles import merge_roles
from perfguard.evidence.rules import RuleConfig, judge
from perfguard.evidence.trial import TrialEvidence
from perfguard.model.errors import UsageError
from perfguard.model.progress import Progress
from perfguard.model.result import CompareResult, CompareVerdict, Direction, Effect, GrownFrame
from perfguard.model.revision import Revision
from perfguard.model.trial import Untestable
from perfguard.stats.paired import PairedSummary, summarise_pairs
from perfguard.workflows.judge import Judge, percent, run_info, summarise_revisions
from perfguard.workflows.metrics import block_differences, log_worse, user_effects
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest, open_bench, open_named, open_store

MIN_BLOCKS = 3
MAX_BLOCKS = 16
BAYES_FACTOR = 20.0
END_ATTEMPTS = 2


def compare(request: RunRequest, baseline_ref: str, candidate_ref: str, progress: Progress) -> CompareResult:
    """Measure two revisions in randomised blocks and say whether the candidate is slower.

    Raises:
        UsageError: the two are the same revision, or one does not exist.
    """
    repository = open_named(request, (baseline_ref, candidate_ref), progress)
    baseline, candidate = repository.resolve(baseline_ref), repository.resolve(candidate_ref)
    if baseline.commit == candidate.commit:
        raise UsageError(f"{baseline_ref} and {candidate_ref} are the same revision, {baseline.label}")
    with open_store(request, "compare", (baseline, candidate)) as store:
        session = Session(open_bench(request, repository, store, progress))
        verdict, reason = _measure(session, baseline, candidate, request.seed)
        return _assemble(request, session, (baseline, candidate), verdict, reason)


def _measure(session: Session, baseline: Revision, candidate: Revision, seed: int) -> tuple[CompareVerdict, str]:
    """Run blocks of both revisions in random order until one of the verdicts holds."""
    scenario = session.bench.scenario
    order = random.Random(seed)  # noqa: S311 - order of trials, not a secret
    value = log_worse(scenario.metric)
    max_blocks = min(MAX_BLOCKS, scenario.limits.max_trials // 2)
    failures = {baseline.commit: 0, candidate.commit: 0}
    for _ in range(max_blocks):
        session.begin_block()
        pair = [baseline, candidate]
        order.shuffle(pair)
        for revision in pair:
            outcome = session.trial(revision).outcome
            if isinstance(outcome, Untestable):
                failures[revision.commit] += 1
                if failures[revision.commit] >= END_ATTEMPTS:
                    return CompareVerdict.UNKNOWN, f"{revision.label} cannot be tested: {outcome.reason}"
        differences = block_differences(session.trials, baseline.commit, candidate.commit, value)
        if len(differences) >= MIN_BLOCKS:
            verdict = _verdict(
                summarise_pairs(differences), scenario.limits.min_effect_frac, scenario.limits.confidence
            )
            if verdict is not None:
                return verdict, ""
    return CompareVerdict.UNKNOWN, f"{max_blocks} blocks did not settle it"


def _verdict(pair: PairedSummary, min_effect_frac: float, confidence: float) -> CompareVerdict | None:
    """Return the verdict that the pairs support, or None while none is."""
    low, high = pair.bounds(confidence)
    if pair.equivalent_within(min_effect_frac, confidence):
        return CompareVerdict.NO_CHANGE
    if pair.bayes_factor() >= BAYES_FACTOR and not low <= 0.0 <= high:
        return CompareVerdict.SLOWER if pair.mean > 0.0 else CompareVerdict.FASTER
    return None


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
        sentence=_sentence(pair, verdict, reason, effects, limits.min_effect_frac),
        effects=effects,
        findings=judge(before, after, RuleConfig()) if before and after else (),
        grown_frames=compare_stacks(
            before,
            after,
            confidence=limits.confidence,
            direction=Direction.IMPROVEMENT if verdict is CompareVerdict.FASTER else Direction.REGRESSION,
        ),
        baseline_profiles=merge_roles(before),
        candidate_profiles=merge_roles(after),
        revisions=summarise_revisions(session, pair),
        trials=session.trials,
    )


def _sentence(
    pair: tuple[Revision, Revision],
    verdict: CompareVerdict,
    reason: str,
    effects: tuple[Effect, ...],
    min_effect_frac: float,
) -> str:
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
) -> tuple[GrownFrame, ...]:
    """Return the frames whose cost changed, those that explain the direction first; none without profiles."""
    if not before or not after:
        return ()
    costs_before, costs_after = [trial.costs for trial in before], [trial.costs for trial in after]
    if direction is Direction.REGRESSION:
        return diff_profiles(costs_before, costs_after, confidence=confidence)
    # What shrank from before to after grew from after to before, and is listed first that way.
    return tuple(_turned(frame) for frame in diff_profiles(costs_after, costs_before, confidence=confidence))


def _turned(frame: GrownFrame) -> GrownFrame:
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
    """Render an effect as `throughput -17.3% (95% interval -20.1% to -14.2%, 5 pairs)`."""
    name = effect.metric.rpartition("_")[0].replace("_", " ")
    return (
        f"{name} {percent(effect.ratio)} ({100 * effect.confidence:g}% interval "
        f"{percent(effect.low)} to {percent(effect.high)}, {effect.pairs} pair{'s' if effect.pairs != 1 else ''})"
    )
