"""Whether the CPU holds a live process back: a thread that works all the time, or one that waits for a core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfguard.evidence.gil import ThreadShare
from perfguard.evidence.rule_config import CPU_SATURATED, RuleConfig
from perfguard.model.threads import ProcessTicks, ThreadFinding
from perfguard.model.trial import CpuResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadWork:
    """A thread's running time divided by what its stacks do, in fractions of the time in which it was watched.

    Both are None where no stack of the thread was sampled: nothing then tells work from polling.
    """

    working_frac: float | None
    polling_frac: float | None


def divide_work(share: ThreadShare, polling_of_running: Mapping[int, float]) -> ThreadWork:
    """Divide a thread's running time into working and polling.

    Args:
        share: the thread.
        polling_of_running: by thread id, the share of a thread's sampled stacks that were polling.
    """
    if share.tid not in polling_of_running:
        return ThreadWork(working_frac=None, polling_frac=None)
    polling = share.running_frac * polling_of_running[share.tid]
    return ThreadWork(working_frac=share.running_frac - polling, polling_frac=polling)


def judge_cpu(
    process: ProcessTicks,
    shares: Sequence[ThreadShare],
    polling_of_running: Mapping[int, float],
    machine: CpuResult,
    *,
    config: RuleConfig | None = None,
) -> tuple[ThreadFinding, ...]:
    """Fire `cpu_saturated` on a process, at most once for each cause, the most direct cause first.

    The causes: a thread works (polling is no work) nearly all the time; a thread that has work waits for a core; the
    control group's quota stops the process. `config` has the thresholds.
    """
    config = config or RuleConfig()
    findings = []
    busiest = max(shares, key=lambda share: _working(share, polling_of_running), default=None)
    if busiest and (working := _working(busiest, polling_of_running)) >= config.thread_saturated_cores:
        told = "" if busiest.tid in polling_of_running else " (no stacks: polling is not told apart)"
        findings.append(
            _finding(
                process,
                busiest,
                value=working,
                threshold=config.thread_saturated_cores,
                effect=f"{busiest.name} ({busiest.tid}) works {working:.0%} of the time{told}; "
                "a thread has one core at most",
                advice="look at this thread's top frames: its work must shrink or be divided",
            )
        )
    starved = [share for share in shares if share.running_frac >= config.run_delay_min_cores]
    slowest = max(starved, key=_delay_of_ready, default=None)
    if slowest and (delay := _delay_of_ready(slowest)) >= config.run_delay_frac:
        stolen = (
            f"; {machine.stolen_frac:.0%} of the machine was taken by the hypervisor" if machine.stolen_frac else ""
        )
        findings.append(
            _finding(
                process,
                slowest,
                value=delay,
                threshold=config.run_delay_frac,
                effect=f"{slowest.name} ({slowest.tid}) waits for a core {delay:.0%} of the time it could run; "
                f"the machine's {machine.cores} cores are {machine.machine_busy_frac:.0%} busy{stolen}",
                advice="fewer threads or more cores: look for thread pools larger than the machine, and for neighbours",
            )
        )
    throttled_frac = machine.throttled_s / machine.duration_s if machine.duration_s else 0.0
    if throttled_frac >= config.throttled_frac:
        findings.append(
            _finding(
                process,
                None,
                value=throttled_frac,
                threshold=config.throttled_frac,
                effect=f"the control group's CPU quota stops the process {throttled_frac:.0%} of the time",
                advice="raise the CPU limit of the container or of its service",
            )
        )
    return tuple(findings)


def _working(share: ThreadShare, polling_of_running: Mapping[int, float]) -> float:
    return share.running_frac * (1.0 - polling_of_running.get(share.tid, 0.0))


def _delay_of_ready(share: ThreadShare) -> float:
    ready = share.running_frac + (share.run_delay_frac or 0.0)
    return (share.run_delay_frac or 0.0) / ready if ready else 0.0


def _finding(
    process: ProcessTicks, share: ThreadShare | None, *, value: float, threshold: float, effect: str, advice: str
) -> ThreadFinding:
    return ThreadFinding(
        rule=CPU_SATURATED,
        pid=process.pid,
        role=process.role,
        tid=share.tid if share else None,
        thread=share.name if share else "",
        value=value,
        threshold=threshold,
        effect=effect,
        advice=advice,
    )
