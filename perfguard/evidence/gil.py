"""What the looks at a process's threads say: how each thread spent its time, and whether the GIL holds it back.

Four shares of a thread's time add up to one: it ran, it was ready without a core (run delay), it waited for the GIL, or
it was off the CPU for another reason. Holding the GIL is a fifth column of its own: a thread may hold it while it runs,
while it is ready without a core, and while it is blocked in C code that did not release it.

The kernel counts running and run delay exactly; what remains is the blocked time, and the looks only divide that into
waiting for the GIL and the rest. It is more exact than the share of looks that met a waiting thread: looks come late
when the cores are busy, and then a thread that was woken and has no core yet passes for one that runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perfguard.evidence.rule_config import GIL_CONTENDED, RuleConfig
from perfguard.model.threads import GilAnswer, ProcessTicks, ThreadFinding, ThreadTicks

# Below this a share of looks has a standard error of up to 9 points: it says nothing.
_MIN_TICKS = 30
_Z_95 = 1.645  # one-sided


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadShare:
    """How a thread spent its time; all fractions of the time in which it was watched.

    `gil_hold_frac` and `gil_wait_frac` are None where they cannot be told; `gil_unknown` then says why, and
    `off_cpu_frac` may hold waits for the GIL. `run_delay_frac` is None where the kernel does not account for it, and
    then part of `running_frac`. `gil_wait_low_frac` and `gil_wait_high_frac` bound the waiting at 90%.
    """

    tid: int
    name: str
    ticks: int
    running_frac: float
    run_delay_frac: float | None
    gil_hold_frac: float | None
    gil_wait_frac: float | None
    gil_wait_low_frac: float | None
    gil_wait_high_frac: float | None
    off_cpu_frac: float
    gil_unknown: str
    voluntary_switches_per_s: float
    involuntary_switches_per_s: float


def thread_shares(process: ProcessTicks, config: RuleConfig | None = None) -> tuple[ThreadShare, ...]:
    """Tell how each thread of a process spent its time: those that waited for the GIL or ran most come first."""
    config = config or RuleConfig()
    lost_holders = process.unknown_holder_ticks > config.gil_max_unknown_holder_frac * process.gil_held_ticks
    shares = [_share(thread, process, lost_holders) for thread in process.threads if thread.ticks or thread.observed_s]
    return tuple(sorted(shares, key=lambda share: (-share.running_frac - (share.gil_wait_frac or 0.0), share.tid)))


def gil_seconds(thread: ThreadTicks) -> tuple[float, float]:
    """Tell for how long a thread held the GIL, and for how long it waited for it, in seconds of its window."""
    if not thread.ticks:
        return 0.0, 0.0
    _, _, blocked = _kernel_shares(thread)
    waiting = blocked * thread.gil_wait_ticks / thread.blocked_ticks if thread.blocked_ticks else 0.0
    return thread.gil_hold_ticks / thread.ticks * thread.observed_s, waiting * thread.observed_s


def judge_gil(
    process: ProcessTicks, shares: Sequence[ThreadShare], config: RuleConfig | None = None
) -> tuple[ThreadFinding, ...]:
    """Fire `gil_contended` on the thread of a process that waits most for the GIL, where it waits too much.

    The lower bound of its waiting must reach `gil_wait_frac`, and waiting `gil_wait_of_wanted` of waiting and holding.
    """
    config = config or RuleConfig()
    contended = [share for share in shares if _is_contended(share, config)]
    if not contended:
        return ()
    worst = max(contended, key=lambda share: (share.gil_wait_frac or 0.0, -share.tid))
    waited = worst.gil_wait_frac or 0.0
    others = f"; {len(contended)} of {len(shares)} threads wait so much" if len(contended) > 1 else ""
    holders = [share for share in shares if share.gil_hold_frac and share.tid != worst.tid]
    holder = max(holders, key=lambda share: share.gil_hold_frac or 0.0, default=None)
    held = f"; {holder.name} ({holder.tid}) holds it {holder.gil_hold_frac:.0%} of the time" if holder else ""
    return (
        ThreadFinding(
            rule=GIL_CONTENDED,
            pid=process.pid,
            role=process.role,
            tid=worst.tid,
            thread=worst.name,
            value=waited,
            threshold=config.gil_wait_frac,
            effect=f"{worst.name} ({worst.tid}) waits for the GIL {waited:.0%} of its time "
            f"({worst.gil_wait_low_frac:.0%} to {worst.gil_wait_high_frac:.0%}){others}{held}",
            advice="move the holder's Python work to another process, or into calls that release the GIL",
        ),
    )


def _is_contended(share: ThreadShare, config: RuleConfig) -> bool:
    if share.gil_wait_frac is None or share.gil_wait_low_frac is None:
        return False
    used = share.running_frac if share.gil_hold_frac is None else share.gil_hold_frac
    wanted = share.gil_wait_frac + used
    return share.gil_wait_low_frac >= config.gil_wait_frac and share.gil_wait_frac >= config.gil_wait_of_wanted * wanted


def _share(thread: ThreadTicks, process: ProcessTicks, lost_holders: bool) -> ThreadShare:
    running, run_delay, blocked = _kernel_shares(thread)
    unknown = _why_unknown(thread, process)
    wait = low = high = hold = None
    if not unknown:
        seen = thread.gil_wait_ticks / thread.blocked_ticks if thread.blocked_ticks else 0.0
        seen_low, seen_high = _wilson(thread.gil_wait_ticks, thread.blocked_ticks)
        wait, low, high = blocked * seen, blocked * seen_low, blocked * seen_high
        if lost_holders:
            unknown = (
                f"of {process.gil_held_ticks} looks that found the GIL taken, {process.unknown_holder_ticks} could not "
                "tell by whom"
            )
        else:
            hold = thread.gil_hold_ticks / thread.ticks
    seconds = thread.observed_s or math.inf
    return ThreadShare(
        tid=thread.tid,
        name=thread.name,
        ticks=thread.ticks,
        running_frac=running,
        run_delay_frac=run_delay,
        gil_hold_frac=hold,
        gil_wait_frac=wait,
        gil_wait_low_frac=low,
        gil_wait_high_frac=high,
        off_cpu_frac=blocked - (wait or 0.0),
        gil_unknown=unknown,
        voluntary_switches_per_s=thread.voluntary_switches / seconds,
        involuntary_switches_per_s=thread.involuntary_switches / seconds,
    )


def _kernel_shares(thread: ThreadTicks) -> tuple[float, float | None, float]:
    """Return (running, run delay, blocked): from the kernel's counters, or from the looks where it has none."""
    if thread.cpu_s is None or thread.run_delay_s is None or thread.observed_s <= 0:
        blocked = thread.blocked_ticks / thread.ticks if thread.ticks else 0.0
        return 1.0 - blocked, None, blocked
    # The counters are read a moment before the clock is: sums may pass one by a little.
    running = min(1.0, max(0.0, thread.cpu_s / thread.observed_s))
    run_delay = min(1.0 - running, max(0.0, thread.run_delay_s / thread.observed_s))
    return running, run_delay, 1.0 - running - run_delay


def _why_unknown(thread: ThreadTicks, process: ProcessTicks) -> str:
    if process.gil is not GilAnswer.WATCHED:
        return process.gil_reason
    if thread.gil_unknown:
        return thread.gil_unknown
    if thread.ticks < _MIN_TICKS:
        return f"seen only {thread.ticks} times ({_MIN_TICKS} are needed)"
    return ""


def _wilson(successes: int, trials: int) -> tuple[float, float]:
    """Bound a share by its counts, 5% on either side. Source: Wilson (1927), JASA 22, 209-212."""
    if trials == 0:
        return 0.0, 1.0
    share, weight = successes / trials, _Z_95**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = _Z_95 * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
