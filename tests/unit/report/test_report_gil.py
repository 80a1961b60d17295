"""What is shown of the GIL: means over the trials of each side, and what cannot be told."""

from __future__ import annotations

import pytest

from perfguard.report.gil import gil_of, gil_rows
from perfguard.report.view import build_page


def test_trials_of_one_revision_and_strategy_are_averaged(samples):
    one, other = samples.revision(1), samples.revision(2)
    trials = [
        samples.completed(1, 1, one, 150.0, gil=(samples.role_gil("tokenizer", 0.2, 0.1),)),
        samples.completed(2, 1, one, 150.0, gil=(samples.role_gil("tokenizer", 0.4, 0.3),)),
        samples.completed(3, 1, one, 150.0, gil=(samples.role_gil("tokenizer", None, None, unknown="no symbol"),)),
        samples.completed(4, 1, one, 150.0, strategy="local", gil=(samples.role_gil("tokenizer", 1.0, 1.0),)),
        samples.completed(5, 1, other, 120.0, gil=(samples.role_gil("tokenizer", 1.0, 1.0),)),
        samples.untestable(6, 1, one),
    ]
    (told,) = gil_of(trials, one)
    assert (told.hold_frac, told.wait_frac) == (pytest.approx(0.3), pytest.approx(0.2))
    assert (told.looks, told.unknown) == (300, "")


def test_what_cannot_be_told_says_why(samples):
    one = samples.revision(1)
    trials = [samples.completed(1, 1, one, 150.0, gil=(samples.role_gil("rank-0", None, None, unknown="no symbol"),))]
    (told,) = gil_of(trials, one)
    assert told.wait_frac is None
    assert told.unknown == "no symbol"


def test_the_page_has_the_culprit_beside_its_parent(samples):
    result = samples.bisect_result()
    parent, culprit = samples.revision(63), result.culprit.revision
    trials = [
        samples.completed(1, 1, parent, 150.0, gil=(samples.role_gil("rank-0", 0.5, 0.01),)),
        samples.completed(2, 1, culprit, 120.0, gil=(samples.role_gil("rank-0", 0.4, 0.22),)),
    ]
    page = build_page(samples.bisect_result(trials=tuple(trials)))
    assert [(row.side, row.holds, row.waits) for row in page.gil] == [
        ("Before", "50.0%", "1.0%"),
        ("After", "40.0%", "22.0%"),
    ]
    assert gil_rows(()) == ()
    assert build_page(result).gil == ()
