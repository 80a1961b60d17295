"""A study as CSV (one row a trial, read again by `perfguard tune`), as a JSON document, as Markdown and as text."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table
from rich.text import Text

from perfguard.model.errors import UsageError
from perfguard.model.scenario import Strategy
from perfguard.model.study import MemoryPages, StudyCell, StudyMeasured, StudyTrial
from perfguard.model.trial import Untestable
from perfguard.report import words
from perfguard.report.clean import clean
from perfguard.report.markdown import fact_table, prose, table
from perfguard.report.study_rows import (
    break_even_table,
    cell_table,
    claim_table,
    left_out_note,
    limit_table,
    pages_table,
    ratio_table,
    received_table,
    tell_margin,
    tell_media,
    tell_winner,
    untestable_notes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from perfguard.model.study import CellResult, StudyResult

STUDY_SCHEMA_VERSION = 1
_PLACE = ("number", "block", "start", "ranks", "media", "concurrency", "strategy", "memory_pages")
_WHOLE = ("number", "block", "start", "ranks", "concurrency")
_VALUES = tuple(field.name for field in dataclasses.fields(StudyMeasured))
_COLUMNS = (*_PLACE, *_VALUES, "started_at", "wall_s", "untestable")
# What a CSV of an earlier version lacks.
_ADDED = ("delivered_ms", "memory_pages")

_CELL_COLUMNS = (
    "ranks", "media", "memory_pages", "payload_bytes", "concurrency", "strategy", "trials", "ms_per_request", "low_ms",
    "high_ms", "times_fastest", "times_fastest_low", "times_fastest_high", "leads", "is_tie",
)  # fmt: skip


def to_csv(trials: Iterable[StudyTrial]) -> str:
    """Give one row a trial; what was not measured is empty."""
    text = io.StringIO()
    rows = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    rows.writeheader()
    for trial in clean(tuple(trials), home=str(Path.home())):
        row: dict[str, object] = {
            "number": trial.number,
            "block": trial.block,
            "start": trial.start,
            "ranks": trial.cell.ranks,
            "media": trial.cell.media,
            "concurrency": trial.cell.concurrency,
            "strategy": trial.strategy.value,
            "memory_pages": trial.cell.memory_pages.value,
            "started_at": trial.started_at,
            "wall_s": f"{trial.wall_s:.3f}",
            "untestable": trial.untestable.reason if trial.untestable is not None else "",
        }
        for name in _VALUES if trial.measured is not None else ():
            value = getattr(trial.measured, name)
            row[name] = value if isinstance(value, int) or value is None else f"{value:.6g}"
        rows.writerow(row)
    return text.getvalue()


def to_cells_csv(cells: Iterable[CellResult]) -> str:
    """Give one row a cell and strategy: its mean, the ratio to the cell's fastest with its interval, and who leads."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_CELL_COLUMNS)
    for cell in cells:
        for arm in cell.arms:
            ratio = arm.to_best
            numbers = (
                arm.mean_ms,
                arm.low_ms,
                arm.high_ms,
                *((ratio.ratio, ratio.low, ratio.high) if ratio else (None,) * 3),
            )
            rows.writerow(
                (
                    cell.cell.ranks,
                    cell.cell.media,
                    cell.cell.memory_pages.value,
                    cell.payload_bytes,
                    cell.cell.concurrency,
                    arm.strategy.value,
                    arm.trials,
                    *("" if number is None else f"{number:.6g}" for number in numbers),
                    "yes" if arm.strategy in cell.leaders else "no",
                    "yes" if len(cell.leaders) > 1 else "no",
                )
            )
    return text.getvalue()


