"""Shares of a thread's time, and the two rules that judge a single recording."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfguard.evidence.cpu import divide_work, judge_cpu
from perfguard.evidence.gil import judge_gil, thread_shares
from perfguard.model.threads import GilAnswer, ProcessTicks, ThreadTicks
from perfguard.model.trial import CpuResult


def make_thread(tid=1, **changes):
    values = {
        "tid": tid,
        "name": f"thread-{tid}",
        "observed_s": 10.0,
        "cpu_s": 2.0,
        "run_delay_s": 1.0,
        "voluntary_switches": 50,
        "involuntary_switches": 20,
        "ticks": 2000,
        "blocked_ticks": 1200,
        "gil_wait_ticks": 600,
        "gil_hold_ticks": 500,
    }
    return ThreadTicks(**{**values, **changes})


def make_process(*threads, **changes):
    values = {
        "pid": 77,
        "role": "tokenizer",
        "python": "3.11",
        "gil": GilAnswer.WATCHED,
        "gil_reason": "",
        "ticks": 2000,
        "gil_held_ticks": 1000,
        "unknown_holder_ticks": 0,
        "ended": False,
        "threads": threads,
    }
    return ProcessTicks(**{**values, **changes})


def make_machine(**changes):
    values = {
        "duration_s": 10.0,
        "cores": 2,
        "machine_busy_frac": 0.9,
        "stolen_frac": 0.0,
        "throttled_s": 0.0,
        "processes": (),
    }
    return CpuResult(**{**values, **changes})


def share_of(thread, **process):
    (share,) = thread_shares(make_process(thread, **process))
    return share


def test_the_looks_divide_the_blocked_time_that_the_kernel_counted():
    # Blocked for 7 of 10 s; half of the looks that met it blocked met it waiting for the GIL.
    share = share_of(make_thread())
    assert share.running_frac == pytest.approx(0.2)
    assert share.run_delay_frac == pytest.approx(0.1)
    assert share.gil_wait_frac == pytest.approx(0.35)
    assert share.off_cpu_frac == pytest.approx(0.35)
    assert share.gil_hold_frac == pytest.approx(0.25)
    assert share.gil_wait_low_frac < 0.35 < share.gil_wait_high_frac
    assert (share.voluntary_switches_per_s, share.involuntary_switches_per_s) == (5.0, 2.0)


def test_late_looks_do_not_shift_the_waiting():
    # Every look is late and meets threads that were woken and have no core: only a tenth of them find it blocked.
    share = share_of(make_thread(blocked_ticks=200, gil_wait_ticks=200))
    assert share.gil_wait_frac == pytest.approx(0.7)


@given(
    observed_s=st.floats(0.01, 100),
    kernel=st.tuples(st.floats(0, 1.2), st.floats(0, 1.2)) | st.none(),
    ticks=st.integers(30, 5000),
    blocked=st.floats(0, 1),
    waiting=st.floats(0, 1),
)
def test_the_four_shares_add_up_to_one(observed_s, kernel, ticks, blocked, waiting):
    blocked_ticks = round(ticks * blocked)
    share = share_of(
        make_thread(
            observed_s=observed_s,
            cpu_s=observed_s * kernel[0] if kernel else None,
            run_delay_s=observed_s * kernel[1] if kernel else None,
            ticks=ticks,
            blocked_ticks=blocked_ticks,
            gil_wait_ticks=round(blocked_ticks * waiting),
        )
    )
    parts = (share.running_frac, share.run_delay_frac or 0.0, share.gil_wait_frac, share.off_cpu_frac)
    assert sum(parts) == pytest.approx(1.0)
    assert all(-1e-9 <= part <= 1 for part in parts)
    assert share.gil_wait_low_frac <= share.gil_wait_frac + 1e-9
    assert share.gil_wait_frac <= share.gil_wait_high_frac + 1e-9


@pytest.mark.parametrize(
    ("thread", "process", "reason"),
    [
        (make_thread(), {"gil": GilAnswer.UNKNOWN, "gil_reason": "layout not known"}, "layout not known"),
        (make_thread(), {"gil": GilAnswer.NONE, "gil_reason": "there is no GIL"}, "there is no GIL"),
        (make_thread(gil_unknown="a GIL of its own"), {}, "a GIL of its own"),
        (make_thread(ticks=29, blocked_ticks=0, gil_wait_ticks=0), {}, "seen only 29 times"),
    ],
)
def test_what_cannot_be_told_is_none_with_a_reason_and_never_zero(thread, process, reason):
    share = share_of(thread, **process)
    assert share.gil_wait_frac is None
    assert share.gil_hold_frac is None
    assert reason in share.gil_unknown
    assert share.off_cpu_frac == pytest.approx(0.7)
    assert judge_gil(make_process(thread, **process), [share]) == ()


def test_where_holders_are_lost_holding_is_none_and_waiting_stands():
    share = share_of(make_thread(), unknown_holder_ticks=51)
    assert share.gil_hold_frac is None
    assert "51 could not" in share.gil_unknown
    assert share.gil_wait_frac == pytest.approx(0.35)
    assert share_of(make_thread(), unknown_holder_ticks=50).gil_hold_frac is not None


def test_a_thread_that_was_never_seen_is_left_out():
    assert thread_shares(make_process(make_thread(ticks=0, observed_s=0.0))) == ()


def test_contention_names_who_waits_most_and_who_holds():
    waiter = make_thread(1, name="event loop", gil_wait_ticks=600)
    holder = make_thread(2, name="preprocess", cpu_s=9.0, run_delay_s=0.0, gil_wait_ticks=0, gil_hold_ticks=1700)
    process = make_process(waiter, holder)
    (finding,) = judge_gil(process, thread_shares(process))
    assert (finding.rule, finding.pid, finding.role, finding.tid) == ("gil_contended", 77, "tokenizer", 1)
    assert finding.value == pytest.approx(0.35)
    assert "event loop (1) waits for the GIL 35%" in finding.effect
    assert "preprocess (2) holds it 85%" in finding.effect


@pytest.mark.parametrize(
    ("thread", "why"),
    [
        (make_thread(gil_wait_ticks=150), "waits too little"),
        (make_thread(cpu_s=8.0, run_delay_s=0.0, gil_wait_ticks=1200, gil_hold_ticks=1700), "holds far more"),
        (make_thread(ticks=40, blocked_ticks=10, gil_wait_ticks=3, gil_hold_ticks=2), "too few looks to be sure"),
    ],
)
def test_little_or_unsure_waiting_is_no_finding(thread, why):
    process = make_process(thread)
    assert judge_gil(process, thread_shares(process)) == (), why


def judge(*threads, polling=None, **machine):
    process = make_process(*threads)
    return judge_cpu(process, thread_shares(process), polling or {}, make_machine(**machine))


def test_a_thread_that_works_all_the_time_is_saturated_and_one_that_polls_is_not():
    busy = make_thread(5, cpu_s=9.8, run_delay_s=0.0)
    (finding,) = judge(busy, polling={5: 0.02})
    assert (finding.rule, finding.tid) == ("cpu_saturated", 5)
    assert finding.value == pytest.approx(0.9604)
    assert judge(busy, polling={5: 0.9}) == ()
    (unsure,) = judge(busy)
    assert "polling is not told apart" in unsure.effect


def test_a_thread_that_works_and_waits_for_a_core_is_starved():
    (finding,) = judge(make_thread(cpu_s=4.0, run_delay_s=4.0), stolen_frac=0.2)
    assert finding.value == pytest.approx(0.5)
    assert "waits for a core 50%" in finding.effect
    assert "20% of the machine was taken by the hypervisor" in finding.effect
    assert judge(make_thread(cpu_s=0.5, run_delay_s=4.0)) == ()
    assert judge(make_thread(cpu_s=4.0, run_delay_s=None)) == ()


def test_a_quota_that_stops_the_process_is_told():
    (finding,) = judge(make_thread(), throttled_s=1.0)
    assert (finding.tid, finding.value) == (None, pytest.approx(0.1))
    assert "quota" in finding.effect
    assert judge(make_thread(), throttled_s=0.4) == ()


def test_work_is_divided_only_where_stacks_tell():
    share = share_of(make_thread(3))
    assert divide_work(share, {}).working_frac is None
    work = divide_work(share, {3: 0.25})
    assert work.working_frac == pytest.approx(0.15)
    assert work.polling_frac == pytest.approx(0.05)
