"""What stands around the verdict on the first screen: the question asked, the effect as a bar, what to do next.

A reader who has never seen perfguard starts here, and may not scroll.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.model.result import BisectResult, BisectVerdict, CompareResult, CompareVerdict, Direction
from perfguard.report import words
from perfguard.report.answers import check_command

if TYPE_CHECKING:
    from perfguard.model.result import Effect
    from perfguard.report.clean import AnyResult

_LABEL_LIMIT = 60
_MARGIN = 0.08  # of the bar, on either side
_VERB_AND_REVISIONS = 4  # perfguard compare BASELINE CANDIDATE


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectBar:
    """A change and its interval beside "no change": places from the left, as fractions of the bar's width."""

    zero: float
    low: float
    high: float
    estimate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do next: what, the part of the page that helps, and the command that does it (or empty)."""

    text: str
    anchor: str
    command: str = ""


def question(result: AnyResult) -> str:
    """Say in one sentence what was asked and how it was answered."""
    if isinstance(result, BisectResult):
        word = "slower" if result.direction is Direction.REGRESSION else "faster"
        good, bad = (words.one_line(each.label, _LABEL_LIMIT) for each in (result.good, result.bad))
        among = words.counted(result.candidates, "change")
        return f"Which of the {among} from {good} to {bad} made the server {word}? {_HOW}"
    if isinstance(result, CompareResult):
        before, after = (words.one_line(each.label, _LABEL_LIMIT) for each in (result.baseline, result.candidate))
        return f"Is the server of {after} slower or faster than that of {before}? {_HOW}"
    return f"How fast is the server of each revision? {_HOW}"


_HOW = "Measured by running their servers under the same load, in turn."


def effect_bar(effect: Effect) -> EffectBar | None:
    """Place an effect on a line that holds "no change" and the whole interval; None where a number is missing."""
    changes = [effect.low - 1.0, effect.ratio - 1.0, effect.high - 1.0]
    if not all(map(math.isfinite, changes)):
        return None
    first, last = min(0.0, *changes), max(0.0, *changes)
    if last <= first:
        return None
    low, estimate, high = (_MARGIN + (1 - 2 * _MARGIN) * (change - first) / (last - first) for change in changes)
    zero = _MARGIN + (1 - 2 * _MARGIN) * (0.0 - first) / (last - first)
    return EffectBar(zero=zero, low=low, high=high, estimate=estimate)


def steps(result: AnyResult) -> tuple[Step, ...]:
    """Say what to do next, the most useful first; nothing where there is nothing to do."""
    if isinstance(result, BisectResult):
        return _after_bisect(result)
    if isinstance(result, CompareResult):
        return _after_compare(result)
    return ()


def _after_bisect(result: BisectResult) -> tuple[Step, ...]:
    if result.verdict is BisectVerdict.CULPRIT and result.culprit is not None:
        check = check_command(result)
        return (
            Step(text="Read what the commit changed", anchor="culprit"),
            *_see(result),
            *([Step(text="See what gives it back", anchor="fix")] if result.fix is not None else []),
            *([Step(text="Check it against its parent alone", anchor="reproduce", command=check)] if check else ()),
        )
    if result.verdict is BisectVerdict.UNKNOWN and result.credible_set:
        return (Step(text="Look at the revisions that are left", anchor="suspects"), *_see(result))
    return ()


def _after_compare(result: CompareResult) -> tuple[Step, ...]:
    find = _bisect_command(result) if result.verdict is CompareVerdict.SLOWER else ""
    return (
        *(_see(result) if result.verdict is not CompareVerdict.NO_CHANGE else ()),
        *([Step(text="Find the commit that did it", anchor="reproduce", command=find)] if find else ()),
    )


def _see(result: BisectResult | CompareResult) -> tuple[Step, ...]:
    if not any(frame.significant for frame in result.grown_frames):
        return ()
    return (Step(text="See which functions cost more or less", anchor="frames"),)


def _bisect_command(result: CompareResult) -> str:
    """Give the command that searches between the two revisions; empty where the one that ran cannot be read."""
    try:
        given = shlex.split(result.run.command)
    except ValueError:
        return ""
    if given[1:2] != ["compare"] or any(word.startswith("-") for word in given[2:_VERB_AND_REVISIONS]):
        return ""
    kept = [
        word
        for place, word in enumerate(given[2:])
        if not word.startswith("--run-dir") and given[1 + place] != "--run-dir"
    ]
    return shlex.join(["perfguard", "bisect", *kept])
