"""The HTML pages of recordings and of profiles that were read: their stacks, threads and findings as one report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from perfguard.evidence.callsites import CallSites
from perfguard.evidence.gil_frames import GilCosts, gil_layers
from perfguard.evidence.profile_rules import ProfileFinding
from perfguard.evidence.reading import WeightUnit
from perfguard.evidence.stacks import parse_folded
from perfguard.evidence.summary import ProfileSummary
from perfguard.model.profile import Stack
from perfguard.model.recording import RecordedProcess, RecordedThread, Recording
from perfguard.model.result import Evidence, Finding, RoleProfile
from perfguard.model.threads import ThreadFinding
from perfguard.report.fact_table import FactTable
from perfguard.report.flame import SAMPLES, Side, Unit
from perfguard.report.profile_page import ProfileReport
from perfguard.workflows.analyze import Analysis
from perfguard.workflows.record import process_sites

_MICROSECONDS = Unit(name="microseconds", amount="microseconds", symbol="us", key="us")
_THREAD_COLUMNS = (">tid", "thread", ">running", ">polling", ">ready, no core", ">GIL held", ">GIL wait", ">off CPU")
_MOST_HOLDERS = 3
_MOST_THREADS = 12  # of a process that are told apart in the flamegraph
_GIB = 1024.0**3


def recording_report(recording: Recording, output_dir: Path) -> ProfileReport:
    """Give the page of a recording, whose stacks lie in `output_dir`; kinds of work are told while a process lives."""
    fired = [_thread_finding(finding) for finding in recording.findings]
    processes = recording.processes
    profiles = [profile for process in processes for profile in _process_profiles(process, output_dir)]
    kept = sum(process.stack_samples for process in processes)
    lost = sum(process.stack_samples_lost for process in processes)
    counted = "1 process was" if len(processes) == 1 else f"{len(processes)} processes were"
    said = "; ".join(finding.effect for finding in recording.findings) or "no rule fired"
    return ProfileReport(
        title=f"perfguard record: {', '.join(process.role for process in processes)}",
        sentence=f"{counted} recorded for {recording.duration_s:.1f} s: {said.rstrip('.')}.",
        facts=(
            f"{recording.looks} looks at every thread, {recording.late_looks} late",
            f"{lost:,} of {lost + kept:,} stack samples lost",
            f"the samplers took {recording.sampler_cpu_frac + recording.stack_sampler_cpu_frac:.1%} of a core",
            *(f"warning: {warning}" for warning in recording.warnings),
        ),
        sides=(Side(name="Recorded", label=recording.started_at, profiles=tuple(profiles)),),
        unit=SAMPLES,
        findings=tuple(fired),
        tables=(
            *(_thread_table(process) for process in processes),
            *(_gil_table(process) for process in processes if process.gil_frames),
        ),
        environment=_machine(recording),
        command=recording.command,
    )


def analysis_report(analysis: Analysis, command: str) -> ProfileReport:
    """Give the page of profiles that were read, each of them a process of the flamegraph.

    Profiles that count samples and profiles that hold times do not stand in one flamegraph: those of the first one's
    kind do, and the tables tell of all.
    """
    profiles = tuple(zip(analysis.profiles, analysis.summaries, strict=True))
    stacked = [(read, summary) for read, summary in profiles if read.stacks]
    unit = stacked[0][1].unit if stacked else WeightUnit.SAMPLES
    shown = [(read, summary) for read, summary in stacked if summary.unit is unit]
    roles = _unique_roles([summary for _, summary in shown])
    fired = [finding for finding in analysis.findings if finding.fired]
    return ProfileReport(
        title=f"perfguard analyze: {', '.join(Path(summary.name).name for _, summary in profiles)}",
        sentence=" ".join(finding.effect for finding in fired) or "No rule fired.",
        facts=tuple(f"{Path(summary.name).name}: {_count_of(summary)}" for _, summary in profiles),
        sides=(
            Side(
                name="Profile",
                label="as read",
                profiles=tuple(
                    _role_profile(role, read.stacks, analysis.sites)
                    for role, (read, _) in zip(roles, shown, strict=True)
                ),
            ),
        ),
        unit=SAMPLES if unit is WeightUnit.SAMPLES else _MICROSECONDS,
        findings=tuple(_profile_finding(finding) for finding in analysis.findings),
        tables=tuple(_profile_table(summary) for _, summary in profiles),
        command=command,
    )


def _process_profiles(process: RecordedProcess, output_dir: Path) -> list[RoleProfile]:
    """Give a process's stacks, by thread where it has several: those that ran, had the GIL, and waited for it."""
    stacks = _read_stacks(output_dir, process.stacks)
    costs = GilCosts(
        looks=process.gil_looks,
        holding=_read_stacks(output_dir, process.gil_hold_stacks),
        waiting=_read_stacks(output_dir, process.gil_wait_stacks),
        meanwhile=_read_stacks(output_dir, process.gil_meanwhile_stacks),
        unknown=process.gil_frames_unknown,
    )
    sites = process_sites(process.pid)
    whole = f"{process.role} ({process.pid})"
    # Threads that waited for the GIL and never ran count as well, after those that ran most.
    ran: Counter[str] = Counter()
    for stack in stacks:
        ran[_thread_of(stack)] += stack.samples
    for stack in (*costs.waiting, *costs.holding):
        ran[_thread_of(stack)] += 0
    if not ran:
        return []
    if len(ran) == 1:
        return [_role_profile(whole, stacks, sites, costs)]
    order = [name for name, _ in ran.most_common()]
    groups = [(name, frozenset([name])) for name in order[:_MOST_THREADS]]
    if len(order) > _MOST_THREADS:
        groups.append(("all others", frozenset(order[_MOST_THREADS:])))
    # The viewer adds the threads of a process up by this name.
    return [
        _role_profile(f"{whole}, thread {name}", _of(stacks, threads), sites, _costs_of(costs, threads))
        for name, threads in groups
    ]


