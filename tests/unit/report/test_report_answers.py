"""The first screen's answers, the culprit's frames, and the command that checks it."""

from __future__ import annotations

import re
from dataclasses import replace

from perfguard.model.result import BisectVerdict, Direction
from perfguard.report.answers import answers, check_command, frames_of, parent_of
from perfguard.report.render import render_html
from perfguard.report.rows import frame_rows


def answer(result, question):
    return next(each for each in answers(result) if each.question == question)


def test_a_culprit_answers_what_how_sure_which_commit_and_which_stack(samples):
    result = samples.bisect_result()
    assert [each.question for each in answers(result)] == ["What happened", "How sure", "Which commit", "Which stack"]
    assert answer(result, "What happened").value.endswith("% throughput")
    assert "worse" in answer(result, "What happened").note
    assert answer(result, "How sure").value == "98.10%"
    assert "127 candidates" in answer(result, "How sure").note
    assert answer(result, "Which commit").value == result.culprit.revision.label
    stack = answer(result, "Which stack")
    grown = next(each for each in result.grown_frames if each.significant)
    assert grown.frame.startswith(stack.value)
    assert (stack.role, stack.note[0]) == (grown.role, "+")


def test_an_improvement_names_what_shrank(samples):
    frames = tuple(
        replace(each, before_ms_per_request=each.after_ms_per_request, after_ms_per_request=each.before_ms_per_request)
        for each in samples.grown_frames()
    )
    result = samples.bisect_result(direction=Direction.IMPROVEMENT, grown_frames=frames)
    assert answer(result, "Which stack").note.startswith("-")
    assert "Which stack" not in [each.question for each in answers(samples.bisect_result(grown_frames=()))]


def test_unknown_names_no_commit(samples):
    result = samples.unknown_result()
    assert result.verdict is BisectVerdict.UNKNOWN
    assert "cannot be told apart" in answer(result, "How sure").note
    assert "Which commit" not in [each.question for each in answers(result)]
    assert answers(samples.run_result()) == ()


def test_the_check_compares_the_culprit_with_its_parent(samples):
    run = replace(
        samples.run_info(),
        command="perfguard bisect v1 v2 --repo 'my clone' --find regression --fix all --run-dir=x --seed 3 --run-dir y",
    )
    result = samples.bisect_result(run=run)
    parent, culprit = parent_of(result).label, result.culprit.revision.label
    assert check_command(result) == f"perfguard compare {parent} {culprit} --repo 'my clone' --seed 3"
    assert check_command(result) in re.sub(r"&#39;", "'", render_html(result))
    assert check_command(samples.compare_result()) == ""
    for odd in ("perfguard bisect --repo x a b", "perfguard run a b", "perfguard bisect 'a b"):
        assert check_command(samples.bisect_result(run=replace(run, command=odd))) == ""
    without_parent = tuple(each for each in result.revisions if each.revision.label != parent)
    assert check_command(samples.bisect_result(run=run, revisions=without_parent)) == ""


def test_the_frames_of_a_change_stand_in_its_files(samples):
    result = samples.bisect_result()
    grown = next(each for each in samples.grown_frames() if each.significant)
    here = replace(grown, frame="grow (sglang/srt/a.py)")
    noise = replace(here, frame="other (sglang/srt/a.py)", significant=False)
    elsewhere = replace(grown, frame="grow (lib/a.py)")
    native = replace(grown, frame="<native>")
    culprit = replace(
        result.culprit, hunks=tuple(replace(each, path="python/sglang/srt/a.py") for each in result.culprit.hunks)
    )
    rows = frame_rows((here, noise, elsewhere, native))
    assert [row.frame for row in frames_of(culprit, rows)] == ["grow (sglang/srt/a.py)"]
