"""What measuring verbs share: the request made from the options, and the result on stdout, as JSON and as a report."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console

from perfguard.cli.faces import Faces, check_faces, write_faces
from perfguard.cli.progress import make_progress
from perfguard.model.errors import UsageError
from perfguard.model.scenario import Scenario
from perfguard.report.clean import AnyResult
from perfguard.report.document import write_document
from perfguard.report.index_entry import write_entry
from perfguard.report.jsonable import to_json_document
from perfguard.report.render import write_report
from perfguard.report.text import print_result
from perfguard.revisions.installers import InstallerName
from perfguard.workflows.places import new_run_dir, newest_run_dir
from perfguard.workflows.replay import keep_result, resume_command
from perfguard.workflows.setup import RunRequest

REPORT = "report.html"
RESULT = "result.json"


def make_request(
    words: tuple[str, ...],
    *,
    repo: str | None,
    package: str,
    scenario: Scenario,
    run_dir: Path | None,
    resume: bool,
    seed: int,
    port: int | None,
    installer: InstallerName,
    bundle: Path | None = None,
) -> RunRequest:
    """Make the request of one run; `words` are the verb and its revisions.

    Raises:
        UsageError: there is nothing to resume, the port cannot be one, or a clone and a bundle are named.
    """
    if bundle is not None and repo is not None:
        raise UsageError("--repo and --bundle exclude each other", hint="a bundle brings its own revisions")
    if port is not None and not 0 < port < 65536:  # noqa: PLR2004 - TCP's range
        raise UsageError(f"--port {port} is no port", hint="give one between 1 and 65535, or none")
    if resume and run_dir is None:
        run_dir = newest_run_dir(*words)
        if run_dir is None:
            raise UsageError(f"there is no run of `{' '.join(words)}` to resume here", hint="name it with --run-dir")
    command = shlex.join(["perfguard", *(argument for argument in sys.argv[1:] if argument != "--resume")])
    return RunRequest(
        command=command,
        repo=repo,
        package=package,
        scenario=scenario,
        run_dir=(run_dir or new_run_dir(*words)).resolve(),
        resume=resume,
        seed=seed,
        port=port,
        installer=installer,
        refs=words[1:],
        bundle=bundle,
    )


class Output:
    """Progress on stderr while a run goes on; the result on stdout when it is there."""

    def __init__(self, request: RunRequest, *, as_json: bool, quiet: bool, faces: Faces) -> None:
        """Tell about `request`.

        Raises:
            UsageError: one of `faces` cannot be written; better now than after hours of measuring.
        """
        check_faces(faces)
        self._request = request
        self._as_json = as_json
        self._faces = faces
        self._errors = Console(stderr=True)
        self.progress = make_progress(self._errors, quiet=quiet)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        if kind is not None and (self._request.run_dir / "run.sqlite").exists():
            self._errors.print(
                f"perfguard: the trials so far are kept; continue with: {resume_command(self._request)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def show(self, result: AnyResult) -> None:
        """Write every face of the result, its report and its JSON document into the run's folder, and print it."""
        report = self._request.run_dir / REPORT
        keep_result(result, self._request.run_dir)
        document = write_result(result, report)
        write_faces(result, report, self._faces)
        self.progress.close()
        print_outcome(result, report, document if self._as_json else None)


def write_result(result: AnyResult, report: Path, *, beside: bool = True) -> str:
    """Write the report, and `beside` it the JSON document and what an index needs; gives the document.

    Raises:
        PerfguardError: the folder cannot be written.
    """
    write_report(result, report)
    document = json.dumps(to_json_document(result, report), indent=2, allow_nan=False)
    if beside:
        write_document(document + "\n", report.with_name(RESULT))
        write_entry(result, report)
    return document


def print_outcome(result: AnyResult, report: Path, document: str | None) -> None:
    """Print the result on stdout: `document` where it is given, and text with where the report lies otherwise."""
    if document is not None:
        sys.stdout.write(document + "\n")
        return
    console = Console()
    print_result(result, console)
    console.print(f"Report: {report}", highlight=False, markup=False, soft_wrap=True)
