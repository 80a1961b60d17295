"""Options that several verbs share, and how they change a scenario."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from perfguard.model.errors import UsageError
from perfguard.model.scenario import Device, Kernels, Scenario, TargetKind, TargetSpec, VisionTower
from perfguard.workflows.scenarios import (
    CPU_ENVIRONMENT_SPEC,
    DEFAULT_SCENARIO,
    OWN_PYTHON,
    check_scenario,
    load_scenario,
)

ScenarioOption = Annotated[
    str, typer.Option("--scenario", "-s", help="A scenario's name, or the path of a TOML file.", show_default=True)
]
RepoOption = Annotated[
    str | None,
    typer.Option(
        "--repo", help="A clone's path or a URL: revisions are commits. Left out, they are releases of --package."
    ),
]
BundleOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A bundle: its revisions, packages and model are used, and nothing downloaded."),
]
PackageOption = Annotated[str, typer.Option(help="The package whose releases are compared when there is no --repo.")]
RunDirOption = Annotated[Path | None, typer.Option(help="Where the run is kept. Default: ./perfguard-runs/NAME-TIME.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --run-dir, or the newest one of these revisions.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of the order in which trials run.")]
MaxTrialsOption = Annotated[int | None, typer.Option(help="The most trials to spend. Default: the scenario's.")]
MinEffectOption = Annotated[
    float | None, typer.Option(help="The smallest change worth naming, in percent. Default: the scenario's.")
]
ConfidenceOption = Annotated[float | None, typer.Option(help="Level of intervals and verdicts, 0.5 to 1.")]
DeviceOption = Annotated[Device | None, typer.Option(help="Where the server computes. Default: the scenario's.")]
KernelsOption = Annotated[
    Kernels | None, typer.Option(help="Where GPU kernels come from. Default: the scenario's, else the device's own.")
]
ModelOption = Annotated[str | None, typer.Option(help="A model on disk, instead of the generated tiny one.")]
TpOption = Annotated[int | None, typer.Option("--tp", help="Tensor-parallel ranks. Default: the scenario's.")]
PortOption = Annotated[
    int | None, typer.Option(help="The server's port on 127.0.0.1; a second one takes the next. Default: free ones.")
]
MarkdownOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as Markdown too.")]
JunitOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JUnit XML too.")]
SarifOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as SARIF too.")]
PageOption = Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML page too.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
StateOption = Annotated[Path, typer.Option(metavar="DIR", help="The folder that holds the guard's nights.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long the night may take, such as 2h or 90m. Default: as long as it needs."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")]


class Installer(str, Enum):
    """What fills a managed environment."""

    PIP = "pip"
    UV = "uv"


InstallerOption = Annotated[Installer, typer.Option(help="What fills the managed environment.")]

__all__ = ["DEFAULT_SCENARIO", "ScenarioChanges", "changed_scenario"]

_BUDGET = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)([hms])")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioChanges:
    """What the command line changes of a scenario; None leaves a value as it is."""

    max_trials: int | None = None
    min_effect_percent: float | None = None
    confidence: float | None = None
    device: Device | None = None
    kernels: Kernels | None = None
    model: str | None = None
    tensor_parallel_size: int | None = None


def changed_scenario(name: str, changes: ScenarioChanges) -> Scenario:
    """Load a scenario and apply the command line's changes.

    Raises:
        UsageError: there is no such scenario, or the changes cannot be.
    """
    # Read before it is checked as a whole: `--device cuda --model X` only makes sense together.
    scenario = load_scenario(name)
    target, limits = scenario.target, scenario.limits
    if (
        target.kind is TargetKind.COMMAND
        and (changes.device, changes.kernels, changes.model, changes.tensor_parallel_size) != (None,) * 4
    ):
        raise UsageError(
            f"--device, --kernels, --model and --tp are for SGLang's server; {name} starts a command",
            hint="put what the server is to be told into target.command.line",
        )
    if changes.device is Device.CUDA and target.device is Device.CPU:
        target = _without_cpu_needs(target)
    target = dataclasses.replace(
        target,
        device=changes.device or target.device,
        kernels=changes.kernels or target.kernels,
        model=changes.model or target.model,
        tensor_parallel_size=_or(changes.tensor_parallel_size, target.tensor_parallel_size),
    )
    if changes.model is not None and not Path(changes.model).is_dir():
        raise UsageError(f"--model {changes.model} is not a folder", hint="give the folder that holds config.json")
    percent = changes.min_effect_percent
    limits = dataclasses.replace(
        limits,
        max_trials=_or(changes.max_trials, limits.max_trials),
        min_effect_frac=limits.min_effect_frac if percent is None else percent / 100.0,
        confidence=limits.confidence if changes.confidence is None else changes.confidence,
    )
    scenario = dataclasses.replace(scenario, target=target, limits=limits)
    check_scenario(scenario, "command line")
    return scenario


def _without_cpu_needs(target: TargetSpec) -> TargetSpec:
    """Undo what a scenario for the CPU asks for only because it has no cards: its environment, and no vision tower."""
    own = target.environment_spec if target.environment_spec != CPU_ENVIRONMENT_SPEC else OWN_PYTHON
    return dataclasses.replace(target, environment_spec=own, vision_tower=VisionTower.REAL)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def budget_seconds(text: str) -> float:
    """Read a time such as `2h`, `1.5h`, `90m` or `3600s`, in seconds.

    Raises:
        UsageError: it is none, or not more than nothing.
    """
    found = _BUDGET.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if seconds <= 0.0:
        raise UsageError(f"--budget {text} is no time", hint="give hours, minutes or seconds, such as 2h, 90m or 3600s")
    return seconds
