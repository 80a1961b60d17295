"""`perfguard record`: what live processes do, without stopping them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.faces import check_file
from perfguard.cli.options import JsonOption, PageOption, QuietOption, VerboseOption
from perfguard.cli.record_table import print_recording
from perfguard.model.errors import EXIT_OK, UsageError
from perfguard.report.profile_page import write_profile
from perfguard.workflows.live import find_by_name, find_by_pid
from perfguard.workflows.places import new_run_dir
from perfguard.workflows.profile_report import recording_report
from perfguard.workflows.record import RecordRequest, record, to_json


def record_command(
    pid: Annotated[int | None, typer.Option(min=1, help="A process; its children are recorded too.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Processes by title or command, a shell pattern: 'scheduler_TP*'.")
    ] = None,
    duration: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds.")] = 10.0,
    rate: Annotated[float, typer.Option(min=1, max=2000, help="Looks at every thread a second.")] = 200.0,
    stack_rate: Annotated[int, typer.Option(min=0, max=1000, help="Stacks a second; 0: none.")] = 100,
    memray: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            metavar="SECONDS",
            help="Afterwards let memray track allocations for so long, and draw them; a debugger pauses each process "
            "for a moment. 0: do not.",
        ),
    ] = 0.0,
    output: Annotated[
        Path | None, typer.Option(help="Where the data goes. Default: ./perfguard-runs/record-WHAT-TIME.")
    ] = None,
    report: PageOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Tell of every thread: running, holding the GIL, waiting for it, off the CPU; with top frames and findings.

    Nothing is paused, but by --memray. Findings do not change the exit code: one recording is compared with nothing.
    """
    if pid is not None:
        if name is not None:
            raise UsageError("--pid and --name exclude each other", hint="leave one out")
        processes, what = find_by_pid(pid), str(pid)
    elif name is not None:
        processes, what = find_by_name(name), name
    else:
        raise UsageError("nothing to record", hint="give --pid PID, or --name PATTERN")
    output_dir = (output or new_run_dir("record", what)).resolve()
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output {output} is not a folder", hint="name a folder; it is made where it is missing")
    if report is not None:
        check_file("--report", report)
    if not quiet:
        watched = ", ".join(f"{process.pid} ({process.title})" for process in processes[:8])
        more = f" and {len(processes) - 8} more" if len(processes) > 8 else ""  # noqa: PLR2004 - what fits on a line
        Console(stderr=True).print(
            f"recording {watched}{more} for {duration:g} s", highlight=False, markup=False, soft_wrap=True
        )
    recording = record(
        RecordRequest(
            command=shlex.join(["perfguard", *sys.argv[1:]]),
            processes=processes,
            duration_s=duration,
            rate_hz=rate,
            stack_rate_hz=stack_rate,
            output_dir=output_dir,
            memray_s=memray,
        )
    )
    if report is not None:
        write_profile(recording_report(recording, output_dir), report)
    if as_json:
        sys.stdout.write(to_json(recording).decode())
    else:
        print_recording(recording, output_dir, Console())
    return EXIT_OK
