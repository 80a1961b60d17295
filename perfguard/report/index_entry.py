"""What an index knows of one run: kept beside its report, so that no run is judged again for an index of hundreds."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from perfguard.model.errors import UsageError
from perfguard.model.result import BisectResult, BisectVerdict, CompareResult, CompareVerdict, Effect
from perfguard.report.clean import AnyResult, clean
from perfguard.report.document import write_document
from perfguard.report.index_page import IndexEntry
from perfguard.report.view import measured
from perfguard.report.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.result import RevisionSummary
    from perfguard.model.study import StudyResult

ENTRY = "index-entry.json"


def entry_of(result: AnyResult, path: str) -> IndexEntry:
    """Give what an index shows of `result`, whose report lies at `path`. Home directories and secrets are redacted."""
    shown = clean(result, home=str(Path.home()))
    untestable = tuple((each.label, each.untestable_reason) for each in shown.revisions if each.metric_mean is None)
    if not isinstance(shown, (BisectResult, CompareResult)):
        last = shown.revisions[-1] if shown.revisions else None
        return IndexEntry(
            path=path,
            kind="run",
            run=shown.run,
            verdict=None,
            sentence=f"{counted(measured(shown.trials), 'revision')} measured side by side.",
            metric_mean=_mean_of(last.revision.commit, shown.revisions) if last else None,
            revision=last.label if last else "",
            untestable=untestable,
        )
    judged = shown.candidate if isinstance(shown, CompareResult) else shown.bad
    if isinstance(shown, BisectResult) and shown.culprit is not None:
        judged = shown.culprit.revision
    return IndexEntry(
        path=path,
        kind="bisect" if isinstance(shown, BisectResult) else "compare",
        run=shown.run,
        verdict=shown.verdict,
        sentence=shown.sentence,
        effect=_decisive(shown.effects, shown.run.metric),
        metric_mean=_mean_of(judged.commit, shown.revisions),
        revision=judged.label,
        untestable=untestable,
    )


def write_entry(result: AnyResult, report: Path) -> Path:
    """Write the entry of `result` beside its report; gives where.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    return _write(entry_of(result, report.name), report)


def write_study_entry(result: StudyResult, report: Path) -> Path:
    """Write the entry of a study beside its report; gives where.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    shown = clean(result, home=str(Path.home()))
    entry = IndexEntry(
        path=report.name,
        kind="study",
        run=shown.run,
        verdict=None,
        sentence=shown.sentence,
        revision=shown.revision.label,
    )
    return _write(entry, report)


def _write(entry: IndexEntry, report: Path) -> Path:
    text = msgspec.json.format(msgspec.json.encode(entry), indent=2).decode()
    return write_document(text + "\n", report.with_name(ENTRY))


def read_entries(folder: Path, index_dir: Path) -> tuple[tuple[IndexEntry, ...], tuple[Path, ...]]:
    """Read the entries of all runs in or under `folder`, and name the runs that have none: unfinished, or damaged.

    The entries' paths lead from `index_dir`, where the index will lie.

    Raises:
        UsageError: there is no such folder, or no finished run in it.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="name the folder that holds the runs")
    entries: list[IndexEntry] = []
    left_out = [path.parent for path in sorted(folder.rglob("run.sqlite")) if not path.with_name(ENTRY).exists()]
    for path in sorted(folder.rglob(ENTRY)):
        try:
            entry = _read(path)
        except (OSError, TypeError, ValueError, msgspec.MsgspecError):
            left_out.append(path.parent)
            continue
        entries.append(replace(entry, path=_path_from(index_dir, path.with_name(entry.path))))
    if not entries:
        raise UsageError(f"{folder} holds no finished run", hint="`perfguard report RUN_DIR` makes the report of one")
    return tuple(entries), tuple(left_out)


def _read(path: Path) -> IndexEntry:
    fields = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    verdicts = {"bisect": BisectVerdict, "compare": CompareVerdict}.get(fields.get("kind", ""))
    said = fields.pop("verdict", None)
    verdict = verdicts(said) if verdicts else None
    hints = get_type_hints(IndexEntry)
    known = {name: msgspec.convert(value, hints[name]) for name, value in fields.items() if name in hints}
    return IndexEntry(**{**known, "verdict": verdict})


def _path_from(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _decisive(effects: Sequence[Effect], metric: str) -> Effect | None:
    """Give the effect on the run's own metric, where it is a number: JSON has no others."""
    finite = [each for each in effects if all(map(math.isfinite, (each.ratio, each.low, each.high)))]
    return next((each for each in finite if each.metric == metric), finite[0] if finite else None)


def _mean_of(commit: str, revisions: Sequence[RevisionSummary]) -> float | None:
    mean = next((each.metric_mean for each in revisions if each.revision.commit == commit), None)
    return mean if mean is not None and math.isfinite(mean) else None
