"""Record live processes: their stacks, their threads, their GIL and the CPU, all in one window."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from perfguard.evidence.callsites import CallClass, CallSites
from perfguard.evidence.cpu import divide_work, judge_cpu
from perfguard.evidence.gil import ThreadShare, judge_gil, thread_shares
from perfguard.evidence.gil_frames import gil_costs, top_frames, with_names
from perfguard.evidence.memory import judge_memory, memory_growth
from perfguard.evidence.stacks import parse_folded, render_folded
from perfguard.model.errors import PerfguardError, UntestableError
from perfguard.model.gpu import GpuResult
from perfguard.model.memory import MemoryGrowth, ProcessReadings
from perfguard.model.profile import Stack
from perfguard.model.recording import RecordedMachine, RecordedProcess, RecordedThread, Recording, TopFrame
from perfguard.model.threads import ProcessTicks, ThreadFinding, ThreadRecording
from perfguard.model.traffic import ProcessTraffic
from perfguard.model.trial import CpuResult
from perfguard.samplers.cpu import CpuSampler
from perfguard.samplers.gil import GilSampler
from perfguard.samplers.gil_locate import locate_gil
from perfguard.samplers.gil_memory import ProcessMemory
from perfguard.samplers.gpu import GpuSampler
from perfguard.samplers.memory import MIN_INTERVAL_S, MemorySampler
from perfguard.samplers.memray import Allocations, check_memray, draw_allocations
from perfguard.samplers.ptrace import why_denied
from perfguard.samplers.pyspy import PySpySampler, RawProfile
from perfguard.samplers.sockets import SocketSampler
from perfguard.workflows.live import LiveProcess, is_alive
from perfguard.workflows.sources import TreeSources

DOCUMENT = "record.json"
_SCHEMA_VERSION = 1
_TOP_FRAMES = 3
_GIL_FRAMES = 10
_POLL_S = 0.1
_AWAKE_CORES = 0.01
_ASLEEP = f"it is no Python process, has ended, or ran less than {_AWAKE_CORES:.0%} of the time"
# A reading takes 13 ms of CPU for each gibibyte: ten are enough for a rate with an interval, five must do in a short
# recording.
_MEMORY_READINGS = 10
_LEAST_MEMORY_READINGS = 5
_MEMORY_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRequest:
    """What to record. `stack_rate_hz` 0 leaves the stacks out, `memray_s` 0 memray, which follows for so long.

    The files go to `output_dir`.
    """

    command: str
    processes: tuple[LiveProcess, ...]
    duration_s: float
    rate_hz: float
    stack_rate_hz: int
    output_dir: Path
    memray_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What each sampler brought."""

    ticks: ThreadRecording
    machine: CpuResult
    memory: tuple[ProcessReadings, ...]
    traffic: tuple[ProcessTraffic, ...]
    profiles: tuple[RawProfile, ...]
    cards: GpuResult


def record(request: RecordRequest) -> Recording:
    """Record the processes until the time is over or all of them have ended, and write the data.

    Raises:
        UntestableError: none of them may be read, or all ended before anything was seen.
        UsageError: memray is asked for and missing.
        PerfguardError: a sampler cannot run.
    """
    if request.memray_s:
        check_memray()
    warnings: list[str] = []
    pythons = _readable_pythons(request.processes, warnings)
    started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    request.output_dir.mkdir(parents=True, exist_ok=True)
    seen = _sample(request, pythons, warnings)
    ticks = seen.ticks
    if not any(thread.ticks or thread.observed_s for process in ticks.processes for thread in process.threads):
        named = ", ".join(str(process.pid) for process in request.processes)
        raise UntestableError(f"nothing could be recorded: process {named} ended at once")
    result = _judge(request, started_at=started_at, seen=seen, warnings=warnings)
    document = request.output_dir / DOCUMENT
    document.write_bytes(to_json(result))
    if request.memray_s:
        result = _with_memray(result, request)
        document.write_bytes(to_json(result))
    return result


def _with_memray(recording: Recording, request: RecordRequest) -> Recording:
    """Let memray track the processes that still run, now that nothing else is measured."""
    pythons = [(each.pid, each.python) for each in recording.processes if _is_awake(each)]
    drawn = {
        each.pid: each for each in draw_allocations(pythons, seconds=request.memray_s, output_dir=request.output_dir)
    }
    return replace(
        recording, processes=tuple(_with_allocations(each, drawn.get(each.pid)) for each in recording.processes)
    )


def _with_allocations(process: RecordedProcess, drawn: Allocations | None) -> RecordedProcess:
    if drawn is None or drawn.flamegraph is None:
        return replace(process, memray_unknown=drawn.unknown if drawn else _ASLEEP)
    return replace(process, memray=drawn.flamegraph.name)


def _is_awake(process: RecordedProcess) -> bool:
    """Whether a process is Python and runs often enough for a debugger to get in at its next allocation."""
    running = sum(thread.running_frac for thread in process.threads)
    return bool(process.python) and not process.ended and running >= _AWAKE_CORES


