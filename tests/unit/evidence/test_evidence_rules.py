from __future__ import annotations

from dataclasses import fields

import pytest
from evidence_samples import costs, cpu_result

from perfguard.evidence.callsites import CallClass
from perfguard.evidence.rules import CPU_SATURATED, PICKLE_DOMINATED, RuleConfig, judge
from perfguard.evidence.trial import RoleEvidence, RoleLoad, TrialEvidence
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame

SEND = Frame(function="send_objects", file="torch/d.py", line=40)
RECEIVE = Frame(function="receive", file="zmq/s.py", line=7)


def trial(
    *, pickle=0.3, working=4.0, cores=0.5, machine=0.6, delay=0.1, loaded=4.0, site=SEND, role="rank-0", profiled=True
):
    """One trial of one role: `working` under the sampler, `loaded` in the measured load, both ms/request."""
    rest = RoleEvidence(
        costs=costs({("main", "pickling"): pickle, ("main", "rest"): working - pickle}, role=role),
        class_ms={CallClass.PICKLE: pickle, CallClass.OTHER: working - pickle, CallClass.POLL: 50.0},
        site_ms={
            (CallClass.PICKLE, site): pickle * 0.75,
            (CallClass.PICKLE, RECEIVE): pickle * 0.25,
            (CallClass.HASH, SEND): 9.0,
        },
    )
    load = RoleLoad(
        role=role,
        cpu_ms_per_request=loaded + 10.0,
        working_ms_per_request=loaded if profiled else None,
        busiest_thread_cores=cores if profiled else None,
        run_delay_frac=delay,
    )
    return TrialEvidence(
        cpu=cpu_result([]),
        requests=100,
        roles={role: rest} if profiled else {},
        loads={role: load},
        machine_working_frac=machine if profiled else None,
    )


def finding(rule, before, after, config=None):
    (found,) = [finding for finding in judge(before, after, config) if finding.rule == rule]
    return found


def side(values, **given):
    name = given.pop("of")
    return [trial(**{name: value}, **given) for value in values]


GOOD_PICKLE, BAD_PICKLE = (0.30, 0.33, 0.28), (1.10, 1.22, 1.15)
GOOD_CPU, BAD_CPU = (4.0, 4.1, 4.05), (5.2, 5.3, 5.25)


def test_pickling_that_grew_beyond_its_noise_fires():
    found = finding(PICKLE_DOMINATED, side(GOOD_PICKLE, of="pickle"), side(BAD_PICKLE, of="pickle", working=5.0))

    assert found.fired
    assert (found.role, found.rule) == ("rank-0", PICKLE_DOMINATED)
    assert "rose from 0.30 to 1.16 ms/request" in found.effect
    assert "23% of its working CPU (8% before)" in found.effect
    assert "send_objects (torch/d.py:40)" in found.effect
    numbers = {evidence.what: (evidence.before, evidence.after) for evidence in found.evidence}
    assert numbers["pickling"] == (pytest.approx(0.3033, abs=1e-3), pytest.approx(1.1567, abs=1e-3))
    assert numbers["pickling called at send_objects (torch/d.py:40)"][1] == pytest.approx(1.1567 * 0.75, abs=1e-3)
    assert "15%" in found.threshold


def test_a_call_site_is_followed_though_its_line_moved():
    moved = Frame(function="send_objects", file="torch/d.py", line=12)

    found = finding(PICKLE_DOMINATED, side(GOOD_PICKLE, of="pickle", site=moved), side(BAD_PICKLE, of="pickle"))

    (site,) = [evidence for evidence in found.evidence if "called at" in evidence.what]
    assert site.before == pytest.approx(0.3033 * 0.75, abs=1e-3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (side(BAD_PICKLE, of="pickle"), side(BAD_PICKLE, of="pickle")),
        (side(BAD_PICKLE, of="pickle"), side(GOOD_PICKLE, of="pickle")),
        (side((0.2, 1.4, 0.7), of="pickle"), side((0.3, 1.9, 1.1), of="pickle")),
        (side(GOOD_PICKLE, of="pickle"), side(BAD_PICKLE, of="pickle", working=40.0)),
    ],
    ids=["unchanged", "fell", "within noise", "small share of the role"],
)
def test_pickling_stays_silent_and_says_its_numbers(before, after):
    found = finding(PICKLE_DOMINATED, before, after)

    assert not found.fired
    assert len(found.evidence) == 4
    assert "ms/request" in found.effect


def test_a_pickling_role_without_samples_of_it_is_judged_too():
    found = finding(PICKLE_DOMINATED, side((0.0, 0.0), of="pickle"), side((0.0, 0.0), of="pickle"))

    assert not found.fired
    assert "0.00 to 0.00" in found.effect


