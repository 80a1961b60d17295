from __future__ import annotations

import pytest
from evidence_samples import frame, path, process, stack

from perfguard.evidence.cost import cost_stacks
from perfguard.model.errors import PerfguardError

WORK, POLL, IDLE_THREAD = path("main", "work"), path("main", "poll"), path("run", "tick")


def is_poll(frames):
    return frames[-1].function == "poll"


def test_each_thread_spends_its_own_cpu_over_its_own_samples():
    stacks = [stack(WORK, 30, tid=1), stack(POLL, 10, tid=1), stack(IDLE_THREAD, 1000, tid=2)]
    cpu = process("rank-0", 1.0, {1: (0.8, 0.0), 2: (0.1, 0.0), 3: (0.1, 0.0)})

    costs = cost_stacks(stacks, [cpu], 10, is_polling=is_poll)

    assert costs.working[WORK] == pytest.approx(60.0)
    assert costs.polling == {POLL: pytest.approx(20.0)}
    assert costs.working[IDLE_THREAD] == pytest.approx(10.0)
    assert costs.unsampled_ms == pytest.approx(10.0)
    assert costs.working_ms + costs.polling_ms + costs.unsampled_ms == pytest.approx(100.0)


def test_a_late_sampler_changes_no_cost():
    cpu = process("rank-0", 0.8, {1: (0.8, 0.0)})
    many = cost_stacks([stack(WORK, 300, tid=1), stack(POLL, 100, tid=1)], [cpu], 10, is_polling=is_poll)
    few = cost_stacks([stack(WORK, 3, tid=1), stack(POLL, 1, tid=1)], [cpu], 10, is_polling=is_poll)

    assert few.working == many.working


def test_without_matching_ids_the_processs_cpu_is_shared_by_samples():
    stacks = [stack(WORK, 30, tid=71), stack(IDLE_THREAD, 10, tid=72)]

    costs = cost_stacks(stacks, [process("rank-0", 1.0, {1: (0.8, 0.0)})], 10, is_polling=is_poll)

    assert costs.working == {WORK: pytest.approx(75.0), IDLE_THREAD: pytest.approx(25.0)}
    assert costs.unsampled_ms == pytest.approx(0.0)


def test_a_thread_that_ended_gets_what_no_listed_thread_used():
    stacks = [stack(WORK, 30, tid=1), stack(IDLE_THREAD, 10, tid=99)]

    costs = cost_stacks(stacks, [process("rank-0", 1.0, {1: (0.7, 0.0)})], 10, is_polling=is_poll)

    assert costs.working == {WORK: pytest.approx(70.0), IDLE_THREAD: pytest.approx(30.0)}


def test_samples_without_frames_are_left_out():
    stacks = [stack(WORK, 30, tid=1), stack((), 70, tid=1), stack((), 5, tid=2)]

    costs = cost_stacks(stacks, [process("rank-0", 1.0, {1: (0.6, 0.0), 2: (0.4, 0.0)})], 10, is_polling=is_poll)

    assert costs.working == {WORK: pytest.approx(60.0)}
    assert costs.unsampled_ms == pytest.approx(40.0)
    assert costs.samples == 30


def test_processes_of_one_role_are_added_up():
    stacks = [stack(WORK, 1, tid=1), stack(WORK, 1, tid=2)]
    cpu = [process("other", 0.2, {1: (0.2, 0.0)}), process("other", 0.3, {2: (0.3, 0.0)}, pid=2)]

    assert cost_stacks(stacks, cpu, 10, is_polling=is_poll).working == {WORK: pytest.approx(50.0)}


def test_recursion_counts_once_in_totals():
    recursive = (frame("walk", line=3), frame("walk", line=3), frame("leaf", line=9))
    costs = cost_stacks([stack(recursive, 4, tid=1)], [process("rank-0", 0.4, {1: (0.4, 0.0)})], 10, is_polling=is_poll)

    assert costs.frame_totals() == {"walk (app.py)": pytest.approx(40.0), "leaf (app.py)": pytest.approx(40.0)}
    assert costs.frame_selfs(str) == {"leaf (app.py:9)": pytest.approx(40.0)}


def test_polling_stays_out_of_frames():
    stacks = [stack(WORK, 1, tid=1), stack(POLL, 1, tid=1)]
    costs = cost_stacks(stacks, [process("rank-0", 0.4, {1: (0.4, 0.0)})], 10, is_polling=is_poll)

    assert costs.frame_totals()["main (app.py)"] == pytest.approx(20.0)
    assert "poll (app.py)" not in costs.frame_totals()
    assert costs.sample_ms == pytest.approx(20.0)


def test_no_stacks_leave_all_cpu_unsampled():
    costs = cost_stacks([], [process("detokenizer", 0.5, {1: (0.5, 0.0)})], 10, is_polling=is_poll)

    assert (costs.working_ms, costs.sample_ms, costs.unsampled_ms) == (0, 0.0, pytest.approx(50.0))


def test_no_request_or_mixed_roles_are_refused():
    with pytest.raises(PerfguardError, match="0 requests"):
        cost_stacks([], [process("rank-0", 0.5, {})], 0, is_polling=is_poll)
    with pytest.raises(PerfguardError, match="rank-0, rank-1"):
        cost_stacks([], [process("rank-0", 0.5, {}), process("rank-1", 0.5, {})], 5, is_polling=is_poll)