def to_json(recording: Recording) -> bytes:
    """Write a recording as its JSON document."""
    return msgspec.json.format(msgspec.json.encode(recording), indent=2) + b"\n"


def _readable_pythons(processes: Sequence[LiveProcess], warnings: list[str]) -> tuple[LiveProcess, ...]:
    """Return the processes that py-spy can sample.

    Raises:
        UntestableError: none of `processes` may be read.
    """
    pythons, denied = [], []
    for process in processes:
        try:
            with ProcessMemory(process.pid) as memory:
                if locate_gil(process.pid, memory).python:
                    pythons.append(process)
        except PermissionError:
            denied.append(process)
        except OSError:  # it ended since it was listed: the samplers say so
            continue
    if not denied:
        return tuple(pythons)
    reason, mend = why_denied(instead="")
    named = ", ".join(f"{process.pid} ({process.title})" for process in denied)
    if len(denied) == len(processes):
        raise UntestableError(f"process {named} may not be read: {reason}", hint=mend)
    warnings.append(f"process {named} may not be read: {reason}; {mend}")
    return tuple(pythons)


def _sample(request: RecordRequest, pythons: Sequence[LiveProcess], warnings: list[str]) -> _Seen:
    """Run the samplers side by side: py-spy, the slowest to begin, outermost."""
    pairs = tuple((process.pid, process.title) for process in request.processes)
    with ExitStack() as stack:
        stacks: PySpySampler | None = None
        if request.stack_rate_hz and pythons:
            # Never pause a server that serves: a lost sample is cheaper.
            stacks = stack.enter_context(
                PySpySampler(
                    [(process.pid, process.title) for process in pythons],
                    rate_hz=request.stack_rate_hz,
                    nonblocking=True,
                    work_dir=request.output_dir,
                )
            )
            try:
                stacks.start()
            except PerfguardError as error:  # the threads can be told without stacks
                warnings.append(f"no stacks: {error.message}" + (f"; {error.hint}" if error.hint else ""))
                stacks = None
        alive = [pair for pair in pairs if is_alive(pair[0])]
        if not alive:
            raise UntestableError("nothing could be recorded: the processes ended before the samplers had begun")
        cpu = CpuSampler(alive)
        threads = stack.enter_context(GilSampler(pairs, rate_hz=request.rate_hz, stacks=request.stack_rate_hz > 0))
        memory = stack.enter_context(MemorySampler(alive, interval_s=_memory_interval_s(request.duration_s)))
        sockets = stack.enter_context(SocketSampler(alive))
        cards = stack.enter_context(GpuSampler())
        threads.start()
        cpu.start()
        memory.start()
        sockets.start()
        cards.start()
        _wait(request.duration_s, [pid for pid, _ in alive])
        return _Seen(
            cards=cards.stop(),
            traffic=sockets.stop(),
            memory=memory.stop(),
            machine=cpu.stop(),
            ticks=threads.stop(),
            profiles=stacks.stop() if stacks else (),
        )


def _memory_interval_s(duration_s: float) -> float:
    seldom_s = max(_MEMORY_INTERVAL_S, duration_s / _MEMORY_READINGS)
    return max(MIN_INTERVAL_S, min(seldom_s, duration_s / _LEAST_MEMORY_READINGS))


def _wait(duration_s: float, pids: Sequence[int]) -> None:
    deadline_s = time.monotonic() + duration_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        time.sleep(min(_POLL_S, left_s))
        if not any(is_alive(pid) for pid in pids):
            return


def _judge(
    request: RecordRequest,
    *,
    started_at: str,
    seen: _Seen,
    warnings: list[str],
) -> Recording:
    ticks, machine = seen.ticks, seen.machine
    by_pid = {profile.pid: profile for profile in seen.profiles}
    memory = {process.pid: process for process in seen.memory}
    traffic = {process.pid: process for process in seen.traffic}
    processes: list[RecordedProcess] = []
    findings: list[ThreadFinding] = []
    for process in ticks.processes:
        profile = by_pid.get(process.pid)
        warnings += [
            f"stacks of {process.pid} ({process.role}): {said}" for said in (profile.warnings if profile else ())
        ]
        grown = memory_growth(memory[process.pid]) if process.pid in memory else None
        recorded, fired = _judge_process(process, profile, machine, grown, request.output_dir)
        processes.append(replace(recorded, tcp=traffic.get(process.pid)))
        findings += fired
    return Recording(
        schema_version=_SCHEMA_VERSION,
        command=request.command,
        started_at=started_at,
        duration_s=ticks.duration_s,
        rate_hz=ticks.rate_hz,
        stack_rate_hz=request.stack_rate_hz,
        looks=ticks.ticks,
        late_looks=ticks.late_ticks,
        sampler_cpu_frac=ticks.sampler_cpu_s / ticks.duration_s,
        stack_sampler_cpu_frac=sum(profile.sampler_cpu_s for profile in seen.profiles) / ticks.duration_s,
        machine=RecordedMachine(
            cores=machine.cores,
            busy_frac=machine.machine_busy_frac,
            stolen_frac=machine.stolen_frac,
            throttled_frac=machine.throttled_s / machine.duration_s,
            pressure=ticks.pressure,
            cards=seen.cards.cards,
            cards_unknown=seen.cards.unknown,
        ),
        processes=tuple(processes),
        findings=tuple(findings),
        warnings=tuple(warnings),
    )


