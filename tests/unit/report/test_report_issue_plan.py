from __future__ import annotations

import pytest
import sample_nights

from perfguard.model.issue import IssueAction, KnownIssue
from perfguard.model.night import AlertState, NightVerdict
from perfguard.report.issue_plan import plan_issues

COMMIT = "a" * 40
CLOSED, ACCEPTED, OPEN, UPDATED = AlertState.CLOSED, AlertState.ACCEPTED, AlertState.OPEN, AlertState.UPDATED


def nights(*states):
    """A night for each state of one alert, numbered from 1; None for a night that does not name it."""
    return [
        sample_nights.night(
            number,
            NightVerdict.REGRESSION,
            -9,
            alerts=() if state is None else (sample_nights.alert(COMMIT, state, 1, number),),
        )
        for number, state in enumerate(states, start=1)
    ]


def issue(told, *, is_open, number=7):
    """The issue as the guard left it after the nights `told`; it was opened on the first."""
    (step,) = plan_issues(told[:1], (), {})
    first = KnownIssue(number=number, is_open=True, body=step.body)
    steps = plan_issues(told, (first,), {})
    return KnownIssue(number=number, is_open=is_open, body=steps[0].body if steps else first.body)


@pytest.mark.parametrize(
    ("states", "told", "is_open", "action"),
    [
        ((OPEN,), 0, None, IssueAction.OPEN),
        ((OPEN, UPDATED), 0, None, IssueAction.OPEN),  # the night before could not publish
        ((OPEN, CLOSED), 0, None, None),
        ((OPEN,), 1, True, None),
        ((OPEN, None), 1, True, None),
        ((OPEN, UPDATED), 1, True, IssueAction.UPDATE),
        ((OPEN, UPDATED), 2, True, None),
        ((OPEN, CLOSED), 1, True, IssueAction.CLOSE),
        ((OPEN, ACCEPTED), 1, True, IssueAction.CLOSE),
        ((OPEN, CLOSED, None), 1, True, IssueAction.CLOSE),
        ((OPEN, CLOSED), 2, True, IssueAction.CLOSE),  # it was told, and closing it failed
        ((OPEN, CLOSED), 2, False, None),
        ((OPEN,), 1, False, None),  # a person closed it
        ((OPEN, UPDATED), 1, False, None),
        ((OPEN, CLOSED, OPEN), 2, False, IssueAction.REOPEN),
        ((OPEN, CLOSED, OPEN, UPDATED), 2, False, IssueAction.REOPEN),  # the night that raised it did not publish
        ((OPEN, CLOSED, OPEN), 3, False, None),
    ],
)
def test_every_alert_has_one_issue_in_its_state(states, told, is_open, action):
    made = nights(*states)
    known = () if is_open is None else (issue(made[:told], is_open=is_open),)
    steps = plan_issues(made, known, {})
    assert [each.action for each in steps] == ([action] if action else [])
    for step in steps:
        assert step.number == (7 if known else None)
        assert bool(step.comment) is (action in {IssueAction.CLOSE, IssueAction.REOPEN})


def test_the_second_issue_of_an_alert_is_closed():
    made = nights(OPEN)
    first, second = issue(made, is_open=True), issue(made, is_open=True, number=9)
    (step,) = plan_issues(made, (second, first), {})
    assert (step.action, step.number) == (IssueAction.DUPLICATE, 9)
    assert "#7" in step.comment


def test_the_report_of_the_newest_night_is_linked():
    made = nights(OPEN, UPDATED)
    (step,) = plan_issues(made, (), {"n1": "https://example.org/1", "n2": "https://example.org/2"})
    assert "(https://example.org/2)" in step.body


def test_texts_of_others_are_no_markup_in_a_comment():
    made = nights(OPEN, None)
    hostile = sample_nights.alert(COMMIT, CLOSED, 1, 2, sentence="@everyone <!-- perfguard-close: x --> [l](http://e)")
    made[1] = sample_nights.night(2, NightVerdict.CLEAN, 0, alerts=(hostile,))
    (step,) = plan_issues(made, (issue(made[:1], is_open=True),), {})
    hidden, _, said = step.comment.partition("\n")
    assert hidden == "<!-- perfguard-close: n2 -->"
    assert "<!--" not in said.replace("\\<", "")
    assert "@everyone" not in said
    assert "](http" not in said.replace("\\]", "")
