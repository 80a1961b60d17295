"""Profiles of several trials as one, small enough for a report: mean costs, rare stacks folded into their callers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError
from perfguard.model.result import RoleProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perfguard.evidence.trial import TrialEvidence

Names = tuple[str, ...]

# A viewer of some thousand stacks stays quick, and a report well under five megabytes; what is pruned is below one
# sample in a thousand.
DEFAULT_MAX_STACKS = 3000


def merge_roles(trials: Sequence[TrialEvidence], *, max_stacks: int = DEFAULT_MAX_STACKS) -> tuple[RoleProfile, ...]:
    """Merge the working stacks of every role over trials.

    Frames are `function (file:line)`, costs mean CPU milliseconds per request. Callers into which rare stacks were
    folded have no class and no thread, unless they are stacks themselves.

    A trial that lacks a role does not count for it.

    Args:
        trials: of one revision.
        max_stacks: the most stacks a role may keep; see `prune`.

    Raises:
        PerfguardError: `max_stacks` is not positive.
    """
    roles = sorted({role for trial in trials for role in trial.roles})
    return tuple(
        _merge_role(role, [trial for trial in trials if role in trial.roles], max_stacks=max_stacks) for role in roles
    )


def prune(stacks: Mapping[Names, float], *, max_stacks: int) -> dict[Names, float]:
    """Keep the `max_stacks` costliest stacks and fold all others into their callers, so that totals hold.

    The cost of a stack that goes is added to its longest prefix that is a prefix of a kept stack as well: to the frame
    under which it ran. One that shares not even its root with a kept stack goes to its own root frame.

    Returns:
        Stacks root first with their costs; more than `max_stacks` only by such callers.

    Raises:
        PerfguardError: `max_stacks` is not positive.
    """
    if max_stacks <= 0:
        raise PerfguardError(f"at least one stack must be kept, but max_stacks is {max_stacks}")
    ranked = sorted(stacks.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[:max_stacks])
    anchors = {frames[:length] for frames in kept for length in range(1, len(frames) + 1)}
    for frames, cost_ms in ranked[max_stacks:]:
        caller = next(
            (frames[:length] for length in range(len(frames), 1, -1) if frames[:length] in anchors), frames[:1]
        )
        kept[caller] = kept.get(caller, 0.0) + cost_ms
    return kept


def _merge_role(role: str, trials: Sequence[TrialEvidence], *, max_stacks: int) -> RoleProfile:
    merged: dict[Names, float] = {}
    by_class: dict[Names, dict[str, float]] = {}
    by_thread: dict[Names, dict[str, float]] = {}
    for trial in trials:
        evidence = trial.roles[role]
        for frames, cost_ms in evidence.costs.working.items():
            names = tuple(str(frame) for frame in frames)
            merged[names] = merged.get(names, 0.0) + cost_ms / len(trials)
            if frames in evidence.stack_class:
                kind = evidence.stack_class[frames].value
                shares = by_class.setdefault(names, {})
                shares[kind] = shares.get(kind, 0.0) + cost_ms
            if frames in evidence.stack_thread:
                thread = evidence.stack_thread[frames]
                shares = by_thread.setdefault(names, {})
                shares[thread] = shares.get(thread, 0.0) + cost_ms
    kept = sorted(prune(merged, max_stacks=max_stacks).items())
    return RoleProfile(
        role=role,
        samples=sum(trial.roles[role].costs.samples for trial in trials),
        trials=len(trials),
        stacks=tuple(kept),
        classes=tuple(_most(by_class.get(names)) for names, _ in kept) if by_class else (),
        threads=tuple(_most(by_thread.get(names)) for names, _ in kept) if by_thread else (),
    )


def _most(shares: Mapping[str, float] | None) -> str:
    """Name what holds most of a stack's cost, where trials disagree; empty where nothing is known."""
    return max(shares, key=lambda name: (shares[name], name)) if shares else ""
