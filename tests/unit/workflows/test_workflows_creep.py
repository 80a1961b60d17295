"""The chain of nights: what adds up, where it begins anew, and when it has to be measured."""

from __future__ import annotations

import math

import pytest

from perfguard.model.night import AnchorCheck, MachineFingerprint, NightRecord, NightVerdict
from perfguard.model.result import CompareVerdict, Effect
from perfguard.model.revision import Revision
from perfguard.model.scenario import Limits
from perfguard.workflows.creep import Chain, chain_of

MIN_EFFECT = 0.03
LIMITS = Limits(min_effect_frac=MIN_EFFECT, confidence=0.95, max_trials=120)


def of(name):
    return Revision(commit=name, label=name, subject="", author="A", committed_at="2026-01-01")


def effect(slowdown, sd=0.01):
    logs = (-slowdown, -slowdown - 1.959964 * sd, -slowdown + 1.959964 * sd)
    ratio, low, high = map(math.exp, logs)
    return Effect(metric="throughput_rps", ratio=ratio, low=low, high=high, confidence=0.95, pairs=9, starts=3)


def a_night(number, head, baseline=None, slowdown=None, verdict=NightVerdict.CLEAN, **changed):
    return NightRecord(
        schema_version=1,
        night=f"n{number}",
        number=number,
        started_at="2026-01-01T02:00:00+00:00",
        repo="/r",
        branch="main",
        scenario="s",
        metric="throughput_rps",
        larger_is_better=True,
        machine=MachineFingerprint(key=changed.pop("machine", "k"), described="2 cores"),
        head=of(head),
        baseline=of(baseline) if baseline else None,
        trusted=of(head),
        verdict=verdict,
        sentence="",
        reason="",
        effects=() if slowdown is None else (effect(slowdown),),
        **changed,
    )


FIRST = a_night(1, "a", verdict=NightVerdict.FIRST)


def chain(*nights, accepted=(), gone=()):
    return chain_of(nights, accepted, lambda commit: commit not in gone, min_effect_frac=MIN_EFFECT)


def test_effects_add_up_from_the_anchor_whatever_machine_measured_them():
    found = chain(FIRST, a_night(2, "b", "a", 0.01), a_night(3, "c", "b", 0.02, machine="another"))
    assert (found.anchor, found.tip, found.nights) == ("a", "c", 2)
    assert found.drift.mean == pytest.approx(0.03)
    assert found.drift.sd == pytest.approx(0.01 * math.sqrt(2), rel=1e-5)


def test_a_night_with_nothing_new_and_one_that_is_not_trusted_are_no_links():
    slow = a_night(4, "x", "b", 0.2, verdict=NightVerdict.REGRESSION)
    found = chain(FIRST, a_night(2, "b", "a", 0.01), a_night(3, "b"), slow, a_night(5, "c", "b", 0.0))
    assert (found.tip, found.nights, found.drift.mean) == ("c", 2, pytest.approx(0.01))


def test_a_link_whose_night_is_lost_counts_as_clean_but_unknown():
    found = chain(FIRST, a_night(3, "c", "b", 0.01))
    assert found.drift.mean == 0.0
    assert found.drift.sd == pytest.approx(math.log1p(MIN_EFFECT) / 2)


@pytest.mark.parametrize(
    "reset",
    [
        {"verdict": NightVerdict.IMPROVEMENT},
        {"anchor": AnchorCheck(anchor=of("a"), verdict=CompareVerdict.FASTER, effect=effect(-0.1))},
    ],
)
def test_what_was_found_faster_is_the_anchor(reset):
    found = chain(FIRST, a_night(2, "b", "a", -0.1, **reset), a_night(3, "c", "b", 0.01))
    assert (found.anchor, found.nights, found.drift.mean) == ("b", 1, pytest.approx(0.01))


def test_an_accepted_commit_is_the_anchor():
    slow = a_night(2, "b", "a", 0.1, verdict=NightVerdict.REGRESSION)
    found = chain(FIRST, slow, a_night(3, "c", "b", 0.01), accepted=[(2, "b")])
    assert (found.anchor, found.tip, found.drift.mean) == ("b", "c", pytest.approx(0.01))


def test_an_anchor_that_is_gone_gives_way_to_the_next():
    nights = (FIRST, a_night(2, "b", "a", 0.01), a_night(3, "c", "b", 0.02))
    assert chain(*nights, gone=("a",)).anchor == "b"
    assert chain(*nights, gone=("a",)).drift.mean == pytest.approx(0.02)
    assert chain(*nights, gone=("a", "b", "c")) is None
    assert chain() is None


def test_a_measurement_beside_the_anchor_outweighs_the_chain():
    links = [a_night(number, f"h{number}", f"h{number - 1}", 0.005) for number in range(3, 9)]
    measured = AnchorCheck(anchor=of("a"), verdict=CompareVerdict.NO_CHANGE, effect=effect(0.0))
    last = a_night(9, "z", "h8", 0.005, anchor=measured)
    start = (FIRST, a_night(2, "h2", "a", 0.005))
    before, after = chain(*start, *links), chain(*start, *links, last)
    assert before.is_due(LIMITS)
    assert not after.is_due(LIMITS)
    assert after.drift.sd < 0.01
    # One that was made beside another anchor says nothing of this one.
    assert chain(*start, *links, last, gone=("a",)).drift.sd > 0.02


def test_nothing_is_due_where_the_tip_is_the_anchor():
    assert not Chain(anchor="a", tip="a").is_due(LIMITS)
