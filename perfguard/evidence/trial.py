"""What one trial shows of each role: its stacks' costs by class, and how busy it and the machine were with work.

Costs come from the requests that ran with the stack sampler. How busy a role was comes from the measured requests,
which ran without it: the sampler only lends the share of each thread that was polling.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perfguard.evidence.callrules import GENERIC_RULES, CallRules
from perfguard.evidence.callsites import CallClass, CallSites, SourceLookup, StackClass
from perfguard.evidence.cost import StackCosts, cost_stacks
from perfguard.evidence.eventloop import blocking_site, runs_on_loop
from perfguard.model.errors import PerfguardError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perfguard.evidence.gil_frames import GilCosts
    from perfguard.model.profile import Frame, Stack
    from perfguard.model.trial import CpuResult, ProcessCpu, Samples

_MS_PER_S = 1000.0
# A role without stacks that used less of a core than this cannot blur what the machine was busy with.
_NEGLIGIBLE_CORES = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleLoad:
    """How much CPU a role used for the measured requests, and how much of it for work (polling taken off).

    `working_ms_per_request` covers all of the role's threads. `busiest_thread_cores` is the working CPU of its busiest
    thread, in cores, and `run_delay_frac` the share of that thread's ready time in which it waited for a core. The
    first two are None where the role has no stacks, since nothing then tells work from polling.
    """

    role: str
    cpu_ms_per_request: float
    working_ms_per_request: float | None
    busiest_thread_cores: float | None
    run_delay_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleEvidence:
    """The stacks of one role: their costs, the CPU milliseconds per request of each class, and of each deciding line.

    `site_ms` is keyed by class and the deciding frame. `loop_block_ms` holds what an asyncio loop's thread spent in
    calls that do not yield, by the deciding frame; it is None where no loop was seen. `stack_class` has every stack,
    and `stack_thread` the name of the thread that it was seen in most.
    """

    costs: StackCosts
    class_ms: Mapping[CallClass, float]
    site_ms: Mapping[tuple[CallClass, Frame], float]
    loop_block_ms: Mapping[Frame, float] | None = None
    stack_class: Mapping[tuple[Frame, ...], CallClass] = field(default_factory=dict)
    stack_thread: Mapping[tuple[Frame, ...], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEvidence:
    """One completed trial as the rules see it.

    `cpu` and `requests` are of the measured load. `roles` has the profiled roles, `loads` all. `machine_working_frac`
    is the share of all cores that was busy with anything but polling, or None where a role that used CPU has no stacks.
    `gil` has the roles whose GIL was looked at by stack, over the `profiled_requests`.
    `gpu_busy_frac` is how busy the graphics cards were, None where none was read.
    """

    cpu: CpuResult
    requests: int
    roles: Mapping[str, RoleEvidence]
    loads: Mapping[str, RoleLoad]
    machine_working_frac: float | None
    gil: Mapping[str, GilCosts] = field(default_factory=dict)
    profiled_requests: int = 0
    gpu_busy_frac: float | None = None

    @property
    def costs(self) -> dict[str, StackCosts]:
        """The costs of every profiled role."""
        return {role: evidence.costs for role, evidence in self.roles.items()}


def trial_evidence(
    samples: Samples,
    stacks: Mapping[str, Sequence[Stack]],
    source: SourceLookup,
    rules: CallRules = GENERIC_RULES,
    gil: Mapping[str, GilCosts] | None = None,
) -> TrialEvidence:
    """Judge what a trial measured, role by role.

    Args:
        samples: the completed trial.
        stacks: the parsed stacks of every profiled role (an idle process's may be empty); ignored where the trial ran
            without profiling.
        source: the source files of the revision that ran, by the names in `stacks`.
        rules: what the names of calls say; the server's own have to be added to the generic ones.
        gil: the stacks of every role that held its GIL and that waited for it, where they were read.

    Raises:
        PerfguardError: no request succeeded, or a role has stacks but its CPU was not sampled.
    """
    if samples.load.succeeded <= 0:
        raise PerfguardError("the trial cannot be judged: not one request of the measured load succeeded")
    sites = CallSites(source, rules)
    roles: dict[str, RoleEvidence] = {}
    polling: dict[str, _Polling] = {}
    if samples.profiled_cpu is not None and samples.profiled_load is not None:
        for role, role_stacks in stacks.items():
            processes = _processes(samples.profiled_cpu, role)
            if not processes:
                raise PerfguardError(f"there are stacks of {role}, but its CPU was not sampled")
            classes = {stack.frames: sites.stack(stack.frames) for stack in role_stacks if stack.frames}
            roles[role] = _role_evidence(role_stacks, processes, samples.profiled_load.succeeded, classes)
            polling[role] = _polling(role_stacks, roles[role].costs, classes)
    names = dict.fromkeys(process.role for process in samples.cpu.processes)
    return TrialEvidence(
        cpu=samples.cpu,
        requests=samples.load.succeeded,
        roles=roles,
        loads={role: _role_load(role, samples.cpu, samples.load.succeeded, polling.get(role)) for role in names},
        machine_working_frac=_machine_working_frac(samples.cpu, polling),
        gil=gil or {},
        profiled_requests=samples.profiled_load.succeeded if samples.profiled_load else 0,
        gpu_busy_frac=samples.gpu.busy_frac if samples.gpu is not None else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Polling:
    """The share of CPU that a role spent polling: of each sampled thread by id, and of the whole role."""

    by_tid: Mapping[int, float]
    whole: float

    def of_thread(self, tid: int) -> float:
        """Threads that were not sampled serve those that were (a transport's own), so they follow the role's share."""
        return self.by_tid.get(tid, self.whole)


def _role_evidence(
    stacks: Sequence[Stack],
    processes: Sequence[ProcessCpu],
    requests: int,
    classes: Mapping[tuple[Frame, ...], StackClass],
) -> RoleEvidence:
    def is_polling(frames: tuple[Frame, ...]) -> bool:
        return classes[frames].call_class is CallClass.POLL

    costs = cost_stacks(stacks, processes, requests, is_polling=is_polling)
    class_ms: dict[CallClass, float] = {}
    site_ms: dict[tuple[CallClass, Frame], float] = {}
    loop_block_ms: dict[Frame, float] | None = None
    for frames, cost_ms in (*costs.working.items(), *costs.polling.items()):
        verdict = classes[frames]
        if runs_on_loop(frames):
            loop_block_ms = loop_block_ms or {}
            blocking = blocking_site(frames, verdict)
            if blocking is not None:
                loop_block_ms[blocking] = loop_block_ms.get(blocking, 0.0) + cost_ms
        class_ms[verdict.call_class] = class_ms.get(verdict.call_class, 0.0) + cost_ms
        if verdict.site is not None:
            key = (verdict.call_class, verdict.site)
            site_ms[key] = site_ms.get(key, 0.0) + cost_ms
    return RoleEvidence(
        costs=costs,
        class_ms=class_ms,
        site_ms=site_ms,
        loop_block_ms=loop_block_ms,
        stack_class={frames: verdict.call_class for frames, verdict in classes.items()},
        stack_thread=_threads_of(stacks),
    )


def _threads_of(stacks: Sequence[Stack]) -> dict[tuple[Frame, ...], str]:
    """Name the thread that each stack was seen in most; a pool's threads run the same stacks."""
    seen: dict[tuple[Frame, ...], Counter[str]] = {}
    for stack in stacks:
        if stack.frames and stack.thread:
            seen.setdefault(stack.frames, Counter())[stack.thread] += stack.samples
    return {frames: max(counts, key=lambda name: (counts[name], name)) for frames, counts in seen.items()}


def _polling(stacks: Sequence[Stack], costs: StackCosts, classes: Mapping[tuple[Frame, ...], StackClass]) -> _Polling:
    seen: Counter[int] = Counter()
    polled: Counter[int] = Counter()
    for stack in stacks:
        if stack.frames:
            seen[stack.tid] += stack.samples
            if classes[stack.frames].call_class is CallClass.POLL:
                polled[stack.tid] += stack.samples
    sampled_ms = costs.working_ms + costs.polling_ms
    return _Polling(
        by_tid={tid: polled[tid] / count for tid, count in seen.items() if tid},
        whole=costs.polling_ms / sampled_ms if sampled_ms else 0.0,
    )


def _role_load(role: str, cpu: CpuResult, requests: int, polling: _Polling | None) -> RoleLoad:
    processes = _processes(cpu, role)
    threads = [thread for process in processes for thread in process.threads]
    shares = {thread.tid: polling.of_thread(thread.tid) if polling else 0.0 for thread in threads}
    busiest = max(threads, key=lambda thread: thread.cpu_s * (1.0 - shares[thread.tid]), default=None)
    ready_s = busiest.cpu_s + busiest.run_delay_s if busiest else 0.0
    cpu_s = sum(process.cpu_s for process in processes)
    known = polling is not None
    busiest_s = busiest.cpu_s * (1.0 - shares[busiest.tid]) if busiest else 0.0
    return RoleLoad(
        role=role,
        cpu_ms_per_request=cpu_s * _MS_PER_S / requests,
        working_ms_per_request=(cpu_s - _polling_s(processes, polling)) * _MS_PER_S / requests if polling else None,
        busiest_thread_cores=busiest_s / cpu.duration_s if known else None,
        run_delay_frac=busiest.run_delay_s / ready_s if busiest and ready_s else 0.0,
    )


def _polling_s(processes: Sequence[ProcessCpu], polling: _Polling) -> float:
    spent_s = 0.0
    for process in processes:
        spent_s += sum(thread.cpu_s * polling.of_thread(thread.tid) for thread in process.threads)
        spent_s += max(0.0, process.cpu_s - sum(thread.cpu_s for thread in process.threads)) * polling.whole
    # The kernel reads a process and its threads one after the other: their sums may differ by a tick.
    return min(spent_s, sum(process.cpu_s for process in processes))


def _machine_working_frac(cpu: CpuResult, polling: Mapping[str, _Polling]) -> float | None:
    polled_s = 0.0
    for process in cpu.processes:
        if process.role in polling:
            polled_s += _polling_s([process], polling[process.role])
        elif process.cpu_s / cpu.duration_s >= _NEGLIGIBLE_CORES:
            return None
    return max(0.0, cpu.machine_busy_frac - polled_s / (cpu.duration_s * cpu.cores))


def _processes(cpu: CpuResult, role: str) -> tuple[ProcessCpu, ...]:
    return tuple(process for process in cpu.processes if process.role == role)
