"""`perfguard tune STUDY`: the threshold above which broadcasting pays, from what a study measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from perfguard.cli.options import ConfidenceOption, JsonOption, VerboseOption
from perfguard.model.errors import EXIT_INCONCLUSIVE, EXIT_OK, UsageError


def tune_command(
    source: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's folder, or its CSV.")],
    confidence: ConfidenceOption = 0.95,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Recommend SGLANG_MM_BROADCAST_THRESHOLD from a study, with an interval, or say that no threshold helps.

    Exit code 125 where the study cannot tell.
    """
    from perfguard.report.study_rows import tell_crossing, tell_interval
    from perfguard.workflows.tune import tune

    level = 0.95 if confidence is None else confidence
    if not 0.5 < level < 1.0:  # noqa: PLR2004 - a level of confidence above chance
        raise UsageError(f"--confidence must lie between 0.5 and 1, not {level:g}")
    threshold = tune(source, level)
    if as_json:
        sys.stdout.write(json.dumps({"schema_version": 1, **msgspec.to_builtins(threshold)}, indent=2) + "\n")
    else:
        console = Console()
        console.print(threshold.sentence, highlight=False, markup=False, soft_wrap=True)
        for each in threshold.by_ranks:
            console.print(
                f"  {each.ranks} ranks: broadcast is faster than local at {tell_crossing(each)} "
                f"({100 * level:g}% interval {tell_interval(each)}; {each.blocks} blocks)",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    return EXIT_OK if threshold.is_told else EXIT_INCONCLUSIVE
