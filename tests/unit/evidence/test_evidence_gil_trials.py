"""The GIL of trials: what is kept of a recording, and the rule beside the good revision."""

from __future__ import annotations

import pytest
from test_evidence_gil import make_process, make_thread

from perfguard.evidence.gil_trials import judge_gil_trials, role_gils
from perfguard.model.gil_trial import RoleGil
from perfguard.model.threads import GilAnswer, Pressure, ThreadRecording


def recording(*processes):
    return ThreadRecording(
        rate_hz=20.0,
        duration_s=10.0,
        ticks=200,
        late_ticks=0,
        sampler_cpu_s=0.1,
        pressure=Pressure(cpu_frac=None, memory_frac=None, io_frac=None),
        processes=processes,
    )


def role_gil(wait, **changes):
    values = {
        "role": "tokenizer",
        "thread": "MainThread",
        "looks": 200,
        "running_frac": 0.5,
        "hold_frac": 0.5,
        "wait_frac": wait,
        "waiting_threads": wait,
        "held_frac": 0.6,
    }
    return (RoleGil(**{**values, **changes}),)


def test_a_role_keeps_its_busiest_thread_and_how_many_wait():
    busy = make_thread(tid=1)
    other = make_thread(tid=2, cpu_s=0.1, gil_wait_ticks=0)

    (kept,) = role_gils(recording(make_process(busy, other)))

    assert (kept.role, kept.thread, kept.looks) == ("tokenizer", "thread-1", 2000)
    assert kept.wait_frac == pytest.approx(0.35)
    assert kept.waiting_threads == pytest.approx(0.35)
    assert kept.held_frac == pytest.approx(0.5)
    assert kept.unknown == ""


def test_of_several_processes_of_a_role_the_busiest_is_kept():
    idle = make_process(make_thread(tid=9, cpu_s=0.0, gil_wait_ticks=0), pid=1)

    (kept,) = role_gils(recording(idle, make_process(make_thread(tid=3), pid=2)))

    assert kept.thread == "thread-3"


def test_a_gil_that_cannot_be_watched_is_no_zero():
    unknown = make_process(make_thread(), gil=GilAnswer.UNKNOWN, gil_reason="an unknown layout")

    (kept,) = role_gils(recording(unknown))
    (finding,) = judge_gil_trials([(kept,)], [(kept,)])

    assert (kept.wait_frac, kept.held_frac, kept.waiting_threads) == (None, None, None)
    assert not finding.fired
    assert "cannot be told: an unknown layout" in finding.effect


def test_waiting_that_grew_fires_and_says_its_interval():
    (finding,) = judge_gil_trials(
        [role_gil(wait) for wait in (0.02, 0.03, 0.025)], [role_gil(wait) for wait in (0.30, 0.34, 0.32)]
    )

    assert finding.fired
    assert "waits for the GIL 32.0% of its time (2.5% before; change +29.5%" in finding.effect


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ((0.30, 0.32, 0.31), (0.30, 0.32, 0.31), {}),
        ((0.01, 0.02, 0.01), (0.05, 0.06, 0.05), {}),
        ((0.02, 0.30, 0.10), (0.10, 0.50, 0.25), {}),
        ((0.01, 0.02, 0.01), (0.11, 0.12, 0.11), {"hold_frac": 0.85}),
    ],
    ids=["as before", "too little", "within noise", "small beside what it holds"],
)
def test_waiting_stays_silent(before, after, changes):
    (finding,) = judge_gil_trials([role_gil(wait) for wait in before], [role_gil(wait, **changes) for wait in after])

    assert not finding.fired
    assert len(finding.evidence) == 4


def test_with_one_trial_a_side_the_growth_must_be_large():
    assert judge_gil_trials([role_gil(0.02)], [role_gil(0.4)])[0].fired
    assert not judge_gil_trials([role_gil(0.3)], [role_gil(0.35)])[0].fired
