"""`perfguard accept COMMIT`: a change is known, and stays."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.options import StateOption, VerboseOption
from perfguard.model.errors import EXIT_OK


def accept_command(
    commit: Annotated[str, typer.Argument(help="A culprit, or the head of a night; 7 digits or more.")],
    reason: Annotated[str, typer.Option(help="Why the change is fine; it is kept.")],
    state: StateOption,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Accept a change: COMMIT is the baseline from the next night on, and its alert is closed then."""
    from perfguard.workflows.nights import accept

    acceptance = accept(state, commit, reason)
    Console().print(
        f"Accepted {acceptance.commit}: it is the baseline from the next night on.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return EXIT_OK
