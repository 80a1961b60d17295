"""Memory over a load: how fast it grows, how sure that is, and whether it is worth a finding.

Memory does not scatter around a line: it wanders, each reading from where the last one stood, so the interval of a
fitted line is far too narrow. The steps between readings that lie some way apart are nearly independent, and the rate
is their mean: its interval is that of a mean.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean, stdev

from scipy import stats

from perfguard.evidence.rule_config import MEMORY_GROWTH, RuleConfig
from perfguard.model.memory import MemoryGrowth, ProcessReadings
from perfguard.model.threads import ThreadFinding

_MIB = 1024.0 * 1024.0
_MIN_READINGS = 2
# Fewer steps leave the interval so wide that nothing lies outside it; more would not be independent.
_MIN_STEPS = 4
_MAX_STEPS = 10
_ADVICE = (
    "see what is kept: a cache without a limit, or shared memory that is not unlinked; `perfguard record --memray 30` "
    "draws who allocates"
)


def memory_growth(process: ProcessReadings, config: RuleConfig | None = None) -> MemoryGrowth | None:
    """Tell how fast a process's memory grew; None where it was read less than twice."""
    config = config or RuleConfig()
    readings = process.readings
    if len(readings) < _MIN_READINGS or readings[-1].at_s <= readings[0].at_s:
        return None
    steps = min(_MAX_STEPS, len(readings) - 1)
    picked = [readings[round(n * (len(readings) - 1) / steps)] for n in range(steps + 1)]
    rates = [
        (later.pss_bytes - earlier.pss_bytes) / (later.at_s - earlier.at_s)
        for earlier, later in pairwise(picked)
        if later.at_s > earlier.at_s
    ]
    rate, low, high = fmean(rates), None, None
    if len(rates) >= _MIN_STEPS:
        reach = float(stats.t.ppf((1.0 + config.confidence) / 2.0, len(rates) - 1)) * stdev(rates) / len(rates) ** 0.5
        low, high = rate - reach, rate + reach
    first, last = readings[0], readings[-1]
    return MemoryGrowth(
        pid=process.pid,
        role=process.role,
        readings=len(readings),
        duration_s=last.at_s - first.at_s,
        first_pss_bytes=first.pss_bytes,
        last_pss_bytes=last.pss_bytes,
        last_shared_bytes=last.shared_bytes,
        bytes_per_s=rate,
        low_bytes_per_s=low,
        high_bytes_per_s=high,
        shared_bytes_per_s=(last.shared_bytes - first.shared_bytes) / (last.at_s - first.at_s),
    )


def judge_memory(growth: MemoryGrowth, config: RuleConfig | None = None) -> tuple[ThreadFinding, ...]:
    """Fire `memory_growth` on a live process whose memory surely grows, by the interval's lower end."""
    config = config or RuleConfig()
    threshold = config.memory_growth_mib_per_s
    if growth.low_bytes_per_s is None or growth.high_bytes_per_s is None:
        return ()
    low, high = growth.low_bytes_per_s / _MIB, growth.high_bytes_per_s / _MIB
    if low < threshold:
        return ()
    rate, shared = growth.bytes_per_s / _MIB, growth.shared_bytes_per_s / _MIB
    return (
        ThreadFinding(
            rule=MEMORY_GROWTH,
            pid=growth.pid,
            role=growth.role,
            tid=None,
            thread="",
            value=rate,
            threshold=threshold,
            effect=f"its memory grows by {rate:.2f} MiB/s ({low:.2f} to {high:.2f}), {shared:.2f} MiB/s of that in "
            f"shared memory; it is {growth.last_pss_bytes / _MIB:.0f} MiB now",
            advice=_ADVICE,
        ),
    )