def _read_stacks(output_dir: Path, file: str | None) -> tuple[Stack, ...]:
    return parse_folded((output_dir / file).read_text(encoding="utf-8")) if file is not None else ()


def _thread_of(stack: Stack) -> str:
    return f"{stack.tid} {stack.thread}".strip()


def _of(stacks: Sequence[Stack], threads: frozenset[str]) -> tuple[Stack, ...]:
    return tuple(stack for stack in stacks if _thread_of(stack) in threads)


def _costs_of(costs: GilCosts, threads: frozenset[str]) -> GilCosts:
    return replace(
        costs,
        holding=_of(costs.holding, threads),
        waiting=_of(costs.waiting, threads),
        meanwhile=_of(costs.meanwhile, threads),
    )


def _role_profile(role: str, stacks: Sequence[Stack], sites: CallSites, gil: GilCosts | None = None) -> RoleProfile:
    merged: dict[tuple[str, ...], float] = {}
    kinds: dict[tuple[str, ...], str] = {}
    for stack in stacks:
        if not stack.frames:
            continue
        names = tuple(str(frame) for frame in stack.frames)
        merged[names] = merged.get(names, 0.0) + stack.samples
        if names not in kinds:
            kinds[names] = sites.stack(stack.frames).call_class.value
    ordered = sorted(merged.items())
    return RoleProfile(
        role=role,
        samples=sum(stack.samples for stack in stacks),
        trials=1,
        stacks=tuple(ordered),
        classes=tuple(kinds[names] for names, _ in ordered),
        gil=gil_layers([(gil, 1.0)]) if gil is not None else None,
    )


def _unique_roles(summaries: Sequence[ProfileSummary]) -> list[str]:
    """Name every profile by its role, and by its file too where several are of one role."""
    roles = [summary.role for summary in summaries]
    named = [
        summary.role if roles.count(summary.role) == 1 else f"{summary.role}: {Path(summary.name).name}"
        for summary in summaries
    ]
    return [name if named.count(name) == 1 else f"{name} {place}" for place, name in enumerate(named, start=1)]


def _count_of(summary: ProfileSummary) -> str:
    if summary.functions:
        return f"{len(summary.functions)} functions, no stacks"
    unit = "samples" if summary.unit is WeightUnit.SAMPLES else "us"
    return f"{summary.samples:,} {unit} in {summary.distinct_stacks:,} distinct stacks"


