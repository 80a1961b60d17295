from __future__ import annotations

import pytest
from evidence_samples import cpu_result, process, stack

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.callsites import StackClass
from perfguard.evidence.cost import StackCosts
from perfguard.evidence.eventloop import blocking_site, loop_depth, runs_on_loop
from perfguard.evidence.rank_rules import rank_number
from perfguard.evidence.rule_config import BLOCKING_EVENT_LOOP, DUPLICATE_WORK, SERIALISED_RANKS
from perfguard.evidence.rules import judge
from perfguard.evidence.trial import RoleEvidence, RoleLoad, TrialEvidence
from perfguard.model.profile import Frame

LEAF = (Frame(function="work", file="app.py", line=1),)
SITE = Frame(function="handler", file="app.py", line=9)


def load(role, working_ms):
    return RoleLoad(
        role=role,
        cpu_ms_per_request=working_ms,
        working_ms_per_request=working_ms,
        busiest_thread_cores=0.5,
        run_delay_frac=0.0,
    )


def evidence(role, working_ms=10.0, loop=None, **class_ms):
    return RoleEvidence(
        costs=StackCosts(
            role=role, requests=100, samples=1000, working={LEAF: working_ms}, polling={}, unsampled_ms=0.0
        ),
        class_ms={CallClass(name): cost_ms for name, cost_ms in class_ms.items()},
        site_ms={},
        loop_block_ms=loop,
    )


def trial(ranks=(), roles=()):
    return TrialEvidence(
        cpu=cpu_result([process("rank-0", 1.0, {})]),
        requests=100,
        roles={each.costs.role: each for each in roles},
        loads={role: load(role, working_ms) for role, working_ms in ranks},
        machine_working_frac=0.5,
    )


def of_rule(rule, before, after):
    return [finding for finding in judge(before, after) if finding.rule == rule]


def ranks(*working_ms):
    return [trial(ranks=[(f"rank-{n}", cost + 0.01 * i) for n, cost in enumerate(working_ms)]) for i in range(3)]


def test_ranks_that_wait_for_the_entry_rank():
    (finding,) = of_rule(SERIALISED_RANKS, ranks(10.0, 10.0), ranks(18.0, 10.0))

    assert finding.fired
    assert finding.role == "rank-0"
    assert "44% of its own" in finding.effect


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((18.0, 10.0), (18.0, 10.0)),  # it was so before
        ((10.0, 10.0), (18.0, 18.0)),  # all ranks cost more
        ((10.0, 10.0), (10.3, 10.0)),  # a small gap
        ((18.0, 10.0), (12.0, 10.0)),  # it got better
        ((10.0, 10.0), (10.0, 18.0)),  # another rank works more
    ],
)
def test_ranks_that_do_not(before, after):
    (finding,) = of_rule(SERIALISED_RANKS, ranks(*before), ranks(*after))

    assert not finding.fired
    assert finding.effect


def test_one_rank_waits_for_nobody():
    assert of_rule(SERIALISED_RANKS, ranks(10.0), ranks(20.0)) == []


def hashing(*hash_ms, working_ms=10.0):
    return [trial(roles=[evidence(f"rank-{n}", working_ms, hash=cost) for n, cost in enumerate(hash_ms)])] * 3


def test_the_same_hash_in_every_rank():
    findings = of_rule(DUPLICATE_WORK, hashing(0.0, 0.0), hashing(2.0, 1.8))

    fired = [finding for finding in findings if finding.fired]
    assert [finding.role for finding in fired] == ["rank-0, rank-1"]
    assert "hash that every one of 2 ranks pays rose from 0.00 to 1.80 ms/request" in fired[0].effect


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2.0, 2.0), (2.0, 2.0)),  # as before
        ((0.0, 0.0), (2.0, 0.0)),  # one rank does it for all
        ((0.0, 0.0), (0.1, 0.1)),  # too little to matter
        ((2.0, 2.0), (2.0, 0.0)),  # what the real culprit did
    ],
)
def test_work_that_is_not_newly_duplicated(before, after):
    assert not any(finding.fired for finding in of_rule(DUPLICATE_WORK, hashing(*before), hashing(*after)))


def looping(cost_ms):
    loop = {SITE: cost_ms} if cost_ms else {}
    return [trial(roles=[evidence("tokenizer", 20.0, loop=loop)])] * 3


def test_a_call_that_holds_up_the_event_loop():
    (finding,) = of_rule(BLOCKING_EVENT_LOOP, looping(0.5), looping(8.0))

    assert finding.fired
    assert "handler (app.py:9) (8.00 ms)" in finding.effect


@pytest.mark.parametrize(("before", "after"), [(8.0, 8.0), (0.0, 2.0), (8.0, 0.0)])
def test_loops_that_are_not_held_up_more(before, after):
    (finding,) = of_rule(BLOCKING_EVENT_LOOP, looping(before), looping(after))

    assert not finding.fired


def test_a_role_without_a_loop_has_no_finding_about_loops():
    sides = [[trial(roles=[evidence("rank-0")])] * 3] * 2

    assert of_rule(BLOCKING_EVENT_LOOP, *sides) == []


ASYNCIO = (
    Frame(function="run", file="/usr/lib/python3.11/asyncio/runners.py", line=190),
    Frame(function="BaseEventLoop.run_forever", file="asyncio/base_events.py", line=607),
    Frame(function="BaseEventLoop._run_once", file="asyncio/base_events.py", line=1922),
    Frame(function="Handle._run", file="asyncio/events.py", line=80),
)
UVLOOP = (Frame(function="run", file="/lib/site-packages/uvloop/__init__.py", line=69),)


@pytest.mark.parametrize("machinery", [ASYNCIO, UVLOOP])
def test_a_blocking_call_beneath_a_loop_is_its_site(machinery):
    verdict = StackClass(call_class=CallClass.HASH, site=SITE)

    assert runs_on_loop(machinery)
    assert loop_depth((*machinery, SITE)) == len(machinery)
    assert blocking_site((*machinery, SITE), verdict) == SITE


def test_what_is_no_blocking_call_beneath_a_loop():
    assert blocking_site((*ASYNCIO, SITE), StackClass(call_class=CallClass.OTHER, site=None)) is None
    assert blocking_site((*ASYNCIO, SITE), StackClass(call_class=CallClass.SOCKET, site=SITE)) is None
    assert blocking_site(ASYNCIO, StackClass(call_class=CallClass.SLEEP, site=ASYNCIO[2])) is None
    assert blocking_site((SITE,), StackClass(call_class=CallClass.HASH, site=SITE)) is None
    assert loop_depth((Frame(function="run", file="app/events.py", line=1),)) is None


def test_ranks_are_told_by_their_role():
    assert [rank_number(role) for role in ("rank-0", "rank-12", "tokenizer", "rank-x")] == [0, 12, None, None]
    assert stack(LEAF, 1).samples == 1
