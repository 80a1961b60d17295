"""The rate at which memory grows, and when it is worth a finding."""

from __future__ import annotations

import numpy as np
import pytest

from perfguard.evidence.memory import judge_memory, memory_growth
from perfguard.evidence.rule_config import MEMORY_GROWTH
from perfguard.model.memory import MemoryReading, ProcessReadings

MIB = 1024 * 1024


def process(sizes_mib, *, step_s=1.0, role="rank-0", shared_mib=0.0):
    readings = tuple(
        MemoryReading(at_s=n * step_s, pss_bytes=int(size * MIB), shared_bytes=int(n * shared_mib * MIB))
        for n, size in enumerate(sizes_mib)
    )
    return ProcessReadings(pid=5, role=role, readings=readings)


def test_a_steady_growth_is_told_with_its_interval_and_fires():
    growth = memory_growth(process([100 + 3 * n + 0.1 * (n % 2) for n in range(31)], shared_mib=2.0))

    assert growth.bytes_per_s == pytest.approx(3.0 * MIB, rel=0.01)
    assert growth.low_bytes_per_s < 3.0 * MIB < growth.high_bytes_per_s
    assert growth.shared_bytes_per_s == pytest.approx(2.0 * MIB, rel=0.01)
    (finding,) = judge_memory(growth)
    assert (finding.rule, finding.pid, finding.role) == (MEMORY_GROWTH, 5, "rank-0")
    assert "grows by 3.00 MiB/s" in finding.effect


@pytest.mark.parametrize(
    "sizes",
    [[100.0] * 20, [100.0] * 19 + [400.0], [100.0 + n for n in range(3)], [100.0 - 5 * n for n in range(20)]],
    ids=["level", "one step", "too few readings", "shrinks"],
)
def test_what_is_no_steady_growth_stays_silent(sizes):
    assert judge_memory(memory_growth(process(sizes))) == ()


def test_memory_that_wanders_seldom_passes_for_growth():
    # A random walk, for which a fitted line finds a slope "beyond its error" in most cases.
    rng = np.random.default_rng(1)
    fired = sum(
        bool(judge_memory(memory_growth(process(2000 + np.cumsum(rng.normal(0.0, 5.0, size=40)))))) for _ in range(300)
    )

    assert fired <= 0.05 * 300


def test_one_reading_tells_no_rate():
    assert memory_growth(process([100.0])) is None
    assert memory_growth(ProcessReadings(pid=5, role="a", readings=(), unknown="gone")) is None
