"""`perfguard history`: the nights of a state folder, one a row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfguard.cli.faces import check_file
from perfguard.cli.options import JsonOption, StateOption, VerboseOption
from perfguard.model.errors import EXIT_OK
from perfguard.model.night import NIGHT_SCHEMA_VERSION, NightRecord, NightVerdict
from perfguard.report import words
from perfguard.report.clean import clean_text
from perfguard.report.document import write_bytes, write_document
from perfguard.report.night_export import to_csv, to_parquet
from perfguard.store.nights import NightHistory, NightStore

_STYLES = {NightVerdict.REGRESSION: "bold red", NightVerdict.UNKNOWN: "yellow", NightVerdict.FAILED: "yellow"}


def history_command(
    state: StateOption,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the nights as CSV too.")] = None,
    parquet_file: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="Write the nights as Parquet too.")
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Show the nights that a state folder holds, oldest first, and what was accepted."""
    for option, file in (("--csv", csv_file), ("--parquet", parquet_file)):
        if file is not None:
            check_file(option, file)
    history = NightStore(state).read()
    if csv_file is not None:
        write_document(to_csv(history.nights), csv_file)
    if parquet_file is not None:
        write_bytes(to_parquet(history.nights), parquet_file)
    if as_json:
        document = {
            "schema_version": NIGHT_SCHEMA_VERSION,
            "nights": [msgspec.to_builtins(night) for night in history.nights],
            "acceptances": [msgspec.to_builtins(each) for each in history.acceptances],
            "problems": list(history.problems),
        }
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    else:
        _print(history, Console())
    return EXIT_OK


def _print(history: NightHistory, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("night", "branch", "scenario", "head", "verdict", "change", "culprit"):
        table.add_column(heading, overflow="fold")
    for night in history.nights:
        table.add_row(*(Text(clean_text(cell)) for cell in _row(night)), style=_STYLES.get(night.verdict, ""))
    console.print(table)
    lines = [
        *(f"Accepted {each.commit[:12]} ({each.accepted_at}): {each.reason}" for each in history.acceptances),
        *(f"Problem: {problem}" for problem in history.problems),
    ]
    for line in lines:
        console.print(clean_text(line), highlight=False, markup=False, soft_wrap=True)


def _row(night: NightRecord) -> tuple[str, ...]:
    return (
        night.started_at[:16].replace("T", " "),
        night.branch,
        night.scenario,
        night.head.label if night.head else "",
        night.verdict.value,
        words.percent_change(night.effects[0].ratio) if night.effects else "",
        night.culprit.revision.label if night.culprit else "",
    )
