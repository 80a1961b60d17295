"""`perfguard study REV`: which way of sharing multimodal inputs is fastest, by size, concurrency and rank count."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.options import (
    Installer,
    InstallerOption,
    JsonOption,
    MarkdownOption,
    PackageOption,
    QuietOption,
    RepoOption,
    ResumeOption,
    RunDirOption,
    SeedOption,
    VerboseOption,
)
from perfguard.model.errors import EXIT_INCONCLUSIVE, EXIT_OK
from perfguard.model.study import StudyResult

REPORT, DOCUMENT, TRIALS, CELLS, MARKDOWN = "report.html", "study.json", "study.csv", "cells.csv", "study.md"


def study_command(
    revision: Annotated[str, typer.Argument(help="A version, or with --repo anything git names.")],
    grid: Annotated[
        str, typer.Option("--grid", "-g", help="A study's name (`perfguard scenarios`), or the path of a TOML file.")
    ] = "transport",
    claims: Annotated[str, typer.Option(help="The claims to put beside it: a list's name, or a path.")] = "17a57fd86",
    beside: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A bisect's or comparison's result.json, for claims about the whole server."),
    ] = None,
    repo: RepoOption = None,
    package: PackageOption = "sglang",
    starts: Annotated[int | None, typer.Option(min=1, help="Starts of the processes. Default: the study's.")] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Blocks a start. Default: the study's.")] = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    installer: InstallerOption = Installer.PIP,
    markdown: MarkdownOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Measure every way of sharing multimodal inputs on REVISION over a grid, and say which one is fastest where.

    Exit code 125 where a strategy was untestable in a cell.
    """
    from perfguard.cli.faces import Faces, check_file
    from perfguard.cli.output import Output, make_request
    from perfguard.workflows.scenarios import load_scenario
    from perfguard.workflows.study import study
    from perfguard.workflows.study_files import check_study, load_claims, load_study, read_effects

    if markdown is not None:
        check_file("--markdown", markdown)
    spec = load_study(grid)
    spec = dataclasses.replace(spec, starts=starts or spec.starts, blocks_per_start=blocks or spec.blocks_per_start)
    check_study(spec, "command line")
    claim_list, effects = load_claims(claims), read_effects(beside) if beside is not None else ()
    request = make_request(
        ("study", revision),
        repo=repo,
        package=package,
        scenario=load_scenario(spec.scenario),
        run_dir=run_dir,
        resume=resume,
        seed=seed,
        port=None,
        installer=installer.value,
    )
    with Output(request, as_json=as_json, quiet=quiet, faces=Faces()) as output:
        result = study(request, revision, spec, claim_list, output.progress, beside=effects)
        show_study(result, request.run_dir, markdown=markdown, as_json=as_json)
    return EXIT_INCONCLUSIVE if any(trial.untestable for trial in result.trials) else EXIT_OK


def show_study(result: StudyResult, folder: Path, *, markdown: Path | None, as_json: bool) -> None:
    """Write every face of a study into `folder` and print it.

    Raises:
        PerfguardError: a file cannot be written.
    """
    from perfguard.report.document import write_document
    from perfguard.report.index_entry import write_study_entry
    from perfguard.report.study_files import print_study, to_cells_csv, to_csv, to_study_document, to_study_markdown
    from perfguard.report.study_page import write_study

    report = write_study(result, folder / REPORT)
    document = json.dumps(to_study_document(result, report), indent=2, allow_nan=False) + "\n"
    write_document(document, folder / DOCUMENT)
    write_document(to_csv(result.trials), folder / TRIALS)
    write_document(to_cells_csv(result.cells), folder / CELLS)
    write_study_entry(result, report)
    for path in filter(None, (folder / MARKDOWN, markdown)):
        write_document(to_study_markdown(result), path)
    if as_json:
        sys.stdout.write(document)
        return
    console = Console()
    print_study(result, console)
    console.print(f"\nReport: {report}", highlight=False, markup=False, soft_wrap=True)
