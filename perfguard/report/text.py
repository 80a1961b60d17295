"""A result as a terminal shows it. Names are printed as they are: nothing in them is taken for markup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfguard.report import words
from perfguard.report.clean import AnyResult, clean
from perfguard.report.strategy_text import print_strategies
from perfguard.report.view import Page, build_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

_MOST_FRAMES = 8
_FRAME_LIMIT = 100
_SUBJECT_LIMIT = 60
_REASON_LIMIT = 80
_LABEL_LIMIT = 30
_FIX_LABEL_LIMIT = 48
_WIDE_COLUMNS = 100  # narrower terminals get fewer columns instead of broken ones

_LOOK_STYLES = {
    "culprit": "bold red",
    "slower": "bold red",
    "faster": "bold blue",
    "no-change": "bold green",
    "unknown": "bold magenta",
    "run": "bold",
}
_MEANING_STYLES = {"worse": "red", "better": "blue", "noise": "dim"}


def print_result(result: AnyResult, console: Console) -> None:
    """Print the verdict, the effects, what fired, the functions that grew and the revisions to `console`."""
    page = build_page(clean(result, home=str(Path.home())))
    _print_verdict(page, console)
    if page.effects:
        _print_table(
            console,
            "Effects",
            ("Metric", ">Change", "Interval", "Meaning", ">Pairs"),
            (
                (
                    _MEANING_STYLES.get(row.meaning, ""),
                    (row.metric, row.change, row.interval, _meaning(row.meaning), str(row.pairs)),
                )
                for row in page.effects
            ),
        )
    _print_fix(page, console)
    for table in page.strategies:
        print_strategies(table, console)
    _print_findings(page, console)
    _print_frames(page, console)
    _print_revisions(page, console)
    for facts in page.load_parts:
        _print_table(console, facts.title, facts.columns, (("", row) for row in facts.rows))


def _print_verdict(page: Page, console: Console) -> None:
    console.print(Text(page.banner.label.upper(), style=_LOOK_STYLES[page.banner.look]))
    console.print(Text(page.banner.sentence))
    if page.culprit:
        commit = page.culprit
        console.print(Text(f"{commit.label} {commit.subject}", style="bold"))
        console.print(Text(f"{commit.author}, {commit.committed_at}, posterior {commit.posterior}"))
    elif page.suspects:
        console.print(Text(f"It is among these {words.counted(len(page.suspects), 'revision')}:"))
        for suspect in page.suspects:
            console.print(
                Text(f"  {suspect.label} {words.shorten(suspect.subject, _SUBJECT_LIMIT)} {suspect.posterior}")
            )
    console.print(Text("; ".join(page.banner.facts), style="dim"))


def _print_fix(page: Page, console: Console) -> None:
    if page.fix is None:
        return
    if page.fix.rows:
        unit = f"\n({page.metric_unit})" if page.metric_unit else ""
        _print_table(
            console,
            "What gives it back",
            ("Measured", f">{page.metric}{unit}", ">Back", "Interval", "Verdict"),
            (
                (
                    _MEANING_STYLES.get(row.look, ""),
                    (words.shorten(row.label, _FIX_LABEL_LIMIT), row.metric, row.back, row.interval, row.verdict),
                )
                for row in page.fix.rows
            ),
        )
    else:
        console.print()
        console.print(Text("What gives it back", style="bold"))
    patch = [f"The revert as a patch: {page.fix.patch} in the run's folder"] if page.fix.patch else []
    for line in (page.fix.sentence, *page.fix.notes, *patch):
        console.print(Text(line))


def _meaning(meaning: str) -> str:
    return "inside the noise" if meaning == "noise" else meaning


def _print_findings(page: Page, console: Console) -> None:
    if not page.findings:
        return
    fired = [row for row in page.findings if row.fired]
    silent = len(page.findings) - len(fired)
    console.print()
    console.print(Text("Findings", style="bold"))
    for row in fired:
        console.print(Padding(Text.assemble((f"{row.rule}", "bold"), f" ({row.role}): {row.effect}"), (0, 0, 0, 2)))
        for evidence in row.evidence:
            line = f"{evidence.what}: {evidence.before} -> {evidence.after} {evidence.unit}"
            console.print(Padding(Text(line, style="dim"), (0, 0, 0, 4)))
    if not fired:
        console.print(Text("  no rule fired"))
    if silent:
        console.print(Text(f"  {words.counted(silent, 'rule')} stayed silent", style="dim"))


def _print_frames(page: Page, console: Console) -> None:
    grown = [row for row in page.frames if row.significant]
    if page.frames and not grown:
        console.print()
        console.print(Text("No function's cost changed by more than the noise."))
    if not grown:
        return
    _print_table(
        console,
        "Functions whose cost changed (CPU ms per request)",
        ("Function", "Process", ">Before", ">After", ">Change", "Interval"),
        (
            (
                "red" if row.grew else "blue",
                (_frame_name(row.frame, console), row.role, row.before, row.after, row.change, row.interval),
            )
            for row in grown[:_MOST_FRAMES]
        ),
    )
    if len(grown) > _MOST_FRAMES:
        console.print(Text(f"  {len(grown) - _MOST_FRAMES:,} more in the report", style="dim"))


def _frame_name(frame: str, console: Console) -> str:
    """Give `function (file)`, or the function alone where the terminal has no room for both."""
    function, _, _ = frame.partition(" (")
    return words.shorten(frame if console.width >= _WIDE_COLUMNS else function, _FRAME_LIMIT)


def _print_revisions(page: Page, console: Console) -> None:
    if not page.revisions:
        return
    unit = f"\n({page.metric_unit})" if page.metric_unit else ""
    is_wide = console.width >= _WIDE_COLUMNS
    columns = [
        "Revision",
        "Part",
        f">{page.metric}{unit}",
        "Interval",
        ">GPU busy",
        ">Trials",
        ">Posterior",
        ">#",
        "~Subject",
    ]
    shown = [name for name in columns if (is_wide or name not in (">#", "~Subject"))]
    if not page.has_posterior:
        shown.remove(">Posterior")
    if not page.has_gpu:
        shown.remove(">GPU busy")
    rows = []
    for row in page.revisions:
        reason = words.one_line(row.untestable_reason, _REASON_LIMIT)
        cells = {
            "Revision": words.shorten(row.label, _LABEL_LIMIT),
            "Part": row.mark or ("untestable" if row.untestable == row.trials else ""),
            columns[2]: row.metric,
            "Interval": row.metric_interval,
            ">GPU busy": row.gpu,
            ">Trials": str(row.trials),
            ">Posterior": row.posterior,
            ">#": str(row.index),
            "~Subject": f"untestable {row.untestable}x: {reason}" if row.untestable else row.subject,
        }
        rows.append(("bold red" if row.mark == "culprit" else "", tuple(cells[name] for name in shown)))
    _print_table(console, "Revisions", shown, rows)


def _print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[tuple[str, tuple[str, ...]]]
) -> None:
    """Print a table of rows, each a style and its cells.

    A column whose name begins with `>` holds numbers; one with `~` is the last to get room, and is cut to it.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    keeps_words = any(name.startswith("~") for name in columns)
    for name in columns:
        is_number, is_last = name.startswith(">"), name.startswith("~")
        table.add_column(
            Text(name.lstrip(">~")),
            justify="right" if is_number else "left",
            overflow="ellipsis" if is_last else "fold",
            no_wrap=is_number or keeps_words,
            max_width=max(20, console.width - _WIDE_COLUMNS + 20) if is_last else None,
        )
    for style, cells in rows:
        table.add_row(*(Text(cell) for cell in cells), style=style)
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)
