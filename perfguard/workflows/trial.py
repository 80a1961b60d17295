"""One trial: a revision's server, warmed up, loaded, profiled and stopped; whatever goes wrong is `Untestable`."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import PhasedSchedule, Schedule
from perfguard.model.errors import MissingTrialError, UntestableError
from perfguard.model.progress import Progress
from perfguard.model.revision import Revision
from perfguard.model.scenario import Scenario, Strategy
from perfguard.model.trial import (
    ROLE_OTHER,
    Completed,
    CpuResult,
    LoadResult,
    Profile,
    Samples,
    Trial,
    TrialOutcome,
    Untestable,
)
from perfguard.revisions.environments import Environment
from perfguard.revisions.repository import Repository
from perfguard.samplers.cpu import CpuSampler
from perfguard.samplers.pyspy import PySpySampler
from perfguard.store import RunStore
from perfguard.targets.sglang_server import RunningServer, start_server

# More failed requests than this and what was measured is not the scenario's load.
FAILED_REQUESTS_LIMIT_FRAC = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything trials share: what to run, with what, and where results go.

    `environment` is what servers run in, `model_path` the model on disk, `port` a fixed port or None. With
    `replay` no server is started.
    """

    scenario: Scenario
    schedules: PhasedSchedule
    repository: Repository
    environment: Environment
    model_path: Path | None
    store: RunStore
    progress: Progress
    port: int | None
    replay: bool = False


def run_trial(bench: Bench, revision: Revision, *, number: int, block: int, strategy: Strategy, profile: bool) -> Trial:
    """Run one trial and keep it in the store; with `profile` also the requests that run under the stack sampler.

    A revision that does not import, start, answer or drain, and a load generator that could not keep up, end as
    `Untestable`; what is wrong with perfguard itself or the machine is raised.

    Raises:
        MissingTrialError: the run is only judged again, and this trial is not kept.
    """
    if bench.replay:
        raise MissingTrialError(number)
    started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    clock = time.monotonic()
    outcome: TrialOutcome
    try:
        outcome = Completed(samples=_measure(bench, revision, number, profile=profile))
    except UntestableError as error:
        outcome = Untestable(reason=error.reason, log=error.log_tail)
    trial = Trial(
        number=number,
        block=block,
        revision=revision.commit,
        strategy=strategy.value,
        started_at=started_at,
        wall_s=time.monotonic() - clock,
        outcome=outcome,
    )
    bench.store.add_trial(trial)
    return trial


def _measure(bench: Bench, revision: Revision, number: int, *, profile: bool) -> Samples:
    target, load = bench.scenario.target, bench.scenario.load
    work_dir = bench.store.run_dir / "work" / f"trial-{number}"
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    say = bench.progress.step
    tree = bench.repository.worktree(revision)
    say(f"trial {number}: starting {revision.label}")
    try:
        with start_server(
            target,
            source_tree=tree,
            python=bench.environment.python,
            work_dir=work_dir,
            model_path=bench.model_path,
            port=bench.port,
        ) as server:
            say(f"trial {number}: warming {revision.label} up, {load.warmup_requests} requests")
            _replay(server, bench, bench.schedules.warmup)
            say(f"trial {number}: measuring {revision.label}, {load.requests} requests")
            measured, cpu = _measured(server, bench, bench.schedules.measured)
            profiled: LoadResult | None = None
            profiled_cpu: CpuResult | None = None
            profiles: tuple[Profile, ...] = ()
            if profile:
                say(f"trial {number}: profiling {revision.label}, {load.profiled_requests} requests")
                profiled, profiled_cpu, profiles = _profiled(server, bench, work_dir)
            server.drain(target.drain_timeout_s)
            return Samples(
                server=server.report,
                load=measured,
                cpu=cpu,
                profiled_load=profiled,
                profiled_cpu=profiled_cpu,
                profiles=profiles,
            )
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def _replay(server: RunningServer, bench: Bench, schedule: Schedule) -> LoadResult:
    """Replay one phase; too many failures make the revision untestable, not slow."""
    load = bench.scenario.load
    result = run_load(server.base_url, schedule, concurrency=load.concurrency, timeout_s=load.request_timeout_s)
    server.check_alive()
    failed = result.errors + result.timeouts
    if failed > FAILED_REQUESTS_LIMIT_FRAC * result.sent:
        reason = f"{failed} of {result.sent} requests failed ({result.timeouts} timed out): {result.first_error}"
        raise UntestableError(reason, log_tail=server.log_tail())
    return result


def _measured(server: RunningServer, bench: Bench, schedule: Schedule) -> tuple[LoadResult, CpuResult]:
    sampler = CpuSampler([(process.pid, process.role) for process in server.processes()])
    sampler.start()
    result = _replay(server, bench, schedule)
    cpu = sampler.stop()
    if (veto := generator_veto(result)) is not None:
        raise UntestableError(veto, log_tail=server.log_tail())
    return result, cpu


def _profiled(server: RunningServer, bench: Bench, work_dir: Path) -> tuple[LoadResult, CpuResult, tuple[Profile, ...]]:
    profiling = bench.scenario.profiling
    processes = [(process.pid, process.role) for process in server.processes() if process.role != ROLE_OTHER]
    with PySpySampler(
        processes, rate_hz=profiling.rate_hz, nonblocking=profiling.nonblocking, work_dir=work_dir
    ) as sampler:
        sampler.start()
        cpu_sampler = CpuSampler(processes)
        cpu_sampler.start()
        result = _replay(server, bench, bench.schedules.profiled)
        cpu = cpu_sampler.stop()
        raw_profiles = sampler.stop()
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
    return result, cpu, profiles
