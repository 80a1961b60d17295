"""Everything a run needs before its first trial: the history, the environment, the model, the store."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from perfguard import __version__
from perfguard.load.schedule import build_phases
from perfguard.model.errors import UsageError
from perfguard.model.progress import Progress
from perfguard.model.revision import Revision
from perfguard.model.scenario import Scenario, TargetKind
from perfguard.revisions.bundles import Bundle
from perfguard.revisions.environments import Environment, EnvironmentManager, existing_environment
from perfguard.revisions.installers import InstallerName
from perfguard.revisions.releases import named_releases, release_history
from perfguard.revisions.repository import Repository
from perfguard.revisions.specs import load_spec
from perfguard.store import RunStore
from perfguard.targets.sglang_launch import ensure_tiny_model
from perfguard.workflows.places import cache_dir
from perfguard.workflows.scenarios import OWN_PYTHON
from perfguard.workflows.trial import Bench

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What every measuring verb is asked: where, with what, and how.

    `command` is the command line that repeats the run, `run_dir` its folder; `resume` continues the run in it. `refs`
    are the revisions as they were named. With `replay` nothing is run: a trial that is not kept is an error. After
    `until` (of `time.monotonic()`) no trial begins. `bundle` is the folder of a bundle, which then gives the revisions,
    the environment and the tiny model.
    """

    command: str
    repo: str | None
    package: str
    scenario: Scenario
    run_dir: Path
    resume: bool
    seed: int
    port: int | None
    installer: InstallerName
    refs: tuple[str, ...] = ()
    replay: bool = False
    until: float | None = None
    bundle: Path | None = None


def open_range(request: RunRequest, good: str, bad: str, progress: Progress) -> Repository:
    """Open the clone that was named, or turn the releases between the two versions into a history."""
    if request.repo is not None:
        return Repository.open(request.repo, cache_dir=cache_dir(), progress=progress)
    return release_history(request.package, good, bad, cache_dir=cache_dir(), progress=progress)


def open_named(request: RunRequest, refs: Sequence[str], progress: Progress) -> Repository | Bundle:
    """Open the bundle or the clone that was named, or just the releases that `refs` names."""
    if request.bundle is not None:
        return Bundle(request.bundle, cache_dir=cache_dir(), progress=progress)
    if request.repo is not None:
        return Repository.open(request.repo, cache_dir=cache_dir(), progress=progress)
    return named_releases(request.package, refs, cache_dir=cache_dir(), progress=progress)


def open_store(
    request: RunRequest, verb: str, revisions: tuple[Revision, ...], more: Mapping[str, Any] | None = None
) -> RunStore:
    """Make the run's folder, or open the one that is continued; `more` are settings of the verb's own.

    Raises:
        UsageError: the folder holds another run than the one that was asked for.
    """
    settings: dict[str, Any] = {
        "verb": verb,
        "revisions": [revision.commit for revision in revisions],
        "scenario": msgspec.to_builtins(request.scenario),
        "seed": request.seed,
        **(more or {}),
    }
    if not request.resume:
        return RunStore.create(request.run_dir, {**settings, "request": kept_request(request)})
    store = RunStore.open(request.run_dir)
    kept = store.settings()
    kept["scenario"] = _as_of_now(kept.get("scenario"))
    for key, wanted in settings.items():
        if kept.get(key) != msgspec.json.decode(msgspec.json.encode(wanted)):
            store.close()
            raise UsageError(
                f"the run in {request.run_dir} has another {key}",
                hint="repeat the command that began it (see its report), or start anew without --resume",
            )
    return store


def _as_of_now(scenario: Any) -> Any:
    """Give a kept scenario the fields that scenarios have gained since its run, at their defaults."""
    try:
        return msgspec.json.decode(msgspec.json.encode(msgspec.convert(scenario, Scenario)))
    except msgspec.ValidationError:
        return scenario


def kept_request(request: RunRequest) -> dict[str, Any]:
    """Give what a run keeps of its request, so that it can be told and judged again without its command line."""
    repo = request.repo
    return {
        "command": request.command,
        # What was named from the folder that perfguard started in means nothing elsewhere; a URL stays.
        "repo": str(Path(repo).resolve()) if repo is not None and Path(repo).exists() else repo,
        "package": request.package,
        "refs": list(request.refs),
        "installer": request.installer,
        "bundle": str(request.bundle.resolve()) if request.bundle is not None else None,
    }


def open_bench(request: RunRequest, repository: Repository | Bundle, store: RunStore, progress: Progress) -> Bench:
    """Make what trials need: the environment, the model and the frozen schedules; a bundle has the first two."""
    if isinstance(repository, Bundle):
        environment = repository.environment()
        model = repository.tiny_model() if needs_tiny_model(request.scenario) else None
    else:
        environment = ensure_environment(request.scenario, installer=request.installer, progress=progress)
        model = None
    return Bench(
        scenario=request.scenario,
        schedules=build_phases(request.scenario.load),
        repository=repository,
        environment=environment,
        model_path=model or model_path(request.scenario, environment),
        store=store,
        progress=progress,
        port=request.port,
        replay=request.replay,
        until=request.until,
    )


def ensure_environment(scenario: Scenario, *, installer: InstallerName, progress: Progress) -> Environment:
    """Return the scenario's environment: the user's own Python, or a managed one that is created now if need be."""
    name, _, path = scenario.target.environment_spec.partition(":")
    if name == OWN_PYTHON:
        return existing_environment(path or None)
    manager = EnvironmentManager(cache_dir(), installer=installer)
    return manager.ensure(load_spec(scenario.target.environment_spec), python=None, progress=progress)


def model_path(scenario: Scenario, environment: Environment) -> Path | None:
    """Return the model on disk: the user's, or the tiny one, generated once; None where the server needs none."""
    if needs_tiny_model(scenario):
        return ensure_tiny_model(environment.python, cache_dir())
    if scenario.target.kind is TargetKind.COMMAND or scenario.target.model is None:
        return None
    return Path(scenario.target.model).resolve()


def needs_tiny_model(scenario: Scenario) -> bool:
    """Whether the scenario's server loads the generated tiny model."""
    target = scenario.target
    return target.kind is not TargetKind.COMMAND and target.model is None and target.stands_in


def machine() -> tuple[tuple[str, str], ...]:
    """Describe the machine that measures, for the report."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        ("perfguard", __version__),
        ("platform", platform.platform()),
        ("cpu", _cpu_model()),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("memory_gib", f"{memory:.1f}"),
        ("python", platform.python_version()),
        ("transparent_huge_pages", huge_pages()),
    )


def huge_pages() -> str:
    """Return the kernel's setting of transparent huge pages, such as `madvise`: copying large tensors depends on it."""
    try:
        text = _HUGE_PAGES.read_text(encoding="ascii", errors="replace")
    except OSError:
        return "unknown"
    chosen = re.search(r"\[(\w+)\]", text)
    return chosen[1] if chosen else "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
