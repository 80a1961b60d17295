"""Rules about how work is spread: over the ranks of a server, and over the callbacks of an event loop."""

from __future__ import annotations

import re
from statistics import fmean
from typing import TYPE_CHECKING

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.rule_changes import gap_change, sampled_change
from perfguard.evidence.rule_config import BLOCKING_EVENT_LOOP, DUPLICATE_WORK, SERIALISED_RANKS, RuleConfig
from perfguard.evidence.rule_parts import FRAC, MS_PER_REQUEST, rose, tell_interval, unknown, went
from perfguard.model.result import Evidence, Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from perfguard.evidence.cost import StackCosts
    from perfguard.evidence.trial import RoleEvidence, TrialEvidence
    from perfguard.model.profile import Frame

_RANK = re.compile(r"rank-(\d+)")
# Work whose result is the same in every rank; a model's own layers are split between them.
SHAREABLE = (CallClass.HASH, CallClass.IMAGE_DECODE, CallClass.TOKENISE)


def rank_number(role: str) -> int | None:
    """Return the rank of a scheduler's role, or None for any other role."""
    match = _RANK.fullmatch(role)
    return int(match[1]) if match else None


def judge_ranks(
    before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig
) -> tuple[Finding, ...]:
    """Judge whether the other ranks wait for work that the entry rank alone does for a request."""
    ranks = _common_ranks([trial.loads.keys() for trial in (*before, *after)])
    if len(ranks) <= 1:
        return ()
    threshold = (
        f"the entry rank's working CPU per request exceeds the other ranks' by {config.rank_gap_of_entry:.0%} of it or "
        f"more, and that gap grew beyond its noise by {config.rank_gap_growth:.0%} of the entry rank's CPU before"
    )
    entry_before, others_before = _rank_loads(before, ranks)
    entry_after, others_after = _rank_loads(after, ranks)
    if not entry_before or not entry_after:
        return (unknown(SERIALISED_RANKS, ranks[0], threshold),)
    gap = gap_change(
        [entry - others for entry, others in zip(entry_before, others_before, strict=True)],
        [entry - others for entry, others in zip(entry_after, others_after, strict=True)],
        (fmean([*entry_before, *entry_after]), fmean([*others_before, *others_after])),
        (before, after),
        config,
    )
    share_after = gap.after / fmean(entry_after) if fmean(entry_after) else 0.0
    share_before = gap.before / fmean(entry_before) if fmean(entry_before) else 0.0
    fired = (
        rose(gap, config)
        and gap.growth >= config.rank_gap_growth * fmean(entry_before)
        and share_after >= config.rank_gap_of_entry
    )
    effect = (
        f"The working CPU that {ranks[0]} has beyond the other ranks {went(gap, config)} "
        f"{tell_interval(gap, config)}and is {share_after:.0%} of its own ({share_before:.0%} before): the "
        "others wait for it."
        if gap.after > 0.0
        else f"{ranks[0]} works no more per request than the other ranks ({gap.after:+.2f} ms)."
    )
    return (
        Finding(
            rule=SERIALISED_RANKS,
            role=ranks[0],
            fired=fired,
            effect=effect,
            threshold=threshold,
            evidence=(
                _evidence("working CPU of the entry rank", entry_before, entry_after),
                _evidence("working CPU of the other ranks, mean", others_before, others_after),
                Evidence(what="gap, share of the entry rank", unit=FRAC, before=share_before, after=share_after),
            ),
        ),
    )


def judge_duplicates(
    before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig
) -> tuple[Finding, ...]:
    """Judge, for every kind of work that one rank could do for all, whether each rank pays for it."""
    ranks = _common_ranks([trial.roles.keys() for trial in (*before, *after) if trial.roles])
    if len(ranks) <= 1:
        return ()
    sides = [[trial.roles for trial in side if all(rank in trial.roles for rank in ranks)] for side in (before, after)]
    if not all(sides):
        return ()
    return tuple(_judge_duplicate(kind, ranks, sides[0], sides[1], config) for kind in SHAREABLE)


