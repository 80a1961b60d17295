"""A small run of benchmarks/strategies/leaks.py: killed ranks and cancelled requests leave nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "strategies"))

import leaks

from perfguard.model.scenario import Strategy

pytestmark = pytest.mark.slow


def test_five_hundred_requests_and_two_killed_ranks_leave_nothing(managed_environment, release_tree):
    plan = leaks.Plan(
        tree=release_tree("0.5.4.post2"),
        python=managed_environment.python,
        strategy=Strategy.SHARED_MEMORY,
        ranks=2,
        requests=500,
        cancel_frac=0.05,
        kills=2,
        seed=3,
    )
    tally = leaks.endure(plan)
    assert tally.faults == ()
    assert (tally.requests, tally.kills) == (500, 2)
    assert tally.starts >= 2
    assert tally.answered >= 400
    assert 0 < tally.failed <= 2 * leaks.BATCH
    assert tally.cancelled > 0


def test_what_is_left_is_a_fault():
    counts = {"requests": 10, "answered": 7, "cancelled": 1, "failed": 2}
    clean = leaks.Tally(strategy="local", ranks=2, seed=1, **counts)
    assert clean.faults == ()
    for name in ("unclear", "mismatched", "segments_left", "descriptors_grown", "mappings_left", "processes_left"):
        faults = leaks.Tally(strategy="local", ranks=2, seed=1, **counts | {name: 2}).faults
        assert f"{name} 2" in faults
    lost = leaks.Tally(strategy="local", ranks=2, seed=1, **counts | {"answered": 6})
    assert lost.faults == ("1 requests without an end",)
