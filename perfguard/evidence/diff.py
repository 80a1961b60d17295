"""Two profiles held against each other: which functions' cost per request changed, and which of them says why.

**Significance.** Each function of each role is compared over trials (`moderation`). Functions that hold less than
`_FAMILY_SHARE` of their role's cost on both sides together are not tested: what is not looked at costs no power. Over
the others of all roles the Benjamini-Hochberg procedure keeps the share of false discoveries at 5%. Where it is known
which functions' source changed, half of the errors that it may make are theirs: few are asked about where the cause
most likely is, so that less growth is enough there, and a little more is asked of all others. What changed is known
before anything is measured, so the share of false discoveries stays what it was.

**Order.** A function that grew makes all of its callers grow, so the largest growth is always `<module>`'s. The result
therefore lists, of every role, the function that explains its growth first (`CallTree.explaining`); then functions that
grew; then those whose work only moved there; then mere callers, a single callee of which explains them; then all that
did not grow. Within each group the significant come first, and then the largest growth.

Source: Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", J. R. Statist. Soc. B 57 (1995); filtering by
overall size before testing: R. Bourgon et al., "Independent filtering increases detection power", PNAS 107 (2010);
weights: C. R. Genovese et al., "False discovery control with p-value weighting", Biometrika 93 (2006).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from perfguard.evidence.calltree import CallTree, build_call_tree
from perfguard.evidence.cost import StackCosts
from perfguard.evidence.intervals import Change
from perfguard.evidence.matching import changed_functions, match_functions, rename
from perfguard.evidence.moderation import moderated_changes, side_of
from perfguard.evidence.stacks import function_name
from perfguard.model.errors import PerfguardError
from perfguard.model.result import GrownFrame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from perfguard.evidence.callsites import SourceLookup

TrialCosts = Mapping[str, StackCosts]
"""One trial's costs by role."""

# Aimed lower than the 5% that are promised: real profiles are burstier than the model of their noise. Of diffs of equal
# trials of a real server, this marks a frame in 2% to 5%; benchmarks/evidence/diff_power.py tells.
_FALSE_DISCOVERIES = 0.03
# One sample in a hundred; below it, a function was seen a few times a trial, and a change of it matters little.
_FAMILY_SHARE = 0.01
# The share of the errors that the functions whose source changed may have.
_CHANGED_SHARE = 0.5


class ChangeKind(str, Enum):
    """What a function's change is; the members stand in the order of the result (see the module's docstring).

    `EXPLAINS` and `GREW` are work that was added. `MOVED`: the work was done elsewhere under the same stable caller on
    the other side, which a refactoring does and costs nothing. `MERE_CALLER`: one callee explains it.
    """

    EXPLAINS = "explains"
    GREW = "grew"
    MOVED = "moved"
    MERE_CALLER = "mere_caller"
    DID_NOT_GROW = "did_not_grow"


