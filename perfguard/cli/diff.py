"""`perfguard diff A B`: which functions cost more in B's profiles than in A's?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfguard.cli.options import JsonOption, VerboseOption
from perfguard.evidence.diff import ChangeKind, FrameChange
from perfguard.model.errors import EXIT_OK, UsageError
from perfguard.report.clean import clean_text
from perfguard.workflows.analyze import PERCENT, Diff, DiffRequest, diff, diff_document

_SHOWN = 20
_STYLES = {ChangeKind.EXPLAINS: "bold red", ChangeKind.GREW: "red"}


def diff_command(
    before: Annotated[str, typer.Argument(help="A profile, a folder of trials, or a quoted pattern.")],
    after: Annotated[str, typer.Argument(help="The same for the other side.")],
    requests: Annotated[
        int | None, typer.Option(help="Requests that every profile covers. Left out, shares of samples are compared.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Samples a second of profiles that do not tell.")] = 100.0,
    before_source: Annotated[Path | None, typer.Option(help="The source of the first side.")] = None,
    after_source: Annotated[Path | None, typer.Option(help="The source of the other side.")] = None,
    confidence: Annotated[float, typer.Option(help="Level of the intervals, 0.5 to 1.")] = 0.95,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Compare profiles function by function; with two or more a side, say which changes are beyond the noise."""
    if not 0.5 < confidence < 1.0:  # noqa: PLR2004 - a level of confidence above chance
        raise UsageError(f"--confidence must lie between 0.5 and 1, not {confidence:g}")
    request = DiffRequest(
        before=(before,),
        after=(after,),
        before_source=before_source,
        after_source=after_source,
        requests=requests,
        rate_hz=rate,
        confidence=confidence,
    )
    result = diff(request)
    if as_json:
        sys.stdout.write(json.dumps(diff_document(result), indent=2, allow_nan=False) + "\n")
    else:
        _print(result, Console())
    return EXIT_OK


def _print(result: Diff, console: Console) -> None:
    counts = "; ".join(f"{role}: {before} and {after}" for role, (before, after) in result.trials.items())
    console.print(Text(f"Profiles: {counts}"), soft_wrap=True)
    if all(min(sides) <= 1 for sides in result.trials.values()):
        console.print(
            "One profile on a side: there is no noise to hold a change against, so nothing is certain.", soft_wrap=True
        )
    significant = [each for each in result.changes if each.frame.significant]
    shown = significant or [each for each in result.changes if each.frame.low_ms is None]
    if not shown:
        console.print("No function changed beyond the noise.")
        return
    unit = "% of working samples" if result.unit == PERCENT else "ms/request"
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for head in ("Role", "What", "Before", "After", f"Change, {unit}", "Function"):
        table.add_column(head, overflow="ellipsis", no_wrap=head == "Function")
    for each in shown[:_SHOWN]:
        table.add_row(*_row(each), style=_STYLES.get(each.kind, ""))
    console.print(table)
    if len(shown) > _SHOWN:
        console.print(f"{len(shown) - _SHOWN} more; --json has all.")


def _row(each: FrameChange) -> tuple[Text, ...]:
    frame = each.frame
    growth = frame.after_ms_per_request - frame.before_ms_per_request
    interval = (
        "" if frame.low_ms is None or frame.high_ms is None else f" ({frame.low_ms:+.2f} to {frame.high_ms:+.2f})"
    )
    what = each.kind.value.replace("_", " ") if growth > 0.0 or each.kind is ChangeKind.MOVED else "shrank"
    cells = (
        frame.role,
        what,
        f"{frame.before_ms_per_request:.2f}",
        f"{frame.after_ms_per_request:.2f}",
        f"{growth:+.2f}{interval}",
        frame.frame[:200] + (f", was {each.renamed_from[:200]}" if each.renamed_from else ""),
    )
    return tuple(Text(clean_text(cell)) for cell in cells)