def read_csv(path: Path) -> tuple[StudyTrial, ...]:
    """Read what `to_csv` wrote.

    Raises:
        UsageError: the file cannot be read, or is no study's.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in _COLUMNS if name not in (*_ADDED, *(rows.fieldnames or ()))]
    if missing:
        raise UsageError(f"{path} is no study's CSV: it lacks {', '.join(missing)}", hint="`perfguard study` writes it")
    trials = []
    for row in rows:
        try:
            trials.append(_trial(row))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}, line {rows.line_num}: {error}") from error
    return tuple(trials)


def _trial(row: dict[str, str]) -> StudyTrial:
    whole = {name: int(row[name]) for name in _WHOLE}
    pages = MemoryPages(row.get("memory_pages") or MemoryPages.DEFAULT.value)
    measured: StudyMeasured | None = None
    untestable: Untestable | None = None
    if row["ms_per_request"]:
        values = {name: float(row[name]) for name in _VALUES if row.get(name)}
        if not all(math.isfinite(value) for value in values.values()):
            raise ValueError("a value is not finite")
        measured = StudyMeasured(**{**values, "payload_bytes": int(row["payload_bytes"])})  # type: ignore[arg-type]
    else:
        untestable = Untestable(reason=row["untestable"], log="")
    return StudyTrial(
        number=whole["number"],
        block=whole["block"],
        start=whole["start"],
        cell=StudyCell(ranks=whole["ranks"], media=row["media"], concurrency=whole["concurrency"], memory_pages=pages),
        strategy=Strategy(row["strategy"]),
        started_at=row["started_at"],
        wall_s=float(row["wall_s"]),
        measured=measured,
        untestable=untestable,
    )


def to_study_document(result: StudyResult, report: Path | None) -> dict[str, Any]:
    """Give the document that `perfguard study --json` prints; keys are those of `perfguard.model.study`.

    Home directories and secrets are redacted in everything but `report`. The trials stand in the CSV.
    """
    shown: dict[str, Any] = msgspec.to_builtins(clean(result, home=str(Path.home())))
    del shown["trials"]
    for cell, judged in zip(shown["cells"], result.cells, strict=True):
        cell["fastest"] = tell_winner(judged)
    return {
        "schema_version": STUDY_SCHEMA_VERSION,
        **shown,
        "trials": len(result.trials),
        "report": str(report) if report is not None else None,
    }


def to_study_markdown(result: StudyResult, *, report: str | None = None) -> str:
    """Give a study as GitHub-flavoured Markdown. Home directories and secrets are redacted."""
    shown = clean(result, home=str(Path.home()))
    tables = (
        break_even_table(shown), claim_table(shown), cell_table(shown), ratio_table(shown), pages_table(shown),
        limit_table(shown), received_table(shown),
    )  # fmt: skip
    parts = [
        f"## Study of {prose(shown.revision.label)}: {prose(shown.spec.name)}",
        f"**{prose(shown.sentence)}**",
        *([f"[The whole report]({report.replace(' ', '%20')})"] if report else []),
        *(prose(note) for note in (left_out_note(shown), *untestable_notes(shown)) if note),
        *(fact_table(each) for each in tables if each is not None),
        f"### Reproduce\n\n```\n{shown.run.command}\n```",
        table("Measured on", ("What", "Value"), ([prose(cell) for cell in fact] for fact in _facts(shown))),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _facts(result: StudyResult) -> list[tuple[str, str]]:
    run = result.run
    return [
        ("revision", f"{result.revision.label} {result.revision.commit}"),
        ("started", f"{run.started_at}, took {words.seconds(run.wall_s)}"),
        ("seed", str(run.seed)),
        *run.environment,
    ]


def print_study(result: StudyResult, console: Console) -> None:
    """Print what is fastest where, the break-even sizes and the claims to `console`."""
    shown = clean(result, home=str(Path.home()))
    console.print(Text(shown.sentence, style="bold"), soft_wrap=True)
    for note in (left_out_note(shown), *untestable_notes(shown)):
        if note:
            console.print(Text(note), soft_wrap=True)
    rows = (
        (
            str(cell.cell.ranks),
            tell_media(cell.cell),
            str(cell.cell.concurrency),
            f"{cell.arms[0].mean_ms:.3g}" if cell.arms and cell.arms[0].mean_ms is not None else "",
            tell_winner(cell),
            tell_margin(cell),
        )
        for cell in shown.cells
    )
    columns = ("Ranks", "Media", "Concurrency", "ms/request", "Fastest", "Next takes longer by")
    _print(console, "The fastest strategy", columns, rows)
    break_evens = break_even_table(shown)
    _print(console, break_evens.title, break_evens.columns, break_evens.rows)
    claims = claim_table(shown)
    _print(console, claims.title, claims.columns[:4], (row[:4] for row in claims.rows))


def _print(console: Console, title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    printed = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name in columns:
        printed.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    for row in rows:
        printed.add_row(*(Text(cell) for cell in row))
    console.print(Text(f"\n{title}\n", style="bold"))
    console.print(printed)
