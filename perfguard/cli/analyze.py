"""`perfguard analyze PROFILE...`: what do these profiles say?"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfguard.cli.faces import check_file
from perfguard.cli.options import JsonOption, PageOption, VerboseOption
from perfguard.evidence.reading import WeightUnit
from perfguard.evidence.summary import ProfileSummary
from perfguard.model.errors import EXIT_OK, EXIT_REGRESSION
from perfguard.report.clean import clean_text
from perfguard.report.profile_page import write_profile
from perfguard.workflows.analyze import Analysis, analysis_document, analyze
from perfguard.workflows.profile_report import analysis_report

_SHOWN = 10


def analyze_command(
    profiles: Annotated[
        list[str],
        typer.Argument(help="Files, folders or patterns: py-spy raw, speedscope, collapsed stacks, cProfile."),
    ],
    source: Annotated[
        Path | None, typer.Option(help="The source that was running. Default: where the frames say it lies.")
    ] = None,
    call_rules: Annotated[
        Path | None, typer.Option(help="A TOML file that says what the server's own functions do.")
    ] = None,
    report: PageOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Summarise and judge profiles that any tool recorded; exit code 1 if a rule fires."""
    if report is not None:
        check_file("--report", report)
    analysis = analyze(profiles, source, call_rules)
    if report is not None:
        write_profile(analysis_report(analysis, shlex.join(["perfguard", *sys.argv[1:]])), report)
    if as_json:
        sys.stdout.write(json.dumps(analysis_document(analysis), indent=2, allow_nan=False) + "\n")
    else:
        _print(analysis, Console())
    return EXIT_REGRESSION if analysis.fired else EXIT_OK


def _print(analysis: Analysis, console: Console) -> None:
    for finding in analysis.findings:
        if finding.fired:
            _line(console, f"{finding.rule} ({finding.role}): {finding.effect}", style="bold red")
    if not analysis.fired:
        _line(console, "No rule fired.", style="bold green")
    for summary in analysis.summaries:
        console.print()
        _print_summary(summary, console)


def _print_summary(summary: ProfileSummary, console: Console) -> None:
    _line(console, f"{summary.name} ({summary.role}, {summary.format.value})", style="bold")
    if summary.functions:
        table = [
            (f"{each.self_s:.3f}", f"{each.total_s:.3f}", str(each.calls), f"{each.function} ({each.file}:{each.line})")
            for each in summary.functions[:_SHOWN]
        ]
        _table(console, ("Self s", "Total s", "Calls", "Function"), table)
        return
    unit = "samples" if summary.unit is WeightUnit.SAMPLES else "us"
    threads = f"{len(summary.threads)} thread{'s' if len(summary.threads) != 1 else ''}"
    _line(console, f"  {summary.samples} {unit} in {summary.distinct_stacks} distinct stacks of {threads}")
    interval = (
        "" if summary.pickle_low is None else f" ({summary.pickle_low:.1%} to {(summary.pickle_high or 0.0):.1%})"
    )
    _line(
        console,
        f"  pickling {summary.pickle_frac:.1%}{interval} of what is no polling; polling {summary.polling_frac:.1%}",
    )
    shares = sorted(summary.class_frac.items(), key=lambda item: -item[1])
    _line(console, "  " + ", ".join(f"{kind.value} {frac:.1%}" for kind, frac in shares))
    rows = [(f"{each.self_frac:.1%}", f"{each.total_frac:.1%}", each.frame) for each in summary.top_self[:_SHOWN]]
    _table(console, ("Self", "Total", "Function"), rows)


def _table(console: Console, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 2), show_edge=False)
    for head in heads:
        # The function stands last: a narrow terminal cuts its path and no number.
        table.add_column(head, justify="left" if head == heads[-1] else "right", overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(clean_text(cell[:200])) for cell in row))
    console.print(table)


def _line(console: Console, text: str, *, style: str = "") -> None:
    """Print one line; names in it are no markup, and what would move the cursor is made visible."""
    console.print(Text(clean_text(text), style=style), soft_wrap=True)
