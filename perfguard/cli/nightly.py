"""`perfguard nightly`: is the head of a branch slower than the newest commit that was found good?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.night_output import check_output, night_document, write_faces_of_night
from perfguard.cli.options import (
    DEFAULT_SCENARIO,
    BudgetOption,
    ConfidenceOption,
    DeviceOption,
    Installer,
    InstallerOption,
    JsonOption,
    KernelsOption,
    MaxTrialsOption,
    MinEffectOption,
    ModelOption,
    PortOption,
    QuietOption,
    ScenarioChanges,
    ScenarioOption,
    SeedOption,
    StateOption,
    TpOption,
    VerboseOption,
    budget_seconds,
    changed_scenario,
)
from perfguard.model.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION
from perfguard.model.night import NightRecord, NightVerdict
from perfguard.report.clean import clean_text


def nightly_command(
    repo: Annotated[str, typer.Option(help="The repository: a URL, fetched now, or a clone, read as it is.")],
    state: StateOption,
    branch: Annotated[str, typer.Option(help="The branch whose head is judged.")] = "main",
    scenario: ScenarioOption = DEFAULT_SCENARIO,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the summary, annotations and issue texts there.")
    ] = None,
    budget: BudgetOption = None,
    seed: SeedOption = 0,
    max_trials: MaxTrialsOption = None,
    min_effect: MinEffectOption = None,
    confidence: ConfidenceOption = None,
    device: DeviceOption = None,
    kernels: KernelsOption = None,
    model: ModelOption = None,
    tp: TpOption = None,
    port: PortOption = None,
    installer: InstallerOption = Installer.PIP,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Measure a branch's head beside the newest good commit, and name the commit that made it slower.

    Exit code 0: no regression. 1: there is one, new or standing. 125: it could not be told, or not be measured.
    """
    from perfguard.cli.output import make_request
    from perfguard.cli.progress import make_progress
    from perfguard.workflows.night_runs import NightlyRequest
    from perfguard.workflows.nightly import nightly

    check_output(output)
    budget_s = None if budget is None else budget_seconds(budget)
    changes = ScenarioChanges(
        max_trials=max_trials,
        min_effect_percent=min_effect,
        confidence=confidence,
        device=device,
        kernels=kernels,
        model=model,
        tensor_parallel_size=tp,
    )
    run = make_request(
        ("nightly", branch),
        repo=repo,
        package="sglang",
        scenario=changed_scenario(scenario, changes),
        run_dir=state.resolve(),
        resume=False,
        seed=seed,
        port=port,
        installer=installer.value,
    )
    given = {
        "--repo": repo,
        "--scenario": scenario,
        "--seed": seed,
        "--max-trials": max_trials,
        "--min-effect": min_effect,
        "--confidence": confidence,
        "--device": None if device is None else device.value,
        "--model": model,
        "--tp": tp,
        "--port": port,
        "--installer": installer.value,
    }
    options = tuple(word for name, value in given.items() if value is not None for word in (name, str(value)))
    request = NightlyRequest(
        run=run, repo=repo, branch=branch, state=state.resolve(), options=options, budget_s=budget_s
    )
    progress = make_progress(Console(stderr=True), quiet=quiet)
    try:
        night = nightly(request, progress)
    finally:
        progress.close()
    write_faces_of_night(night, output)
    if as_json:
        sys.stdout.write(json.dumps(night_document(night), indent=2, allow_nan=False) + "\n")
    else:
        _print(night, state, Console())
    return exit_code(night)


def exit_code(night: NightRecord) -> int:
    """Give the exit code of a night: never green for one that could not tell, or where a regression is known."""
    is_known = night.verdict is NightVerdict.UNFINISHED and any(alert.state.is_open for alert in night.alerts)
    if night.verdict is NightVerdict.REGRESSION or is_known:
        return EXIT_REGRESSION
    return EXIT_OK if night.verdict.trusted else EXIT_INCONCLUSIVE


def _print(night: NightRecord, state: Path, console: Console) -> None:
    lines = [f"{night.verdict.value}: {night.sentence}"]
    if night.reason:
        lines.append(f"Why: {night.reason}")
    lines += [f"Alert {alert.state.value} ({alert.kind.value}): {alert.sentence}" for alert in night.alerts]
    lines += [f"Note: {note}" for note in night.notes]
    for line in lines:
        console.print(clean_text(line), highlight=False, markup=False, soft_wrap=True)
    if night.report is not None:
        console.print(f"Report: {state / night.report}", highlight=False, markup=False, soft_wrap=True)
