"""`perfguard site`: the nights of a state folder as a small static site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.options import StateOption, VerboseOption
from perfguard.model.errors import EXIT_OK


def site_command(
    state: StateOption,
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder that the site is written into.")],
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Write the nights as a static site: a page for each branch and scenario, with the trend, alerts and reports."""
    from perfguard.cli.night_output import check_output
    from perfguard.report.clean import clean_text
    from perfguard.workflows.site import make_site

    check_output(output)
    site = make_site(state, output)
    for problem in site.problems:
        Console(stderr=True).print(f"problem: {clean_text(problem)}", highlight=False, markup=False, soft_wrap=True)
    Console().print(
        f"Site of {site.nights} nights with {site.reports} reports: {site.index}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return EXIT_OK
