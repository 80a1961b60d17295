"""The question, the effect bar and the next steps of the first screen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perfguard.model.result import BisectVerdict, CompareVerdict, Direction
from perfguard.report.opening import effect_bar, question, steps
from perfguard.report.render import render_html


def test_the_question_names_both_ends(samples):
    result = samples.bisect_result()
    asked = question(result)
    assert asked.startswith(f"Which of the 127 changes from {result.good.label} to {result.bad.label} made the server")
    assert "faster?" in question(replace(result, direction=Direction.IMPROVEMENT))
    compared = samples.compare_result()
    assert f"{compared.candidate.label} slower or faster than that of {compared.baseline.label}?" in question(compared)
    assert question(samples.run_result()).startswith("How fast is")


def test_the_bar_holds_no_change_and_the_interval_in_order(samples):
    effect = samples.effects()[0]
    worse = effect_bar(replace(effect, ratio=0.8, low=0.7, high=0.9))
    assert 0 < worse.low < worse.estimate < worse.high < worse.zero < 1
    assert (worse.zero - worse.high) / (worse.high - worse.low) == pytest.approx(0.5)
    noise = effect_bar(replace(effect, ratio=1.1, low=0.9, high=1.2))
    assert noise.low < noise.zero < noise.estimate < noise.high
    assert effect_bar(replace(effect, ratio=float("nan"))) is None
    assert effect_bar(replace(effect, ratio=1.0, low=1.0, high=1.0)) is None


def test_a_culprit_is_read_seen_and_checked(samples):
    result = samples.bisect_result()
    assert [step.anchor for step in steps(result)] == ["culprit", "frames", "reproduce"]
    assert steps(result)[-1].command.startswith("perfguard compare ")
    page = render_html(result)
    assert all(f'id="{step.anchor}"' in page for step in steps(result))


def test_unknown_leads_to_what_is_left_and_no_change_to_nothing(samples):
    unknown = samples.unknown_result()
    assert steps(unknown)[0].anchor == "suspects"
    assert 'id="suspects"' in render_html(unknown)
    assert steps(samples.no_change_result()) == ()
    assert steps(samples.bisect_result(verdict=BisectVerdict.UNKNOWN, credible_set=())) == ()
    assert steps(samples.run_result()) == ()


def test_a_slower_candidate_is_searched_for_its_commit(samples):
    def command_of(text, **changed):
        run = samples.run_info(command=text)
        return next((step.command for step in steps(samples.compare_result(run=run, **changed)) if step.command), "")

    given = "perfguard compare v1 v2 --repo 'my clone' --run-dir x --run-dir=y --seed 3"
    assert command_of(given) == "perfguard bisect v1 v2 --repo 'my clone' --seed 3"
    assert command_of(given, verdict=CompareVerdict.FASTER) == ""
    for odd in ("perfguard compare --repo x a b", "perfguard bisect a b", "perfguard compare 'a b"):
        assert command_of(odd) == ""