def _judge_duplicate(
    kind: CallClass,
    ranks: Sequence[str],
    before: Sequence[Mapping[str, RoleEvidence]],
    after: Sequence[Mapping[str, RoleEvidence]],
    config: RuleConfig,
) -> Finding:
    # What every rank pays is what the cheapest of them pays.
    paid = sampled_change(
        [_least(trial, ranks, kind) for trial in before],
        [_least(trial, ranks, kind) for trial in after],
        [_coarsest(trial, ranks) for trial in before],
        [_coarsest(trial, ranks) for trial in after],
        config,
    )
    working_before = fmean(trial[rank].costs.working_ms for trial in before for rank in ranks)
    working_after = fmean(trial[rank].costs.working_ms for trial in after for rank in ranks)
    share_before = paid.before / working_before if working_before else 0.0
    share_after = paid.after / working_after if working_after else 0.0
    fired = (
        rose(paid, config)
        and paid.growth >= config.duplicate_growth_of_working * working_before
        and share_after >= config.duplicate_share
    )
    name = kind.value.replace("_", " ")
    return Finding(
        rule=DUPLICATE_WORK,
        role=", ".join(ranks),
        fired=fired,
        effect=(
            f"The {name} that every one of {len(ranks)} ranks pays {went(paid, config)} "
            f"{tell_interval(paid, config)}and is {share_after:.0%} of their working CPU "
            f"({share_before:.0%} before); done once, it would save "
            f"{paid.after * (len(ranks) - 1):.2f} ms/request over all ranks."
        ),
        threshold=(
            f"every rank pays for the same {name} {config.duplicate_share:.0%} or more of its working CPU, and it grew "
            f"beyond its noise by {config.duplicate_growth_of_working:.0%} of the working CPU before"
        ),
        evidence=(
            Evidence(what=f"{name} in every rank", unit=MS_PER_REQUEST, before=paid.before, after=paid.after),
            Evidence(what=f"{name}, share of working CPU", unit=FRAC, before=share_before, after=share_after),
        ),
    )


def judge_event_loops(
    before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig
) -> tuple[Finding, ...]:
    """Judge, for every role that runs an asyncio loop on both sides, what holds the loop up."""
    findings = []
    for role in sorted({role for trial in (*before, *after) for role in trial.roles}):
        blocked = [[trial.roles[role] for trial in side if role in trial.roles] for side in (before, after)]
        loops = [[evidence for evidence in side if evidence.loop_block_ms is not None] for side in blocked]
        if all(loops):
            findings.append(_judge_loop(role, loops[0], loops[1], config))
    return tuple(findings)


def _judge_loop(
    role: str, before: Sequence[RoleEvidence], after: Sequence[RoleEvidence], config: RuleConfig
) -> Finding:
    blocked = sampled_change(
        [sum((evidence.loop_block_ms or {}).values()) for evidence in before],
        [sum((evidence.loop_block_ms or {}).values()) for evidence in after],
        [evidence.costs for evidence in before],
        [evidence.costs for evidence in after],
        config,
    )
    sites: dict[Frame, float] = {}
    for evidence in after:
        for site, cost_ms in (evidence.loop_block_ms or {}).items():
            sites[site] = sites.get(site, 0.0) + cost_ms / len(after)
    top = max(sites, key=lambda site: (sites[site], str(site)), default=None)
    where = f", mostly at {top} ({sites[top]:.2f} ms)" if top is not None else ""
    return Finding(
        rule=BLOCKING_EVENT_LOOP,
        role=role,
        fired=rose(blocked, config) and blocked.after >= config.loop_block_ms,
        effect=(
            f"What holds up the event loop of {role} without yielding {went(blocked, config)} "
            f"{tell_interval(blocked, config).strip()}{where}."
        ),
        threshold=f"calls that do not yield grew beyond their noise to {config.loop_block_ms:g} ms/request or more",
        evidence=(
            Evidence(
                what="event loop held up by calls", unit=MS_PER_REQUEST, before=blocked.before, after=blocked.after
            ),
        ),
    )


def _common_ranks(roles_of_trials: Sequence[Collection[str]]) -> list[str]:
    """Return the ranks that every trial has, the entry rank first."""
    common = set(roles_of_trials[0]) if roles_of_trials else set()
    for roles in roles_of_trials[1:]:
        common &= set(roles)
    numbered = [(number, role) for role in common if (number := rank_number(role)) is not None]
    return [role for _, role in sorted(numbered)]


def _rank_loads(trials: Sequence[TrialEvidence], ranks: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return, for every trial that knows it, the working CPU of the entry rank and the mean of the others', in ms."""
    entry: list[float] = []
    others: list[float] = []
    for trial in trials:
        working = [trial.loads[rank].working_ms_per_request for rank in ranks]
        known = [cost_ms for cost_ms in working if cost_ms is not None]
        if len(known) == len(ranks):
            entry.append(known[0])
            others.append(fmean(known[1:]))
    return entry, others


def _least(trial: Mapping[str, RoleEvidence], ranks: Sequence[str], kind: CallClass) -> float:
    return min(trial[rank].class_ms.get(kind, 0.0) for rank in ranks)


def _coarsest(trial: Mapping[str, RoleEvidence], ranks: Sequence[str]) -> StackCosts:
    """Return the profile of the rank whose samples stand for most: its counts are the least sure."""
    return max((trial[rank].costs for rank in ranks), key=lambda costs: costs.sample_ms)


def _evidence(what: str, before: Sequence[float], after: Sequence[float]) -> Evidence:
    return Evidence(what=what, unit=MS_PER_REQUEST, before=fmean(before), after=fmean(after))
