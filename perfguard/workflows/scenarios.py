"""Scenario files: find them, read them, and say what is wrong with them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from pathlib import Path
from typing import Any

import msgspec

from perfguard.model.errors import UsageError
from perfguard.model.scenario import (
    ArrivalKind,
    Device,
    Kernels,
    LoadSpec,
    RequestSpec,
    Scenario,
    TargetKind,
    TargetSpec,
    VisionTower,
)
from perfguard.workflows.load_checks import MAX_REQUEST_RATE, check_media, check_stages, fill_requests

DEFAULT_SCENARIO = "mm-small-images"
# The environment that is not managed: `python` is the interpreter that runs perfguard, `python:PATH` another one.
OWN_PYTHON = "python"
CPU_ENVIRONMENT_SPEC = "sglang-cpu"
_PACKAGE = Path(__file__).resolve().parent.parent
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def scenario_dir() -> Path:
    """Return where the scenarios that come with perfguard lie: inside an installed package, or beside a checkout's."""
    installed = _PACKAGE / "_scenarios"
    return installed if installed.is_dir() else _PACKAGE.parent / "scenarios"


def list_scenarios() -> tuple[Scenario, ...]:
    """Return every scenario that comes with perfguard, by name."""
    return tuple(read_scenario(path) for path in sorted(scenario_dir().glob("*.toml")))


def load_scenario(name_or_path: str) -> Scenario:
    """Return a scenario by its name, or by the path of a TOML file.

    Raises:
        UsageError: there is no such scenario, or the file is not one.
    """
    if name_or_path.endswith(".toml"):
        return read_scenario(Path(name_or_path))
    path = scenario_dir() / f"{name_or_path}.toml"
    if not path.is_file():
        known = sorted(file.stem for file in scenario_dir().glob("*.toml"))
        near = difflib.get_close_matches(name_or_path, known, n=3, cutoff=0.4) or known
        raise UsageError(
            f"no scenario is called {name_or_path!r}",
            hint=f"did you mean {', '.join(near)}? Or give the path of a .toml file",
        )
    return read_scenario(path)


