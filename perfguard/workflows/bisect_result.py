"""Puts together what a bisect found: the culprit beside its parent, or the ends where there is none."""

from __future__ import annotations

from dataclasses import dataclass

from perfguard.evidence.culprit import link_culprit
from perfguard.evidence.profiles import merge_roles
from perfguard.evidence.trial import TrialEvidence
from perfguard.model.result import BisectResult, BisectVerdict, Culprit, Direction, Effect
from perfguard.model.revision import Hunk, Revision
from perfguard.workflows.compare import compare_stacks, tell_effect
from perfguard.workflows.judge import Judge, judge_rules, run_info, summarise_revisions
from perfguard.workflows.metrics import user_effects
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which change is looked for, among which revisions (the good end first), and what measures and judges them."""

    request: RunRequest
    session: Session
    judge: Judge
    revisions: tuple[Revision, ...]
    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the search concluded: the first bad revision's index if there is one, and how sure that is."""

    verdict: BisectVerdict
    reason: str
    culprit: int | None
    credible_set: tuple[int, ...]
    posterior: tuple[float, ...]
    confidence: float


def assemble(asked: Asked, found: Found, hunks: tuple[Hunk, ...], *, origin: str) -> BisectResult:
    """Judge the culprit, which changed `hunks`, beside its parent, or the ends; `origin` names the repository."""
    revisions, session, limits = asked.revisions, asked.session, asked.request.scenario.limits
    low, high = (found.culprit - 1, found.culprit) if found.culprit else (0, len(revisions) - 1)
    baseline, candidate = revisions[low], revisions[high]
    culprit = None
    if found.culprit is not None:
        culprit = Culprit(revision=candidate, posterior=found.confidence, hunks=hunks)
    trials = session.trials
    before, after = asked.judge.evidence(trials, baseline), asked.judge.evidence(trials, candidate)
    effects = user_effects(
        trials,
        baseline.commit,
        candidate.commit,
        first=asked.request.scenario.metric,
        confidence=limits.confidence,
    )
    return BisectResult(
        run=run_info(asked.request, session),
        origin=origin,
        direction=asked.direction,
        good=revisions[0],
        bad=revisions[-1],
        candidates=len(revisions) - 1,
        verdict=found.verdict,
        sentence=_sentence(asked, found, culprit, effects) + _link(asked, culprit, before, after),
        culprit=culprit,
        credible_set=tuple(revisions[index] for index in found.credible_set),
        posterior=found.posterior,
        effects=effects,
        findings=judge_rules(session, asked.judge, baseline, candidate),
        grown_frames=compare_stacks(
            before,
            after,
            confidence=limits.confidence,
            direction=asked.direction,
            sources=(asked.judge.sources(baseline), asked.judge.sources(candidate)) if before and after else None,
        ),
        baseline_profiles=merge_roles(before),
        candidate_profiles=merge_roles(after),
        revisions=summarise_revisions(session, revisions),
        trials=trials,
    )


def _link(
    asked: Asked, culprit: Culprit | None, before: tuple[TrialEvidence, ...], after: tuple[TrialEvidence, ...]
) -> str:
    """Say which of the culprit's changed lines the growth lies under, as one more sentence."""
    if culprit is None or not before or not after or asked.direction is not Direction.REGRESSION:
        return ""
    costs = [[trial.costs for trial in side] for side in (before, after)]
    return " " + link_culprit(culprit.hunks, costs[0], costs[1]).sentence


def _sentence(asked: Asked, found: Found, culprit: Culprit | None, effects: tuple[Effect, ...]) -> str:
    good, bad = asked.revisions[0].label, asked.revisions[-1].label
    slower = "slower" if asked.direction is Direction.REGRESSION else "faster"
    measured = tell_effect(effects[0]) if effects else "nothing was measured on both sides"
    if culprit is not None:
        return f"{culprit.revision.label} made the server {slower}: {measured}; posterior {culprit.posterior:.3f}."
    if found.verdict is BisectVerdict.NO_CHANGE:
        return f"{bad} is not {slower} than {good}: {found.reason} ({measured})."
    return f"Cannot tell which revision from {good} to {bad} made the server {slower}: {found.reason} ({measured})."
