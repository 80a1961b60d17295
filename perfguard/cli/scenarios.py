"""`perfguard scenarios`: what can be measured, the grids of studies among it."""

from __future__ import annotations

import json
import sys

import msgspec
from rich.console import Console
from rich.table import Table

from perfguard.cli.options import JsonOption
from perfguard.model.errors import EXIT_OK
from perfguard.model.scenario import LoadSpec, MediaSpec, Scenario
from perfguard.model.study import StudySpec
from perfguard.workflows.scenarios import DEFAULT_SCENARIO, list_scenarios, scenario_dir
from perfguard.workflows.study_files import DEFAULT_STUDY, list_studies
from perfguard.workflows.study_plan import plan_study


def scenarios_command(as_json: JsonOption = False) -> int:
    """List the scenarios and the grids of `perfguard study` that come with perfguard."""
    scenarios, studies = list_scenarios(), list_studies()
    if as_json:
        document = {
            "schema_version": 1,
            "scenarios": [msgspec.to_builtins(scenario) for scenario in scenarios],
            "studies": [msgspec.to_builtins(study) for study in studies],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return EXIT_OK
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("scenario", "load", "requests", "clients", "ranks", "device"):
        table.add_column(heading, overflow="fold")
    for scenario in scenarios:
        name = f"{scenario.name} (default)" if scenario.name == DEFAULT_SCENARIO else scenario.name
        load, target = scenario.load, scenario.target
        table.add_row(
            name,
            _describe(scenario),
            str(load.requests),
            _clients(load),
            str(target.tensor_parallel_size),
            target.device.value,
        )
    console = Console()
    console.print(table)
    console.print()
    console.print(_studies(studies))
    console.print(
        f"Files: {scenario_dir()} and its folder studies; copy one, change it, and pass its path to --scenario, or to "
        "--grid of `perfguard study`.",
        soft_wrap=True,
    )
    return EXIT_OK


def _studies(studies: tuple[StudySpec, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("study", "target", "media", "concurrency", "ranks", "trials"):
        table.add_column(heading, overflow="fold")
    for study in studies:
        table.add_row(
            f"{study.name} (default)" if study.name == DEFAULT_STUDY else study.name,
            study.target.value,
            str(len(study.media)),
            ", ".join(map(str, study.concurrency)),
            ", ".join(map(str, study.ranks)),
            str(len(plan_study(study, seed=0))),
        )
    return table


def _clients(load: LoadSpec) -> str:
    if load.stages:
        return ", ".join(f"{stage.concurrency or stage.request_rate:g}" for stage in load.stages)
    if load.arrival is None:
        return str(load.concurrency)
    rate = load.arrival.request_rate
    return load.arrival.kind.value if rate is None else f"{load.arrival.kind.value}, {rate:g}/s"


def _describe(scenario: Scenario) -> str:
    load = scenario.load
    if load.request is not None:
        return f"{load.request.method} {load.request.path}"
    media = load.media or (MediaSpec(name="", weight=1, image=load.image),)
    what = _medium(media[0]) if len(media) == 1 else f"mix of {', '.join(each.name for each in media)}"
    return f"{what}, {load.output_tokens} tokens out"


def _medium(media: MediaSpec) -> str:
    if (video := media.video) is not None:
        return f"{video.width_px}x{video.height_px} video of {video.frames} frames"
    if (image := media.image) is None:
        return "text"
    count = "" if image.count == 1 else f"{image.count} x "
    return f"{count}{image.width_px}x{image.height_px} {image.format.value}"
