"""Priors from the frames that grew."""

import pytest

from perfguard.model.result import GrownFrame
from perfguard.model.revision import Hunk
from perfguard.search import Search, SearchConfig
from perfguard.search.prior import FILE_WEIGHT, FUNCTION_WEIGHT, WRITTEN_WEIGHT, Change, change_of, evidence_prior


def grown(frame, before, after, *, significant=True):
    return GrownFrame(
        frame=frame,
        role="rank-0",
        before_ms_per_request=before,
        after_ms_per_request=after,
        before_self_ms_per_request=0.0,
        after_self_ms_per_request=0.0,
        low_ms=None,
        high_ms=None,
        significant=significant,
    )


def change(*functions, files=()):
    return Change(files=frozenset({*files, *(path for path, _ in functions)}), functions=frozenset(functions))


SCHEDULER = "python/pkg/managers/scheduler.py"
CHANGES = [
    change(),
    change(("README.md", "share")),
    change((SCHEDULER, "share_inputs")),
    change((SCHEDULER, "other")),
    change((SCHEDULER, "event_loop")),
    change(("python/pkg/utils.py", "share_inputs")),
]
FRAMES = [
    grown("Scheduler.share_inputs (pkg/managers/scheduler.py)", 0.0, 4.0),
    grown("event_loop (pkg/managers/scheduler.py)", 36.0, 40.0),
]


def test_editing_what_grew_weighs_most_and_nothing_weighs_nothing():
    weights = evidence_prior(CHANGES, FRAMES)
    assert weights[0] == 0.0
    assert weights[1] == weights[5] == 1.0
    assert weights[2] == pytest.approx(1.0 + FUNCTION_WEIGHT + FILE_WEIGHT)
    assert weights[3] == pytest.approx(1.0 + FILE_WEIGHT)
    # The main loop grew by a tenth of itself: it counts a tenth.
    assert weights[4] == pytest.approx(1.0 + 0.1 * FUNCTION_WEIGHT + FILE_WEIGHT)


def test_frames_within_the_noise_or_that_shrank_say_nothing():
    frames = [
        grown("share_inputs (pkg/managers/scheduler.py)", 1.0, 4.0, significant=False),
        grown("share_inputs (pkg/managers/scheduler.py)", 4.0, 1.0),
        grown("<native>", 0.0, 1.0),
    ]
    assert set(evidence_prior(CHANGES, frames)[1:]) == {1.0}


def test_a_file_name_must_match_at_a_folder():
    frames = [grown("f (scheduler.py)", 0.0, 1.0)]
    assert evidence_prior([change(), change(("a/my_scheduler.py", "f"))], frames)[1] == 1.0


def test_functions_are_read_from_hunks():
    lines = [" class A:", "-    def old(self):", "+    async def new(self):", " def context():", "+    undefined = 1"]
    hunk = Hunk(path="a.py", old_start=1, old_lines=3, new_start=1, new_lines=4, text="\n".join(lines))
    assert change_of([hunk]) == Change(
        files=frozenset({"a.py"}),
        functions=frozenset({("a.py", "old"), ("a.py", "new"), ("a.py", "context")}),
        written=frozenset({("a.py", "new")}),
    )


def test_the_search_starts_where_the_evidence_points():
    prior = evidence_prior([CHANGES[1]] * 60 + [CHANGES[2]] + [CHANGES[1]] * 3, FRAMES)
    search = Search(64, SearchConfig(gate=False), prior=prior, seed=1)
    block = search.next_block()
    assert block is not None
    # Without the evidence it would begin in the middle, at 31 or 32.
    assert any(38 <= index <= 61 for index in block)
    assert search.result().posterior[60] > 5 * search.result().posterior[10] > 0.0


def hunk(text, path=SCHEDULER):
    return Hunk(path=path, old_start=1, old_lines=1, new_start=1, new_lines=1, text=text)


def test_writing_a_function_that_was_not_there_weighs_most_of_all():
    written = change_of([hunk("+    def share_inputs(self):\n+        pass")])
    moved = change_of([hunk("-    def share_inputs(self):\n+    def share_inputs(self, more):")])
    assert written.written == {(SCHEDULER, "share_inputs")}
    assert moved.written == frozenset()
    assert written.functions == moved.functions
    weights = evidence_prior([change(), written, moved], FRAMES)
    assert weights[1] == pytest.approx(1.0 + FUNCTION_WEIGHT + FILE_WEIGHT + WRITTEN_WEIGHT)
    assert weights[2] == pytest.approx(1.0 + FUNCTION_WEIGHT + FILE_WEIGHT)
    # A function that the good end had already was not made to grow by being written.
    older = [grown("share_inputs (pkg/managers/scheduler.py)", 1.0, 4.0)]
    assert evidence_prior([change(), written], older)[1] < 1.0 + FUNCTION_WEIGHT + FILE_WEIGHT