_ORDER = {kind: place for place, kind in enumerate(ChangeKind)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameChange:
    """One function's change and what it is; `renamed_from` is its former `function (file)`, or empty."""

    frame: GrownFrame
    kind: ChangeKind
    renamed_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """One function of one role: its totals compared, its selfs and what its change is."""

    frame: str
    role: str
    total: Change
    before_self_ms: float
    after_self_ms: float
    tested: bool
    kind: ChangeKind
    renamed_from: str


def diff_profiles(
    before: Sequence[TrialCosts],
    after: Sequence[TrialCosts],
    *,
    confidence: float,
    sources: tuple[SourceLookup, SourceLookup] | None = None,
) -> tuple[GrownFrame, ...]:
    """Compare as `compare_profiles` does, and return the functions alone."""
    return tuple(change.frame for change in compare_profiles(before, after, confidence=confidence, sources=sources))


def compare_profiles(
    before: Sequence[TrialCosts],
    after: Sequence[TrialCosts],
    *,
    confidence: float,
    sources: tuple[SourceLookup, SourceLookup] | None = None,
    changed: Collection[str] | None = None,
) -> tuple[FrameChange, ...]:
    """Compare the cost of every function of every role, in milliseconds of CPU per request.

    Roles that are missing on a side (its profile was lost in all trials) are left out: nothing can be said of them. A
    trial that lacks a role does not count for it. Functions that were renamed, or moved to another file, are compared
    with what they were called before (`matching`).

    Args:
        before: the profiled trials of the first revision.
        after: the profiled trials of the second.
        confidence: the intervals' level, between 0 and 1.
        sources: both revisions' source files, by which renamed functions are found more surely, and those that changed.
        changed: the functions whose source changed, by `function_key`; None lets `sources` tell.

    Returns:
        Every function with a cost on either side, in the order that the module's docstring gives. `significant` needs
        both: zero outside the interval, and a place among the discoveries.

    Raises:
        PerfguardError: a side has no profiled trial.
    """
    if not before or not after:
        side = "first" if not before else "second"
        raise PerfguardError(f"profiles cannot be compared: the {side} revision has no profiled trial")
    roles = sorted({role for trial in before for role in trial} & {role for trial in after for role in trial})
    compared = [
        function
        for role in roles
        for function in _compare_role(
            [trial[role] for trial in before if role in trial],
            [trial[role] for trial in after if role in trial],
            confidence,
            sources,
        )
    ]
    if changed is None:
        sides = [[costs for trial in side for costs in trial.values()] for side in (before, after)]
        changed = changed_functions(sides[0], sides[1], sources) if sources is not None else ()
    discovered = _discoveries(compared, changed)
    found = [
        FrameChange(
            frame=_grown_frame(function, discovered=id(function) in discovered),
            kind=function.kind,
            renamed_from=function.renamed_from,
        )
        for function in compared
    ]
    return tuple(sorted(found, key=_place))


def _place(change: FrameChange) -> tuple[int, bool, float, str, str]:
    frame, growth = change.frame, _growth(change.frame)
    kind = change.kind if growth > 0.0 else ChangeKind.DID_NOT_GROW
    return _ORDER[kind], not frame.significant, -growth, frame.role, frame.frame


def top_grown(frames: Sequence[GrownFrame], *, role: str | None = None) -> GrownFrame | None:
    """Return the function that best says what grew, from the result of `diff_profiles`.

    Where there are intervals, it has to be significant. Without any (one trial a side) it is the first that grew.

    Args:
        frames: in the order of `diff_profiles`.
        role: look at this role only.
    """
    grown = [frame for frame in frames if _growth(frame) > 0.0 and role in {None, frame.role}]
    certain = [frame for frame in grown if frame.significant]
    untested = [frame for frame in grown if frame.low_ms is None]
    return next(iter([*certain, *untested]), None)


def _growth(frame: GrownFrame) -> float:
    return frame.after_ms_per_request - frame.before_ms_per_request


def _compare_role(
    before: Sequence[StackCosts],
    after: Sequence[StackCosts],
    confidence: float,
    sources: tuple[SourceLookup, SourceLookup] | None,
) -> list[_Compared]:
    renamed = match_functions(before, after, sources)
    before = [rename(trial, renamed) for trial in before]
    former = {function_name(*new): function_name(*old) for old, new in renamed.items()}
    totals_before = [trial.frame_totals() for trial in before]
    totals_after = [trial.frame_totals() for trial in after]
    selfs_before = [trial.frame_selfs() for trial in before]
    selfs_after = [trial.frame_selfs() for trial in after]
    names = dict.fromkeys(name for trial in [*totals_before, *totals_after] for name in trial)
    tested_from_ms = _FAMILY_SHARE * (
        fmean(trial.working_ms for trial in before) + fmean(trial.working_ms for trial in after)
    )
    moved = moderated_changes(
        side_of(before, totals_before, names), side_of(after, totals_after, names), confidence=confidence
    )
    tree = build_call_tree(before, after)
    reverse = tree.reverse()
    explaining, callers = tree.explaining(), tree.mere_callers()
    return [
        _Compared(
            frame=name,
            role=before[0].role,
            total=total,
            before_self_ms=fmean(trial.get(name, 0.0) for trial in selfs_before),
            after_self_ms=fmean(trial.get(name, 0.0) for trial in selfs_after),
            tested=total.before + total.after >= tested_from_ms,
            kind=_kind(name, tree, reverse, explaining, callers),
            renamed_from=former.get(name, ""),
        )
        for name, total in zip(names, moved, strict=True)
    ]


def _kind(name: str, tree: CallTree, reverse: CallTree, explaining: str | None, callers: frozenset[str]) -> ChangeKind:
    if tree.growth_ms[name] == 0.0:
        return ChangeKind.DID_NOT_GROW
    if tree.growth_ms[name] < 0.0:
        # What shrank, seen backwards, grew: its work may have moved away.
        return ChangeKind.MOVED if reverse.is_moved(name) else ChangeKind.DID_NOT_GROW
    if name == explaining:
        return ChangeKind.EXPLAINS
    if tree.is_moved(name):
        return ChangeKind.MOVED
    return ChangeKind.MERE_CALLER if name in callers else ChangeKind.GREW


def _discoveries(compared: Sequence[_Compared], changed: Collection[str]) -> frozenset[int]:
    """Return the `id`s of the functions whose change the Benjamini-Hochberg procedure keeps.

    Functions that are on the same stacks throughout (each calls the next, and nothing else) have one and the same
    change: they are one question, and asked once.
    """
    questions: dict[tuple[str, str, str, str], list[_Compared]] = {}
    for function in compared:
        if function.tested and function.total.p_value is not None:
            total = function.total
            same = (function.role, f"{total.before:.9g}", f"{total.after:.9g}", f"{total.p_value:.6g}")
            questions.setdefault(same, []).append(function)
    if not questions:
        return frozenset()
    p_values = np.array([functions[0].total.p_value for functions in questions.values()], dtype=np.float64)
    expected = np.array([any(each.frame in changed for each in functions) for functions in questions.values()])
    adjusted = stats.false_discovery_control(np.minimum(1.0, p_values / _weights(expected)), method="bh")
    return frozenset(
        id(function)
        for functions, q in zip(questions.values(), adjusted, strict=True)
        if q <= _FALSE_DISCOVERIES
        for function in functions
    )


def _weights(expected: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Give questions weights with a mean of one, of which those that are expected to be answered have their share."""
    few = int(expected.sum())
    if not 0 < few < _CHANGED_SHARE * expected.size:
        return np.ones(expected.size)
    return np.where(
        expected, _CHANGED_SHARE * expected.size / few, (1.0 - _CHANGED_SHARE) * expected.size / (expected.size - few)
    )


def _grown_frame(function: _Compared, *, discovered: bool) -> GrownFrame:
    return GrownFrame(
        frame=function.frame,
        role=function.role,
        before_ms_per_request=function.total.before,
        after_ms_per_request=function.total.after,
        before_self_ms_per_request=function.before_self_ms,
        after_self_ms_per_request=function.after_self_ms,
        low_ms=function.total.low,
        high_ms=function.total.high,
        significant=discovered and function.total.excludes_zero,
    )
