"""`perfguard publish`: one issue of GitHub for each alert of a state folder."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.options import StateOption, VerboseOption
from perfguard.model.errors import EXIT_OK
from perfguard.model.issue import IssueAction, IssueStep

_SAID = {
    IssueAction.OPEN: ("opened", "would open"),
    IssueAction.UPDATE: ("updated", "would update"),
    IssueAction.REOPEN: ("reopened", "would reopen"),
    IssueAction.CLOSE: ("closed", "would close"),
    IssueAction.DUPLICATE: ("closed as a duplicate", "would close as a duplicate"),
}


def publish_command(
    state: StateOption,
    github: Annotated[
        str,
        typer.Option(metavar="OWNER/NAME", envvar="GITHUB_REPOSITORY", help="Whose issues are kept."),
    ],
    site: Annotated[
        str | None, typer.Option(metavar="URL", help="Where `perfguard site` of this folder is served, for links.")
    ] = None,
    run_url: Annotated[
        str | None, typer.Option(metavar="URL", help="What to link for a night whose report is not on the site.")
    ] = None,
    rehearse: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Open, update and close issues with `gh`, so that each alert has one; run twice, it does nothing the second time.

    Needs a token that may write issues, in $GH_TOKEN, or `gh auth login`.
    """
    from perfguard.workflows.publish import publish

    console = Console()

    def tell(step: IssueStep, number: int | None) -> None:
        said = _SAID[step.action][1 if rehearse else 0]
        which = "" if number is None else f" #{number}"
        what = f": {step.title}" if step.title else ""
        console.print(f"{said}{which}{what}", highlight=False, markup=False, soft_wrap=True)

    if not publish(state, github, tell, site=site, run=run_url, is_rehearsal=rehearse):
        console.print("Every alert has its issue: nothing to do.")
    return EXIT_OK
