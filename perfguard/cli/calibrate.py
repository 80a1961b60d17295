"""`perfguard calibrate`: how often the search is right on simulated machines, and what it costs."""

from __future__ import annotations

import json
import math
import sys
from itertools import product
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from perfguard.cli.options import JsonOption, QuietOption, VerboseOption
from perfguard.cli.progress import make_progress
from perfguard.model.errors import EXIT_OK, UsageError
from perfguard.search import SearchConfig
from perfguard.search.worlds import Drift, Noise, PriorKind, World
from perfguard.workflows.calibrate import METHODS, OURS, Answer, Tally, calibrate, perfguard_search, tally_row

DEFAULT_EFFECTS = (0.0, 10.0)


def calibrate_command(
    effect: Annotated[
        list[float] | None, typer.Option(help="Slowdowns in percent; repeatable. Default: 0, 10.")
    ] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation of a trial, in percent.")] = 3.0,
    noise_kind: Annotated[Noise, typer.Option(help="How the noise is distributed.")] = Noise.T4,
    drift: Annotated[
        list[Drift] | None, typer.Option(help="How the machine drifts; repeatable. Default: none.")
    ] = None,
    revisions: Annotated[int, typer.Option(min=2, help="Revisions in the range, ends included.")] = 128,
    untestable: Annotated[float, typer.Option(help="Share of revisions that do not start, in percent.")] = 0.0,
    prior: Annotated[PriorKind, typer.Option(help="What the search is told beforehand.")] = PriorKind.UNIFORM,
    searches: Annotated[int, typer.Option(min=1, help="Searches a cell.")] = 100,
    rivals: Annotated[bool, typer.Option("--rivals", help="Run git bisect and a ladder of tests beside it.")] = False,
    confidence: Annotated[float, typer.Option(help="Posterior that the search asks for, 0.5 to 1.")] = 0.95,
    min_effect: Annotated[float, typer.Option(help="Smallest slowdown worth naming, in percent.")] = 2.0,
    max_trials: Annotated[int, typer.Option(min=1, help="Trials that a search may take.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Run the search on simulated machines whose culprit is known, and count how often it is right."""
    try:
        config = SearchConfig(confidence=confidence, min_effect=min_effect / 100.0, max_trials=max_trials)
        worlds = [
            World(
                revisions=revisions,
                effect_frac=percent / 100.0,
                noise_frac=noise / 100.0,
                noise=noise_kind,
                drift=kind,
                untestable_frac=untestable / 100.0,
                prior=prior,
            )
            for percent, kind in product(effect or DEFAULT_EFFECTS, drift or (Drift.NONE,))
        ]
    except ValueError as error:
        raise UsageError(str(error)) from error
    methods = {**METHODS, OURS: perfguard_search(config)}
    names = list(METHODS) if rivals else [OURS]
    progress = make_progress(Console(stderr=True), quiet=quiet)
    tallies = []
    for world, name in product(worlds, names):
        progress.step(f"{name}: effect {100 * world.effect_frac:g}%, drift {world.drift.value}, {searches} searches")
        tallies.append(calibrate(world, name, range(seed, seed + searches), methods))
    progress.close()
    if as_json:
        document = {"schema_version": 1, "cells": [tally_row(tally) for tally in tallies]}
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    else:
        Console().print(_table(tallies))
    return EXIT_OK


def _table(tallies: list[Tally]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("method", "effect", "drift", *(answer.value for answer in Answer), "trials", "p95", "limit"):
        table.add_column(heading)
    for tally in tallies:
        limit = tally.limit_trials
        table.add_row(
            tally.method,
            f"{100 * tally.world.effect_frac:g}%",
            tally.world.drift.value,
            *(f"{tally.count(answer) / tally.searches:.1%}" for answer in Answer),
            f"{tally.mean_trials:.1f}",
            str(tally.p95_trials),
            "-" if math.isinf(limit) else f"{limit:.0f}",
        )
    return table
