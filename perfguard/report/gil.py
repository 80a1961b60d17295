"""What the trials of each side told of the GIL: a line a process, for the page's table and for its flamegraph.

The GIL is watched a thread at a time, from outside, and not a stack at a time. So it is told of a process and of its
busiest thread, never of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from perfguard.model.gil_trial import RoleGil
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Completed, Trial
from perfguard.report import words

if TYPE_CHECKING:
    from perfguard.model.revision import Revision
    from perfguard.report.flame import Side

_NAME_LIMIT = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class GilRow:
    """One process on one side, as text. `unknown` says why nothing can be told, and is empty where it can."""

    role: str
    side: str
    thread: str
    holds: str
    waits: str
    taken: str
    crowd: str
    looks: str
    unknown: str


def gil_of(
    trials: Iterable[Trial], revision: Revision, strategy: Strategy = Strategy.AS_COMMITTED
) -> tuple[RoleGil, ...]:
    """Average over the trials of one revision what they told of each role; roles in the order of their names.

    A trial in which a share could not be told does not count for it. The thread is the one that was most often the
    busiest.
    """
    told: dict[str, list[RoleGil]] = {}
    for trial in trials:
        is_of = trial.revision in (revision.commit, revision.label) and trial.strategy == strategy.value
        if is_of and isinstance(trial.outcome, Completed):
            for each in trial.outcome.samples.gil:
                told.setdefault(each.role, []).append(each)
    return tuple(_mean(role, of_role) for role, of_role in sorted(told.items()))


def gil_rows(sides: Sequence[Side]) -> tuple[GilRow, ...]:
    """Give a row for every role and side, the sides of a role one under the other."""
    rows = [(told.role, place, side.name, told) for place, side in enumerate(sides) for told in side.gil]
    return tuple(_row(name, told) for _, _, name, told in sorted(rows, key=lambda row: row[:2]))


def _mean(role: str, told: Sequence[RoleGil]) -> RoleGil:
    threads = [each.thread for each in told]
    unknown = next((each.unknown for each in told if each.unknown), "")
    waits = _mean_of([each.wait_frac for each in told])
    return RoleGil(
        role=role,
        thread=max(dict.fromkeys(threads), key=threads.count),
        looks=sum(each.looks for each in told),
        running_frac=fmean(each.running_frac for each in told),
        hold_frac=_mean_of([each.hold_frac for each in told]),
        wait_frac=waits,
        waiting_threads=_mean_of([each.waiting_threads for each in told]),
        held_frac=_mean_of([each.held_frac for each in told]),
        unknown=unknown if waits is None else "",
    )


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _row(side: str, told: RoleGil) -> GilRow:
    return GilRow(
        role=words.one_line(told.role, _NAME_LIMIT),
        side=words.one_line(side, _NAME_LIMIT),
        thread=words.one_line(told.thread, _NAME_LIMIT),
        holds=_share(told.hold_frac),
        waits=_share(told.wait_frac),
        taken=_share(told.held_frac),
        crowd=words.number(told.waiting_threads),
        looks=f"{told.looks:,}",
        unknown=words.one_line(told.unknown, 2 * _NAME_LIMIT),
    )


def _share(frac: float | None) -> str:
    return words.NOT_MEASURED if frac is None else f"{frac:.1%}"