def test_one_trial_a_side_needs_a_large_growth_and_says_so():
    large = finding(PICKLE_DOMINATED, [trial(pickle=0.3)], [trial(pickle=1.2)])
    small = finding(PICKLE_DOMINATED, [trial(pickle=1.1)], [trial(pickle=1.2)])

    assert large.fired
    assert "one trial on a side" in large.effect
    assert not small.fired


def test_a_thread_that_reached_a_core_with_dearer_requests_fires():
    found = finding(
        CPU_SATURATED,
        [trial(cores=0.6, loaded=cpu) for cpu in GOOD_CPU],
        [trial(cores=0.96, loaded=cpu) for cpu in BAD_CPU],
    )

    assert found.fired
    assert "Saturated (not so before): the busiest thread of rank-0 works 0.96 cores (0.60 before)" in found.effect
    assert "rose from 4.05 to 5.25 ms/request" in found.effect


def test_saturated_on_both_sides_fires_only_where_requests_became_dearer():
    before = [trial(machine=0.98, loaded=cpu) for cpu in GOOD_CPU]

    dearer = finding(CPU_SATURATED, before, [trial(machine=0.98, loaded=cpu) for cpu in BAD_CPU])
    same = finding(CPU_SATURATED, before, before)

    assert dearer.fired
    assert "Saturated (as before): the machine is 98% busy with work (98% before)" in dearer.effect
    assert not same.fired
    assert "Saturated (as before)" in same.effect
    assert "did not change beyond noise (4.05 to 4.05 ms/request)" in same.effect


def test_dearer_requests_on_a_machine_with_room_do_not_fire():
    found = finding(CPU_SATURATED, [trial(loaded=cpu) for cpu in GOOD_CPU], [trial(loaded=cpu) for cpu in BAD_CPU])

    assert not found.fired
    assert "Nothing is saturated: the machine is 60% busy with work (60% before)" in found.effect
    assert "rose from 4.05 to 5.25" in found.effect


def test_creeping_over_a_threshold_is_chance():
    found = finding(CPU_SATURATED, [trial(cores=0.89, loaded=4.0)], [trial(cores=0.91, loaded=4.01)])

    assert not found.fired


def test_waiting_for_a_core_saturates_only_a_thread_that_works():
    waiting = finding(CPU_SATURATED, [trial(delay=0.1, loaded=4.0)], [trial(delay=0.5, loaded=4.1)])
    idle = finding(
        CPU_SATURATED, [trial(delay=0.1, cores=0.01, loaded=4.0)], [trial(delay=0.5, cores=0.01, loaded=4.1)]
    )

    assert waiting.fired
    assert "waits for a core 50% of the time that it is ready (10% before)" in waiting.effect
    assert not idle.fired


def test_a_role_without_stacks_is_not_judged():
    for rule in (PICKLE_DOMINATED, CPU_SATURATED):
        found = finding(rule, [trial(cores=0.5)], [trial(profiled=False)])

        assert not found.fired
        assert found.effect.startswith("Not judged: rank-0 has no stacks")


BOTH_RULES = (PICKLE_DOMINATED, CPU_SATURATED)


def test_fired_findings_come_first_and_every_role_has_both_rules():
    def both(pickle):
        one, two = trial(pickle=0.3, role="rank-0"), trial(pickle=pickle, role="rank-1")
        return TrialEvidence(
            cpu=one.cpu,
            requests=100,
            roles={**one.roles, **two.roles},
            loads={**one.loads, **two.loads},
            machine_working_frac=0.6,
        )

    findings = judge([both(0.3)], [both(1.5)])

    assert [found.fired for found in findings] == sorted((found.fired for found in findings), reverse=True)
    assert [(found.rule, found.role, found.fired) for found in findings if found.rule in BOTH_RULES] == [
        (PICKLE_DOMINATED, "rank-1", True),
        (PICKLE_DOMINATED, "rank-0", False),
        (CPU_SATURATED, "rank-0", False),
        (CPU_SATURATED, "rank-1", False),
    ]


def test_thresholds_come_from_the_configuration():
    before, after = side(GOOD_PICKLE, of="pickle"), side(BAD_PICKLE, of="pickle")

    assert finding(PICKLE_DOMINATED, before, after).fired
    assert not finding(PICKLE_DOMINATED, before, after, RuleConfig(pickle_share=0.5)).fired


def test_every_threshold_says_why():
    assert all(threshold.metadata["why"] for threshold in fields(RuleConfig))


def test_a_side_without_trials_is_refused():
    with pytest.raises(PerfguardError, match="bad revision"):
        judge([trial()], [])
