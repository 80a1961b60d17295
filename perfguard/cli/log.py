"""`perfguard log RUN_DIR`: what a run did, as commands that do it again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from perfguard.cli.options import VerboseOption
from perfguard.model.errors import EXIT_OK


def log_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder that a run is kept in.")],
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Print the commands that replay a run: from the start, from where it stopped, and its report alone.

    What is no command is a comment, so that the output is a shell script.
    """
    from perfguard.workflows.replay import log_lines, read_run

    for line in log_lines(read_run(run_dir)):
        sys.stdout.write(line + "\n")
    return EXIT_OK