def _thread_finding(finding: ThreadFinding) -> Finding:
    where = f"thread {finding.thread} ({finding.tid})" if finding.tid is not None else "the whole process"
    return Finding(
        rule=finding.rule,
        role=finding.role,
        fired=True,
        effect=f"{finding.effect.rstrip('.')}. What helps: {finding.advice}.",
        threshold=f"{finding.threshold:.3g}",
        evidence=(Evidence(what=where, unit="frac", before=math.nan, after=finding.value),),
    )


def _profile_finding(finding: ProfileFinding) -> Finding:
    return Finding(
        rule=finding.rule,
        role=finding.role,
        fired=finding.fired,
        effect=finding.effect,
        threshold=finding.threshold,
        evidence=(Evidence(what=finding.rule, unit="frac", before=math.nan, after=finding.frac),),
    )


def _thread_table(process: RecordedProcess) -> FactTable:
    gil = f" GIL: {process.gil_reason}." if process.gil_reason else ""
    ended = " It ended meanwhile." if process.ended else ""
    return FactTable(
        title=f"Threads of {process.role} ({process.pid})",
        columns=_THREAD_COLUMNS,
        rows=tuple(_thread_row(thread) for thread in process.threads),
        note=f"Shares of the time; running, ready, waiting for the GIL and off the CPU add up to one.{gil}{ended}",
    )


def _gil_table(process: RecordedProcess) -> FactTable:
    return FactTable(
        title=f"Functions of {process.role} ({process.pid}) that waited for the GIL or held it",
        columns=("function", ">waits, s", ">holds, s", "what held it meanwhile, share of the waiting"),
        rows=tuple(
            (
                frame.frame,
                f"{frame.wait_s:.3f}",
                f"{frame.hold_s:.3f}",
                "; ".join(f"{held.frame} {held.wait_frac:.0%}" for held in frame.held_meanwhile[:_MOST_HOLDERS]),
            )
            for frame in process.gil_frames
        ),
        note="By the innermost Python frame, added up over threads; the flamegraph has the whole stacks.",
    )


def _thread_row(thread: RecordedThread) -> tuple[str, ...]:
    shares = (
        thread.running_frac,
        thread.polling_frac,
        thread.run_delay_frac,
        thread.gil_hold_frac,
        thread.gil_wait_frac,
        thread.off_cpu_frac,
    )
    return (str(thread.tid), thread.name, *("?" if share is None else f"{share:.1%}" for share in shares))


def _machine(recording: Recording) -> tuple[tuple[str, str], ...]:
    machine = recording.machine
    return (
        ("cores", str(machine.cores)),
        ("machine busy", f"{machine.busy_frac:.0%}"),
        ("stolen by the hypervisor", f"{machine.stolen_frac:.1%}"),
        ("throttled by a quota", f"{machine.throttled_frac:.1%}"),
        ("looks a second", f"{recording.rate_hz:g}"),
        ("stacks a second", str(recording.stack_rate_hz)),
        *(
            (
                f"card {card.index}, {card.name}",
                f"{card.busy_frac:.0%} busy, {card.memory_used_bytes / _GIB:.1f} GiB taken",
            )
            for card in machine.cards
        ),
    )


def _profile_table(summary: ProfileSummary) -> FactTable:
    name = Path(summary.name).name
    if summary.functions:
        return FactTable(
            title=f"Functions of {name}",
            columns=("function", ">self s", ">total s", ">calls"),
            rows=tuple(
                (
                    f"{each.function} ({each.file}:{each.line})",
                    f"{each.self_s:.3f}",
                    f"{each.total_s:.3f}",
                    str(each.calls),
                )
                for each in summary.functions
            ),
        )
    shares = sorted(summary.class_frac.items(), key=lambda item: -item[1])
    return FactTable(
        title=f"What the samples of {name} were doing",
        columns=("kind of work", ">share"),
        rows=tuple((kind.value, f"{frac:.1%}") for kind, frac in shares),
        note=f"{_count_of(summary)}, {summary.format.value}.",
    )
