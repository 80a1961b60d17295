"""The first screen: what happened, how sure, which commit, which stack, each in a few words; and how to check it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.model.result import BisectResult, BisectVerdict, CompareResult, Direction
from perfguard.report import rows, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.result import Culprit, GrownFrame
    from perfguard.model.revision import Revision
    from perfguard.report.clean import AnyResult

_NAME_LIMIT = 120
_MOST_FRAMES_OF_A_CHANGE = 8
_VERB_AND_REVISIONS = 4  # perfguard bisect GOOD BAD
_OWN_OPTIONS = ("--find", "--fix", "--run-dir")  # of a bisect alone, or of its folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question of a reader: the answer in a word or a number, and what must be known of it.

    `role` and `frame` name a bar of the flamegraph that shows it, or are empty.
    """

    question: str
    value: str
    note: str
    role: str = ""
    frame: str = ""


def answers(result: AnyResult) -> tuple[Answer, ...]:
    """Answer what can be answered of a result that was judged; a run has no verdict and no answers."""
    if not isinstance(result, (BisectResult, CompareResult)):
        return ()
    given = [*_what(result), *_how_sure(result), *_which_commit(result), *_which_stack(result)]
    return tuple(given)


def check_command(result: AnyResult) -> str:
    """Give the command that compares the culprit with its parent again; empty where that cannot be told."""
    if not isinstance(result, BisectResult) or result.culprit is None:
        return ""
    parent = parent_of(result)
    try:
        given = shlex.split(result.run.command)
    except ValueError:
        return ""
    if parent is None or given[1:2] != ["bisect"] or any(word.startswith("-") for word in given[2:_VERB_AND_REVISIONS]):
        return ""
    rest = given[_VERB_AND_REVISIONS:]
    kept = [
        word
        for place, word in enumerate(rest)
        if not word.startswith(_OWN_OPTIONS) and (place == 0 or rest[place - 1] not in _OWN_OPTIONS)
    ]
    return shlex.join(["perfguard", "compare", parent.label, result.culprit.revision.label, *kept])


def parent_of(result: BisectResult) -> Revision | None:
    """Give the revision before the culprit, where it was measured."""
    places = {summary.index: summary.revision for summary in result.revisions}
    commit = result.culprit.revision.commit if result.culprit else ""
    culprit = next((place for place, each in places.items() if each.commit == commit), None)
    return None if culprit is None else places.get(culprit - 1)


def frames_of(culprit: Culprit, frames: Sequence[rows.FrameRow]) -> tuple[rows.FrameRow, ...]:
    """Give the functions whose cost changed beyond the noise and that stand in files that the culprit touched."""
    paths = {hunk.path for hunk in culprit.hunks}
    found = [
        row
        for row in frames
        if row.significant and any(path == (file := _file_of(row.frame)) or path.endswith(f"/{file}") for path in paths)
    ]
    return tuple(found[:_MOST_FRAMES_OF_A_CHANGE])


def _file_of(frame: str) -> str:
    """Give the file of `function (file)`; a frame without one is in no file."""
    return frame.rpartition(" (")[2].removesuffix(")") if frame.endswith(")") else "\0"


def _what(result: BisectResult | CompareResult) -> list[Answer]:
    effects = rows.effect_rows(result.effects, result.run)
    if not effects:
        return [Answer(question="What happened", value="n/a", note="Nothing was measured on both sides.")]
    first = effects[0]
    of = min(result.effects, key=lambda effect: effect.metric != result.run.metric)
    low, high = words.percent_change(of.low), words.percent_change(of.high)
    meaning = "inside the noise" if first.meaning == "noise" else first.meaning
    pairs = words.counted(first.pairs, "pair")
    return [
        Answer(
            question="What happened",
            value=f"{first.change} {_inside_a_sentence(first.metric)}",
            note=f"{meaning}; {of.confidence * 100:g}% interval {low} to {high}, {pairs} of trials",
        )
    ]


def _inside_a_sentence(name: str) -> str:
    """Write a metric's name as it stands inside a sentence: throughput, but TTFT."""
    return name[:1].lower() + name[1:] if name[1:2].islower() else name


def _how_sure(result: BisectResult | CompareResult) -> list[Answer]:
    if not isinstance(result, BisectResult):
        return []
    if result.culprit is not None:
        among = words.counted(result.candidates, "candidate")
        sure = words.share(result.culprit.posterior, 1.0)
        return [Answer(question="How sure", value=sure, note=f"is the probability that it is this one of {among}")]
    if result.verdict is BisectVerdict.UNKNOWN:
        left = words.counted(len(result.credible_set), "revision")
        return [Answer(question="How sure", value="not enough", note=f"{left} cannot be told apart")]
    return []


def _which_commit(result: BisectResult | CompareResult) -> list[Answer]:
    if not isinstance(result, BisectResult) or result.culprit is None:
        return []
    revision = result.culprit.revision
    return [
        Answer(
            question="Which commit",
            value=words.one_line(revision.label, 60),
            note=words.one_line(revision.subject, _NAME_LIMIT),
        )
    ]


def _which_stack(result: BisectResult | CompareResult) -> list[Answer]:
    is_faster = isinstance(result, BisectResult) and result.direction is Direction.IMPROVEMENT
    moved = _first_moved(result.grown_frames, is_faster=is_faster)
    if moved is None:
        return []
    (row,) = rows.frame_rows((moved,))
    function = row.frame.rpartition(" (")[0] or row.frame
    return [
        Answer(
            question="Which stack",
            value=words.one_line(function, _NAME_LIMIT),
            note=f"{row.change} CPU ms per request in {row.role} ({row.before} before)",
            role=row.role,
            frame=row.key,
        )
    ]


def _first_moved(frames: Sequence[GrownFrame], *, is_faster: bool) -> GrownFrame | None:
    """Give the function that explains the change: they stand in that order, significant ones first."""
    sign = -1.0 if is_faster else 1.0
    return next(
        (
            each
            for each in frames
            if each.significant and sign * (each.after_ms_per_request - each.before_ms_per_request) > 0.0
        ),
        None,
    )
