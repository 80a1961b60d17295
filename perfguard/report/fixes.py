"""What gives the lost performance back, as the rows that every face of a result prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.model.fix import FixVerdict
from perfguard.report import words

if TYPE_CHECKING:
    from perfguard.model.fix import FixArm, FixResult, Recovery

_LABEL_LIMIT = 120
_REASON_LIMIT = 600
_SENTENCE_LIMIT = 1000
_PATH_LIMIT = 300
_MOST_CONFLICTS = 50

_VERDICTS = {
    FixVerdict.RESTORES: "gives it back",
    FixVerdict.HELPS: "helps",
    FixVerdict.DOES_NOT_HELP: "does not help",
    FixVerdict.CANNOT_TELL: "cannot tell",
    None: "",
}
_LOOKS = {
    FixVerdict.RESTORES: "better",
    FixVerdict.HELPS: "better",
    FixVerdict.DOES_NOT_HELP: "worse",
    FixVerdict.CANNOT_TELL: "noise",
    None: "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixRow:
    """One arm. `back` is how much of the loss it gives back; it and `verdict` are empty for GOOD and BAD.

    `look` is the name of the verdict's appearance; `reason` is why a trial was untestable.
    """

    label: str
    part: str
    metric: str
    back: str
    interval: str
    verdict: str
    look: str
    trials: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictRow:
    """One file that keeps the revert from being clean."""

    path: str
    reason: str
    functions: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FixView:
    """Everything that is shown of ways out. `patch` is the name of the file with the revert, or empty."""

    sentence: str
    notes: tuple[str, ...]
    rows: tuple[FixRow, ...]
    conflicts: tuple[ConflictRow, ...]
    patch: str


def fix_view(fix: FixResult) -> FixView:
    """Give the view of a result's `fix`."""
    reverted = fix.reverted.commit if fix.reverted is not None else ""
    return FixView(
        sentence=words.one_line(fix.sentence, _SENTENCE_LIMIT),
        notes=tuple(words.one_line(note, _REASON_LIMIT) for note in fix.notes),
        rows=tuple(_row(arm, _part(place, arm, reverted)) for place, arm in enumerate(fix.arms)),
        conflicts=tuple(
            ConflictRow(
                path=words.one_line(each.path, _PATH_LIMIT),
                reason=words.one_line(each.reason, _REASON_LIMIT),
                functions=words.one_line(", ".join(each.functions), _REASON_LIMIT),
            )
            for each in fix.conflicts[:_MOST_CONFLICTS]
        ),
        patch=words.one_line(fix.patch, _PATH_LIMIT),
    )


def _part(place: int, arm: FixArm, reverted: str) -> str:
    """Name what an arm is there for; GOOD and BAD come first."""
    if arm.verdict is None:
        return ("good", "bad")[min(place, 1)]
    return "revert" if arm.revision.commit == reverted else "strategy"


def _row(arm: FixArm, part: str) -> FixRow:
    return FixRow(
        label=words.one_line(arm.label, _LABEL_LIMIT),
        part=part,
        metric=words.number(arm.mean),
        back="" if arm.verdict is None else _percent(arm.recovery.frac) if arm.recovery else words.NOT_MEASURED,
        interval=_interval(arm.recovery),
        verdict=_VERDICTS[arm.verdict],
        look=_LOOKS[arm.verdict],
        trials=arm.trials,
        reason=words.one_line(arm.untestable_reason, _REASON_LIMIT),
    )


def _percent(frac: float) -> str:
    return f"{100.0 * frac:.0f}%"


def _interval(found: Recovery | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return "unbounded"
    return f"{_percent(found.low)} to {_percent(found.high)} ({100.0 * found.confidence:g}%)"
