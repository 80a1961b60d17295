"""The rule about cards that wait for the CPU."""

from __future__ import annotations

import pytest
from evidence_samples import cpu_result, process

from perfguard.evidence.rule_config import GPU_STARVED
from perfguard.evidence.rules import judge
from perfguard.evidence.trial import RoleLoad, TrialEvidence


def side(gpu, *cores, trials=2):
    loads = {
        f"rank-{number}": RoleLoad(
            role=f"rank-{number}",
            cpu_ms_per_request=1.0,
            working_ms_per_request=1.0,
            busiest_thread_cores=each,
            run_delay_frac=0.0,
        )
        for number, each in enumerate(cores)
    }
    return [
        TrialEvidence(
            cpu=cpu_result([process("rank-0", 1.0, {})]),
            requests=100,
            roles={},
            loads=loads,
            machine_working_frac=0.5,
            gpu_busy_frac=gpu,
        )
        for _ in range(trials)
    ]


def findings(before, after):
    return [finding for finding in judge(before, after) if finding.rule == GPU_STARVED]


def test_cards_that_idle_beside_a_rank_that_works_all_the_time():
    (finding,) = findings(side(0.6, 0.7, 0.5), side(0.12, 0.97, 0.6))
    assert finding.fired
    assert finding.role == "rank-0"
    assert finding.effect.startswith("GPU 12% busy (60% before) while rank-0's busiest thread works 97% of the time")
    assert "the CPU holds the cards back" in finding.effect


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (side(0.6, 0.95), side(0.55, 0.97)),  # busy enough
        (side(0.6, 0.5), side(0.2, 0.6)),  # the thread has time left: the load is small
        (side(0.12, 0.97), side(0.11, 0.97)),  # it was so before
    ],
)
def test_it_is_silent_with_its_numbers(before, after):
    (finding,) = findings(before, after)
    assert not finding.fired
    assert [each.after for each in finding.evidence] == [
        after[0].gpu_busy_frac,
        after[0].loads["rank-0"].busiest_thread_cores,
    ]


def test_cards_that_starved_before_and_starve_more_now_fire():
    (finding,) = findings(side(0.40, 0.95), side(0.20, 0.97))
    assert finding.fired


def test_without_cards_there_is_no_finding_and_without_stacks_it_is_not_judged():
    assert findings(side(None, 0.9), side(None, 0.9)) == []
    (finding,) = findings(side(0.5, None), side(0.1, None))
    assert not finding.fired
    assert finding.effect.startswith("Not judged")
