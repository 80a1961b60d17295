"""The command `perfguard`: the verbs, and the one place where errors become exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
from types import FrameType
from typing import Any

import typer
from rich.console import Console

from perfguard import __version__
from perfguard.cli import (
    accept,
    analyze,
    bisect,
    bundle,
    calibrate,
    compare,
    diff,
    doctor,
    env,
    history,
    load,
    log,
    nightly,
    publish,
    record,
    report,
    run,
    scenarios,
    site,
    study,
    tune,
)
from perfguard.model.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, PerfguardError

# Older typers raise click's errors, newer ones (Python 3.11 on) their own: the root of what a wrong option raises.
_COMMAND_LINE_ERROR: type[Any] = next(
    kind for kind in reversed(typer.BadParameter.__mro__) if hasattr(kind, "format_message")
)

_INTERRUPTED = "perfguard: interrupted; what was measured is kept"

app = typer.Typer(
    name="perfguard",
    help="Find the commit that made a Python inference server slower, and the stack that did it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 no regression, or culprit found by bisect; 1 regression; 125 cannot tell or untestable; "
    "128 perfguard failed; 129 wrong usage; 130 interrupted.",
)
app.command("bisect")(bisect.bisect_command)
app.command("compare")(compare.compare_command)
app.command("run")(run.run_command)
app.command("study")(study.study_command)
app.command("tune")(tune.tune_command)
app.command("record")(record.record_command)
app.command("analyze")(analyze.analyze_command)
app.command("diff")(diff.diff_command)
app.command("report")(report.report_command)
app.command("load")(load.load_command)
app.command("log")(log.log_command)
app.command("calibrate")(calibrate.calibrate_command)
app.command("nightly")(nightly.nightly_command)
app.command("accept")(accept.accept_command)
app.command("history")(history.history_command)
app.command("publish")(publish.publish_command)
app.command("site")(site.site_command)
app.command("scenarios")(scenarios.scenarios_command)
app.command("doctor")(doctor.doctor_command)
app.add_typer(env.app, name="env")
app.add_typer(bundle.app, name="bundle")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"perfguard {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Find the commit that made a Python inference server slower, and the stack that did it."""


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run_cli(sys.argv[1:]))


def run_cli(arguments: list[str]) -> int:
    """Run one command line and return its exit code; every error ends as one line on stderr."""
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    verbose = "-v" in arguments or "--verbose" in arguments
    try:
        code = app(args=arguments, prog_name="perfguard", standalone_mode=False)
    except typer.Exit as stop:
        # Newer typers turn Ctrl-C into an exit of their own.
        if stop.exit_code == EXIT_INTERRUPTED:
            errors.print(_INTERRUPTED, highlight=False)
        return int(stop.exit_code)
    except _COMMAND_LINE_ERROR as error:
        errors.print(f"perfguard: {error.format_message()}", highlight=False, markup=False, soft_wrap=True)
        errors.print("  mend: see `perfguard --help`, or --help after a verb", highlight=False)
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        errors.print(_INTERRUPTED, highlight=False)
        return EXIT_INTERRUPTED
    except PerfguardError as error:
        if verbose:
            traceback.print_exc()
        errors.print(f"perfguard: {error.message}", highlight=False, markup=False, soft_wrap=True)
        if error.hint:
            errors.print(f"  mend: {error.hint}", highlight=False, markup=False, soft_wrap=True)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: a defect of ours, said as such
        if verbose:
            traceback.print_exc()
        errors.print(
            f"perfguard: internal error: {type(error).__name__}: {error}", highlight=False, markup=False, soft_wrap=True
        )
        errors.print("  mend: repeat with -v for the traceback, and report it", highlight=False)
        return EXIT_FAILURE
    return code if isinstance(code, int) else EXIT_OK


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Treat SIGTERM as Ctrl-C: stop the server, keep the trials."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
