from __future__ import annotations

import dataclasses

import pytest
from evidence_samples import Sources

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.callsites import CallSites
from perfguard.evidence.profile_rules import judge_profiles
from perfguard.evidence.reading import WeightUnit, read_profile
from perfguard.evidence.rule_config import (
    BLOCKING_EVENT_LOOP,
    CHANGE_SETTINGS,
    DUPLICATE_WORK,
    PICKLE_DOMINATED,
    RULE_DOCS,
    SERIALISED_RANKS,
    RuleConfig,
)
from perfguard.evidence.summary import share_interval, summarise
from perfguard.workflows.call_rules import packaged_call_rules

APP = """\
def serve(x):
    pickle.dumps(x)
    hashlib.sha256(x)
    compute(x)
    dist.broadcast(x)
def recv_requests():
    spin()
"""
LOOP = "run (asyncio/runners.py:190);Handle._run (asyncio/events.py:80)"


def summary(lines, *, role="rank-0", name="file"):
    profile = read_profile("".join(f"{line}\n" for line in lines).encode(), name=name)
    return summarise(profile, CallSites(Sources({"app.py": APP}), packaged_call_rules()), name=name, role=role)


def fired(*summaries):
    return [(finding.rule, finding.role) for finding in judge_profiles(summaries) if finding.fired]


def test_shares_are_of_all_samples_and_pickling_of_those_that_are_no_polling():
    found = summary(
        [
            "thread (7): main;loop (app.py:90);serve (app.py:2) 30",
            "thread (7): main;loop (app.py:90);serve (app.py:4) 10",
            "thread (7): main;recv_requests (app.py:7) 60",
            "thread (9): gloo 100",
        ]
    )

    assert (found.samples, found.distinct_stacks) == (200, 4)
    assert found.class_frac == {
        CallClass.PICKLE: 0.15,
        CallClass.OTHER: 0.05,
        CallClass.POLL: 0.3,
        CallClass.UNKNOWN: 0.5,
    }
    assert found.pickle_frac == pytest.approx(30 / 140)
    assert found.pickle_low < found.pickle_frac < found.pickle_high
    assert [(each.thread, each.tid, each.samples) for each in found.threads] == [("main", 7, 100), ("gloo", 9, 100)]
    assert found.top_total[0].frame == "recv_requests (app.py)"
    assert {each.frame: (each.self_frac, each.total_frac) for each in found.top_total}["serve (app.py)"] == (0.2, 0.2)
    assert [(each.call_class, each.site, each.frac) for each in found.sites][:2] == [
        (CallClass.POLL, "recv_requests (app.py:7)", 0.3),
        (CallClass.PICKLE, "serve (app.py:2)", 0.15),
    ]


def test_a_recursion_counts_once():
    found = summary(["f (app.py:90);f (app.py:91);f (app.py:90) 5", "g (app.py:90) 5"])

    assert {each.frame: (each.self_frac, each.total_frac) for each in found.top_total} == {
        "f (app.py)": (0.5, 0.5),
        "g (app.py)": (0.5, 0.5),
    }


@pytest.mark.parametrize(("part", "whole"), [(0, 10), (10, 10), (3, 10), (300, 1000)])
def test_the_interval_holds_the_share_and_stays_within_zero_and_one(part, whole):
    low, high = share_interval(part, whole, 0.95)

    assert 0.0 <= low <= part / whole <= high <= 1.0
    assert low < high


def test_the_interval_is_wilsons():
    # Source: Agresti and Coull (1998), for 0 of 10 at 95%.
    assert share_interval(0, 10, 0.95) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.2775, abs=1e-4))


def test_a_profile_dominated_by_pickling():
    assert fired(summary(["serve (app.py:2) 60", "serve (app.py:4) 140"])) == [(PICKLE_DOMINATED, "rank-0")]
    assert fired(summary(["serve (app.py:2) 20", "serve (app.py:4) 180"])) == []


def test_few_samples_are_not_judged():
    assert judge_profiles([summary(["serve (app.py:2) 99"])]) == ()


def test_microseconds_have_no_interval():
    one = dataclasses.replace(
        summary(["serve (app.py:2) 60", "serve (app.py:4) 140"]),
        unit=WeightUnit.MICROSECONDS,
        pickle_low=None,
        pickle_high=None,
    )

    (finding,) = [each for each in judge_profiles([one]) if each.fired]

    assert (finding.frac, finding.low_frac, finding.high_frac) == (0.3, None, None)
    assert "30.0% of the working samples" in finding.effect


def test_an_event_loop_that_is_held_up():
    held = summary([f"{LOOP};serve (app.py:3) 60", f"{LOOP};serve (app.py:4) 60"], role="tokenizer")
    free = summary([f"{LOOP};serve (app.py:3) 10", f"{LOOP};serve (app.py:4) 110"], role="tokenizer")

    assert held.loop.blocked_frac == 0.5
    assert held.loop.top_site == "serve (app.py:3)"
    assert fired(held) == [(BLOCKING_EVENT_LOOP, "tokenizer")]
    assert fired(free) == []
    assert summary(["serve (app.py:3) 60"]).loop is None


def test_every_rank_hashes_the_same():
    lines = ["serve (app.py:3) 30", "serve (app.py:4) 170"]
    one, two = summary(lines, role="rank-0"), summary(lines, role="rank-1")

    assert fired(one, two) == [(DUPLICATE_WORK, "rank-0, rank-1")]
    assert fired(one, summary(["serve (app.py:4) 200"], role="rank-1")) == []
    assert fired(one) == []


def test_a_rank_that_waits_in_collectives():
    entry = summary(["serve (app.py:4) 200"], role="rank-0")
    waiting = summary(["serve (app.py:5) 120", "serve (app.py:4) 80"], role="rank-1")

    assert fired(entry, waiting) == [(SERIALISED_RANKS, "rank-1")]
    assert fired(dataclasses.replace(waiting, role="rank-0"), waiting) == []


def test_unclassed_samples_are_said():
    (finding,) = judge_profiles([summary(["serve (app.py:2) 60", "gone (gone.py:4) 140"])])

    assert "70% of the samples could not be classed" in finding.effect


def test_every_rule_is_documented_with_thresholds_that_exist_and_every_threshold_belongs_to_one():
    settings = {field.name for field in dataclasses.fields(RuleConfig)}

    used = {name for doc in RULE_DOCS for name in doc.settings} | set(CHANGE_SETTINGS)
    assert used == settings
    assert {doc.rule for doc in RULE_DOCS} >= {PICKLE_DOMINATED, BLOCKING_EVENT_LOOP, DUPLICATE_WORK, SERIALISED_RANKS}
