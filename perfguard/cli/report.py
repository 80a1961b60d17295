"""`perfguard report RUN_DIR`: a run's report made again without measuring, or an index of many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.options import JsonOption, JunitOption, MarkdownOption, QuietOption, SarifOption, VerboseOption
from perfguard.model.errors import EXIT_OK, UsageError


def report_command(
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="[RUN_DIR]", help="The folder that a run is kept in.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write an index of all finished runs in this folder instead.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the page goes. Default: RUN_DIR/report.html, or DIR/index.html."),
    ] = None,
    markdown: MarkdownOption = None,
    junit: JunitOption = None,
    sarif: SarifOption = None,
    exports: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write its profiles here: folded, speedscope's JSON, functions as CSV."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Judge a finished run again from what it kept, and write its report; no server is started."""
    from perfguard.cli.faces import Faces, check_faces, check_file

    faces = Faces(markdown=markdown, junit=junit, sarif=sarif)
    if output is not None:
        check_file("--output", output)
    check_faces(faces)
    if index is not None:
        if run_dir is not None or faces != Faces() or exports is not None or as_json:
            raise UsageError("--index makes the index's page only", hint="leave out RUN_DIR and the other outputs")
        return _index(index, output or index / "index.html")
    if run_dir is None:
        raise UsageError("nothing to report", hint="name a run's folder, or give --index DIR")

    from perfguard.workflows.study import is_study

    if is_study(run_dir):
        if junit is not None or sarif is not None or exports is not None:
            raise UsageError("a study has no verdict and no profile", hint="leave out --junit, --sarif and --exports")
        return _study(run_dir, output, markdown=markdown, as_json=as_json, quiet=quiet)

    from perfguard.cli.faces import write_faces
    from perfguard.cli.output import REPORT, print_outcome, write_result
    from perfguard.cli.progress import make_progress
    from perfguard.report.exports import write_exports
    from perfguard.workflows.replay import replay

    progress = make_progress(Console(stderr=True), quiet=quiet)
    try:
        result = replay(run_dir, progress)
    finally:
        progress.close()
    page = (output or run_dir / REPORT).resolve()
    document = write_result(result, page, beside=output is None)
    write_faces(result, page, faces)
    if exports is not None:
        write_exports(result, exports)
    print_outcome(result, page, document if as_json else None)
    return EXIT_OK


def _study(run_dir: Path, output: Path | None, *, markdown: Path | None, as_json: bool, quiet: bool) -> int:
    from perfguard.cli.progress import make_progress
    from perfguard.cli.study import show_study
    from perfguard.report.study_page import write_study
    from perfguard.workflows.study import read_study

    progress = make_progress(Console(stderr=True), quiet=quiet)
    try:
        result = read_study(run_dir, progress)
    finally:
        progress.close()
    if output is not None:
        write_study(result, output)
    show_study(result, run_dir.resolve(), markdown=markdown, as_json=as_json)
    return EXIT_OK


def _index(folder: Path, page: Path) -> int:
    from perfguard.report.index_entry import read_entries
    from perfguard.report.index_page import write_index

    entries, left_out = read_entries(folder, page.absolute().parent)
    write_index(entries, page)
    errors = Console(stderr=True)
    for path in left_out:
        errors.print(
            f"left out: {path} has no result yet; `perfguard report` makes it if the run is finished",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    Console().print(f"Index of {len(entries)} runs: {page}", highlight=False, markup=False, soft_wrap=True)
    return EXIT_OK
