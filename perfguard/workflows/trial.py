"""One trial: a running server warmed up, loaded and profiled."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from perfguard.evidence.gil_frames import gil_costs
from perfguard.evidence.gil_trials import TRIAL_RATE_HZ, role_gils
from perfguard.evidence.stacks import render_folded
from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import PhasedSchedule, Schedule
from perfguard.model.errors import UntestableError
from perfguard.model.gil_stacks import GilProfile
from perfguard.model.gil_trial import RoleGil
from perfguard.model.gpu import GpuResult
from perfguard.model.progress import Progress
from perfguard.model.scenario import Device, Scenario
from perfguard.model.threads import ProcessTicks
from perfguard.model.trial import (
    ROLE_OTHER,
    CpuResult,
    LoadResult,
    Profile,
    Samples,
)
from perfguard.revisions.bundles import Bundle
from perfguard.revisions.environments import Environment
from perfguard.revisions.repository import Repository
from perfguard.samplers.cpu import CpuSampler
from perfguard.samplers.gil import GilSampler
from perfguard.samplers.gpu import GpuSampler
from perfguard.samplers.pyspy import PySpySampler
from perfguard.store import RunStore
from perfguard.targets.running import RunningServer

# More failed requests than this and what was measured is not the scenario's load.
FAILED_REQUESTS_LIMIT_FRAC = 0.01
_MOST_ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything trials share: what to run, with what, and where results go.

    `environment` is what servers run in, `model_path` the model on disk, `port` a fixed port or None. With
    `replay` no server is started. After `until` (of `time.monotonic()`) no trial begins.
    """

    scenario: Scenario
    schedules: PhasedSchedule
    repository: Repository | Bundle
    environment: Environment
    model_path: Path | None
    store: RunStore
    progress: Progress
    port: int | None
    replay: bool = False
    until: float | None = None


def run_trial(bench: Bench, server: RunningServer, work_dir: Path, *, first: bool, profile: bool) -> Samples:
    """Measure a running server once; with `profile` also the requests that run under the stack sampler.

    The `first` trial on a server warms it up as the scenario says; later ones only let it find its stride again.

    Raises:
        UntestableError: requests failed, a process died, the server did not drain, or the load generator could not
            keep up.
    """
    load = bench.scenario.load
    _replay(server, bench, bench.schedules.warmup if first else bench.schedules.settling)
    measured, cpu, gpu = _measured(server, bench, bench.schedules.measured)
    profiled = _profiled(server, bench, work_dir) if profile and load.profiled_requests else _Profiled()
    server.drain(bench.scenario.target.drain_timeout_s)
    return Samples(
        server=server.report,
        load=measured,
        cpu=cpu,
        profiled_load=profiled.load,
        profiled_cpu=profiled.cpu,
        profiles=profiled.profiles,
        gil=profiled.gil,
        gil_profiles=profiled.gil_profiles,
        gpu=gpu,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profiled:
    """What the samplers saw while the profiled requests ran; nothing where they did not run."""

    load: LoadResult | None = None
    cpu: CpuResult | None = None
    profiles: tuple[Profile, ...] = ()
    gil: tuple[RoleGil, ...] = ()
    gil_profiles: tuple[GilProfile, ...] = ()


def _replay(server: RunningServer, bench: Bench, schedule: Schedule) -> LoadResult:
    """Replay one phase; too many failures make the revision untestable, not slow."""
    load = bench.scenario.load
    result = run_load(
        server.base_url, schedule, concurrency=load.concurrency, timeout_s=load.request_timeout_s, slo=load.slo
    )
    server.check_alive()
    failed = result.errors + result.timeouts
    if failed > FAILED_REQUESTS_LIMIT_FRAC * result.sent:
        reason = f"{failed} of {result.sent} requests failed ({result.timeouts} timed out): {result.first_error}"
        raise UntestableError(reason, log_tail=server.log_tail())
    return result


def _measured(
    server: RunningServer, bench: Bench, schedule: Schedule
) -> tuple[LoadResult, CpuResult, GpuResult | None]:
    """Replay the measured load; once more where the load generator could not keep up: that is no fault of the server's.

    Raises:
        UntestableError: the generator could not keep up twice.
    """
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        cards = GpuSampler() if bench.scenario.target.device is Device.CUDA else None
        with cards or contextlib.nullcontext():
            sampler = CpuSampler([(process.pid, process.role) for process in server.processes()])
            if cards is not None:
                cards.start()
            sampler.start()
            result = _replay(server, bench, schedule)
            cpu = sampler.stop()
            gpu = cards.stop() if cards is not None else None
        if (veto := generator_veto(result)) is None:
            break
        if attempt == _MOST_ATTEMPTS:
            raise UntestableError(f"{veto} ({attempt} times)", log_tail=server.log_tail())
        bench.progress.say(f"the load is repeated: {veto}")
    return result, cpu, gpu


def _profiled(server: RunningServer, bench: Bench, work_dir: Path) -> _Profiled:
    profiling = bench.scenario.profiling
    processes = [(process.pid, process.role) for process in server.processes() if process.role != ROLE_OTHER]
    with (
        PySpySampler(
            processes, rate_hz=profiling.rate_hz, nonblocking=profiling.nonblocking, work_dir=work_dir
        ) as sampler,
        GilSampler(processes, rate_hz=TRIAL_RATE_HZ, stacks=True) as gil_sampler,
    ):
        gil_sampler.start()
        sampler.start()
        cpu_sampler = CpuSampler(processes)
        cpu_sampler.start()
        result = _replay(server, bench, bench.schedules.profiled)
        cpu = cpu_sampler.stop()
        raw_profiles = sampler.stop()
        looked = gil_sampler.stop()
    profiles = tuple(
        Profile(
            role=raw.role,
            pid=raw.pid,
            rate_hz=raw.rate_hz,
            duration_s=raw.duration_s,
            samples=raw.samples,
            lost=raw.lost,
            warnings=raw.warnings,
            artifact=bench.store.put_artifact(raw.text.encode()),
        )
        for raw in raw_profiles
    )
    return _Profiled(
        load=result,
        cpu=cpu,
        profiles=profiles,
        gil=role_gils(looked),
        gil_profiles=tuple(_gil_profile(bench.store, process) for process in looked.processes),
    )


def _gil_profile(store: RunStore, process: ProcessTicks) -> GilProfile:
    costs = gil_costs(process)
    return GilProfile(
        role=process.role,
        pid=process.pid,
        looks=costs.looks,
        holding=store.put_artifact(render_folded(costs.holding).encode()),
        waiting=store.put_artifact(render_folded(costs.waiting).encode()),
        meanwhile=store.put_artifact(render_folded(costs.meanwhile).encode()),
        unknown=costs.unknown,
    )
