"""What the trials of each side told of the GIL: a line a process, for the page's table and for its flamegraph.

Told of a process and of its busiest thread; `report.gil_layers` has the frames.
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
from perfguard.report.gil_layers import gil_frames

if TYPE_CHECKING:
    from perfguard.model.revision import Revision
    from perfguard.report.flame import Side

_NAME_LIMIT = 120
_MOST_FRAMES = 8  # of a role
_MOST_HOLDERS = 3


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GilFrameRow:
    """One function that waited for the GIL or held it, as text: milliseconds per request before and after."""

    role: str
    frame: str
    waits: tuple[str, str]
    holds: tuple[str, str]
    meanwhile: str


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


def gil_frame_rows(sides: Sequence[Side]) -> tuple[GilFrameRow, ...]:
    """Give the functions of two sides that waited for the GIL or held it, by role; none where that is not known."""
    if len(sides) != 2:  # noqa: PLR2004 - before and after
        return ()
    return tuple(
        GilFrameRow(
            role=words.one_line(told["role"], _NAME_LIMIT),
            frame=words.one_line(told["frame"], 2 * _NAME_LIMIT),
            waits=(
                words.number(told["before_waiting_ms_per_request"]),
                words.number(told["after_waiting_ms_per_request"]),
            ),
            holds=(
                words.number(told["before_holding_ms_per_request"]),
                words.number(told["after_holding_ms_per_request"]),
            ),
            meanwhile="; ".join(
                f"{words.one_line(held['frame'], _NAME_LIMIT)} {words.number(held['after_ms_per_request'])}"
                for held in told["held_meanwhile"][:_MOST_HOLDERS]
            ),
        )
        for told in gil_frames(sides[0].profiles, sides[1].profiles, most=_MOST_FRAMES)
        if "frame" in told
    )


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
