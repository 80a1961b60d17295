"""`perfguard load --url URL`: drive any running server, and say how it did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.options import DEFAULT_SCENARIO, JsonOption, QuietOption, ScenarioOption, VerboseOption
from perfguard.model.errors import EXIT_FAILURE, EXIT_INCONCLUSIVE, EXIT_OK
from perfguard.model.scenario import ArrivalKind


def load_command(
    url: Annotated[str, typer.Option(help="The server, as http://HOST:PORT.")],
    scenario: ScenarioOption = DEFAULT_SCENARIO,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second, whatever the server does. Default: the scenario's.")
    ] = None,
    arrival: Annotated[
        ArrivalKind | None, typer.Option(help="When requests are due. Default: the scenario's, or poisson with --rate.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay a trace: JSON lines of timestamps and lengths.")
    ] = None,
    ramp: Annotated[
        str | None,
        typer.Option(metavar="RAMP", help="Stages of --requests each: clients=1,8,32 or rate=10,20,40 (a second)."),
    ] = None,
    requests: Annotated[int | None, typer.Option(help="How many. Default: the scenario's, or the whole trace.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="The most in flight. Default: the scenario's.")] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Send so many others first, and do not count them.")] = 0,
    slo: Annotated[
        str | None,
        typer.Option(metavar="SLO", help="What goodput counts by, in ms: any of ttft=500,e2e=2000,tpot=50."),
    ] = None,
    records: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every request's times as JSON lines.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model's name, for servers that ask for it.")] = "default",
    seed: Annotated[
        int | None, typer.Option(help="Seed of prompts, images and arrivals. Default: the scenario's.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Drive a running server with a scenario's load and print throughput, latencies and the generator's own health.

    Exit code 125: the generator was the limit, not the server. 128: nothing answers, or no request succeeded.
    """
    from perfguard.cli.faces import check_file
    from perfguard.cli.load_table import driven_document, print_driven, record_lines
    from perfguard.cli.progress import make_progress
    from perfguard.report.document import write_bytes
    from perfguard.workflows.load import LoadChanges, changed_load, drive
    from perfguard.workflows.scenarios import load_scenario

    changes = LoadChanges(
        rate=rate,
        arrival=arrival,
        trace=trace,
        requests=requests,
        concurrency=concurrency,
        seed=seed,
        ramp=ramp,
        slo=slo,
    )
    if records is not None:
        # Before minutes go into a load that cannot be written down.
        check_file("--records", records)
    progress = make_progress(Console(stderr=True), quiet=quiet)
    try:
        load = changed_load(load_scenario(scenario), changes)
        driven = drive(url, load, model=model, progress=progress, warmup=warmup)
    finally:
        progress.close()
    if records is not None:
        write_bytes(record_lines(driven), records)
    if as_json:
        sys.stdout.write(json.dumps(driven_document(driven, url), indent=2, allow_nan=False) + "\n")
    else:
        print_driven(driven, url, Console())
    if driven.result.succeeded == 0:
        return EXIT_FAILURE
    return EXIT_OK if driven.veto is None else EXIT_INCONCLUSIVE