def read_scenario(path: Path) -> Scenario:
    """Read one scenario file.

    Raises:
        UsageError: the file cannot be read, is no TOML, has an unknown or a wrong field, or asks for the impossible.
    """
    try:
        document = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the scenario {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    target = document.get("target") if isinstance(document, dict) else None
    if isinstance(target, dict):
        # What a file may leave out.
        target.setdefault("model", None)
        target.setdefault("extra_args", [])
        target["extra_environment"] = sorted(target.get("extra_environment", {}).items())
        if target.get("kind") == TargetKind.COMMAND.value:
            # What only SGLang's server asks about.
            target.setdefault("device", Device.CPU.value)
            target.setdefault("tensor_parallel_size", 1)
            target.setdefault("vision_tower", VisionTower.REAL.value)
            target.setdefault("environment_spec", "python")
    load = document.get("load") if isinstance(document, dict) else None
    if isinstance(load, dict) and isinstance(load.get("request"), dict):
        # What only a chat completion has.
        load.setdefault("output_tokens", 1)
        load.setdefault("prompt_chars", 64)
    fill_requests(load)
    arrival = load.get("arrival") if isinstance(load, dict) else None
    if isinstance(arrival, dict) and isinstance(arrival.get("trace_file"), str):
        # Beside the scenario that names it, wherever perfguard is started from.
        arrival["trace_file"] = str(path.resolve().parent / arrival["trace_file"])
    refuse_unknown(document, Scenario, path, "")
    try:
        scenario = msgspec.convert(document, Scenario)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from error
    check_scenario(scenario, str(path))
    return scenario


def check_scenario(scenario: Scenario, where: str) -> None:
    """Refuse a scenario that cannot run.

    Raises:
        UsageError: a number lies outside its range, or CUDA's own kernels are asked for without a model.
    """
    load, limits = scenario.load, scenario.limits
    positive = {
        "load.requests": load.requests,
        "load.concurrency": load.concurrency,
        "load.output_tokens": load.output_tokens,
        "load.prompt_chars": load.prompt_chars,
        "load.distinct_images": load.distinct_images,
        "load.request_timeout_s": load.request_timeout_s,
        "target.tensor_parallel_size": scenario.target.tensor_parallel_size,
        "target.start_timeout_s": scenario.target.start_timeout_s,
        "profiling.rate_hz": scenario.profiling.rate_hz,
        "profiling.trials_per_revision": scenario.profiling.trials_per_revision,
        "limits.max_trials": limits.max_trials,
        "limits.min_effect_frac": limits.min_effect_frac,
    }
    for field, value in positive.items():
        if value <= 0:
            raise UsageError(f"{where}: {field} must be greater than 0, not {value}")
    if min(load.warmup_requests, load.settling_requests, load.profiled_requests) < 0:
        raise UsageError(
            f"{where}: load.warmup_requests, load.settling_requests and load.profiled_requests must not be negative"
        )
    if scenario.profiling.enabled and load.profiled_requests == 0:
        raise UsageError(f"{where}: profiling is enabled, but load.profiled_requests is 0")
    if not 0.5 < limits.confidence < 1.0:  # noqa: PLR2004 - a level of confidence above chance
        raise UsageError(f"{where}: limits.confidence must lie between 0.5 and 1, not {limits.confidence}")
    if load.image is not None and min(load.image.width_px, load.image.height_px, load.image.count) <= 0:
        raise UsageError(f"{where}: load.image needs a width, a height and a count greater than 0")
    if load.request is not None:
        _check_request(load.request, where, images=load.carries_media)
    _check_arrival(load, where)
    check_media(load, where)
    check_stages(load, where)
    _check_command(scenario, where)
    if scenario.target.kind is TargetKind.SGLANG_SERVER:
        _check_kernels(scenario.target, where)


def _check_kernels(target: TargetSpec, where: str) -> None:
    """Refuse a device without the kernels or the model that it needs."""
    if target.device is Device.CPU and target.kernels is Kernels.INSTALLED:
        raise UsageError(
            f'{where}: kernels = "installed" needs device = "cuda"', hint="on the CPU stand-ins replace the GPU kernels"
        )
    if target.device is Device.CUDA and target.environment_spec == CPU_ENVIRONMENT_SPEC:
        raise UsageError(
            f'{where}: environment_spec = "{CPU_ENVIRONMENT_SPEC}" cannot compute on device = "cuda"',
            hint='environment_spec = "python" is the Python that runs perfguard, "python:PATH" another one',
        )
    if target.model is None and not target.stands_in:
        raise UsageError(
            f"{where}: device = cuda needs a model",
            hint='give --model PATH; the tiny generated model runs with kernels = "stand-in" (--kernels stand-in)',
        )


def _check_request(request: RequestSpec, where: str, *, images: bool) -> None:
    """Refuse a request that cannot be sent as it is written."""
    if images:
        raise UsageError(f"{where}: images and load.request exclude each other: images go into chat completions")
    if not request.path.startswith("/"):
        raise UsageError(f"{where}: load.request.path must begin with a slash, not {request.path!r}")
    if request.method not in _METHODS:
        raise UsageError(f"{where}: load.request.method must be one of {', '.join(_METHODS)}, not {request.method!r}")
    if request.json is not None and request.text is not None:
        raise UsageError(f"{where}: load.request takes json or text, not both")


def _check_arrival(load: LoadSpec, where: str) -> None:
    """Refuse arrivals without what their kind needs, and service levels that nothing can meet."""
    slo, arrival = load.slo, load.arrival
    if slo is not None and any(limit is not None and limit <= 0 for limit in (slo.ttft_ms, slo.e2e_ms, slo.tpot_ms)):
        raise UsageError(f"{where}: the limits of load.slo must be greater than 0")
    if arrival is None:
        return
    if arrival.kind is ArrivalKind.TRACE:
        if arrival.trace_file is None or arrival.request_rate is not None:
            raise UsageError(
                f"{where}: load.arrival of kind trace needs a trace_file and takes no request_rate",
                hint="the trace's timestamps are the rate",
            )
        if load.request is not None:
            raise UsageError(f"{where}: a trace's lengths are those of chat completions; leave load.request out")
        return
    if arrival.trace_file is not None:
        raise UsageError(f"{where}: load.arrival.trace_file belongs to kind = 'trace', not to {arrival.kind.value!r}")
    # The upper bound keeps due times apart, which are whole microseconds.
    if arrival.request_rate is None or not 0 < arrival.request_rate <= MAX_REQUEST_RATE:
        raise UsageError(
            f"{where}: load.arrival.request_rate must be greater than 0 and at most {MAX_REQUEST_RATE:,}, not "
            f"{arrival.request_rate}"
        )
    if not 0 < arrival.burstiness < math.inf or arrival.burst_size < 1:
        raise UsageError(f"{where}: load.arrival needs a burstiness greater than 0 and a burst_size of at least 1")


def _check_command(scenario: Scenario, where: str) -> None:
    """Refuse a command that could not be started, or never be reached."""
    command = scenario.target.command
    if (scenario.target.kind is TargetKind.COMMAND) is (command is None):
        raise UsageError(f"{where}: [target.command] belongs to target.kind = 'command', and to no other")
    if command is None:
        return
    if not command.line or not any("{port}" in argument for argument in command.line):
        raise UsageError(
            f"{where}: target.command.line must name the port to listen on",
            hint='for example: line = ["{python}", "server.py", "--port", "{port}"]',
        )
    if not command.health_path.startswith("/"):
        raise UsageError(f"{where}: target.command.health_path must begin with a slash, not {command.health_path!r}")
    if Path(command.source_root).is_absolute() or ".." in Path(command.source_root).parts:
        raise UsageError(f"{where}: target.command.source_root must lie in the revision's tree")


def refuse_unknown(document: Any, kind: Any, path: Path, inside: str) -> None:
    """Name the first field of `document` that the dataclass `kind` does not have.

    Raises:
        UsageError: there is one, or `document` is no table.
    """
    if not isinstance(document, dict):
        raise UsageError(f"{path}: {inside or 'the file'} must be a table")
    hints = typing.get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for name, value in document.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{path}: unknown field {inside}{name}",
                hint=f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}",
            )
        nested = [part for part in (known[name], *typing.get_args(known[name])) if dataclasses.is_dataclass(part)]
        if nested and typing.get_origin(known[name]) is tuple and isinstance(value, list):
            for number, entry in enumerate(value, start=1):
                refuse_unknown(entry, nested[0], path, f"{inside}{name} {number}: ")
        elif nested:
            refuse_unknown(value, nested[0], path, f"{inside}{name}.")