def _judge_process(
    process: ProcessTicks,
    profile: RawProfile | None,
    machine: CpuResult,
    grown: MemoryGrowth | None,
    output_dir: Path,
) -> tuple[RecordedProcess, tuple[ThreadFinding, ...]]:
    stacks = parse_folded(profile.text) if profile else ()
    stacks_file = output_dir / f"stacks-{process.pid}.folded"
    if profile and stacks:
        stacks_file.write_text(profile.text, encoding="utf-8")
    polling = _polling_of_running(stacks, process.pid)
    shares = thread_shares(process)
    findings = (
        *judge_gil(process, shares),
        *judge_cpu(process, shares, polling, machine),
        *(judge_memory(grown) if grown else ()),
    )
    costs = with_names(gil_costs(process), stacks)
    recorded = RecordedProcess(
        pid=process.pid,
        role=process.role,
        python=process.python,
        gil=process.gil,
        gil_reason=process.gil_reason,
        ended=process.ended,
        stack_samples=profile.samples if profile else 0,
        stack_samples_lost=profile.lost if profile else 0,
        stacks=stacks_file.name if stacks else None,
        memory=grown,
        gil_frames=top_frames(costs, most=_GIL_FRAMES),
        gil_frames_unknown=costs.unknown,
        gil_hold_stacks=_write_stacks(output_dir / f"gil-hold-{process.pid}.folded", costs.holding),
        gil_wait_stacks=_write_stacks(output_dir / f"gil-wait-{process.pid}.folded", costs.waiting),
        gil_meanwhile_stacks=_write_stacks(output_dir / f"gil-meanwhile-{process.pid}.folded", costs.meanwhile),
        gil_looks=costs.looks,
        threads=tuple(_thread(share, polling, stacks) for share in shares),
    )
    return recorded, findings


def _write_stacks(file: Path, stacks: Sequence[Stack]) -> str | None:
    """Write folded stacks, whose counts are microseconds; gives the file's name, None without any stacks."""
    if not stacks:
        return None
    file.write_text(render_folded(stacks), encoding="utf-8")
    return file.name


def _thread(share: ThreadShare, polling: dict[int, float], stacks: Sequence[Stack]) -> RecordedThread:
    work = divide_work(share, polling)
    return RecordedThread(
        tid=share.tid,
        name=share.name,
        running_frac=share.running_frac,
        working_frac=work.working_frac,
        polling_frac=work.polling_frac,
        run_delay_frac=share.run_delay_frac,
        gil_hold_frac=share.gil_hold_frac,
        gil_wait_frac=share.gil_wait_frac,
        gil_wait_low_frac=share.gil_wait_low_frac,
        gil_wait_high_frac=share.gil_wait_high_frac,
        off_cpu_frac=share.off_cpu_frac,
        gil_unknown=share.gil_unknown,
        voluntary_switches_per_s=share.voluntary_switches_per_s,
        involuntary_switches_per_s=share.involuntary_switches_per_s,
        looks=share.ticks,
        top_frames=_top_frames(share.tid, stacks),
    )


def _top_frames(tid: int, stacks: Sequence[Stack]) -> tuple[TopFrame, ...]:
    counts: Counter[str] = Counter()
    for stack in stacks:
        if stack.tid == tid and stack.frames:
            counts[str(stack.frames[-1])] += stack.samples
    whole = sum(counts.values())
    return tuple(TopFrame(frame=frame, sample_frac=count / whole) for frame, count in counts.most_common(_TOP_FRAMES))


def _polling_of_running(stacks: Sequence[Stack], pid: int) -> dict[int, float]:
    """Return by thread id the share of its samples that were polling, by the source that the process itself sees."""
    sites = process_sites(pid)
    seen: Counter[int] = Counter()
    polled: Counter[int] = Counter()
    for stack in stacks:
        if stack.tid and stack.frames:
            seen[stack.tid] += stack.samples
            if sites.stack(stack.frames).call_class is CallClass.POLL:
                polled[stack.tid] += stack.samples
    return {tid: polled[tid] / samples for tid, samples in seen.items()}


def process_sites(pid: int) -> CallSites:
    """Class the stacks of a live process by the source that it itself sees."""
    return CallSites(_ProcessSources(pid))


class _ProcessSources:
    """Looks source files up where the process has them, which may be another mount namespace."""

    def __init__(self, pid: int) -> None:
        self._tree = TreeSources([Path(f"/proc/{pid}/root")])

    def source(self, file: str) -> str | None:
        """Return the text of `file`, or None where it is not to be had."""
        return self._tree.source(file.lstrip("/"))
