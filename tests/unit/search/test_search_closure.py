"""Which commits can matter."""

import pytest

from perfguard.search.closure import close, hidden_commits, keep_all

CHANGED = [
    {"anything.py"},
    {"docs/a.md"},
    {"python/pkg/loaded.py", "docs/a.md"},
    {"python/pkg/unused.py"},
    {"python/pyproject.toml"},
    {"tests/test_x.py"},
    {"python/pkg/data.json"},
]
USED = {"python/pkg/loaded.py", "python/pkg/data.json"}


def test_commits_that_touch_nothing_used_collapse_into_their_parent():
    closure = close(CHANGED, USED, pins=["python/pyproject.toml"])
    assert closure.representatives == (0, 2, 4, 6)
    assert [closure.group(index) for index in range(7)] == [0, 0, 1, 1, 2, 2, 3]
    assert [list(closure.members(group)) for group in range(4)] == [[0, 1], [2, 3], [4, 5], [6]]
    assert closure.describe() == "6 commits, 3 can matter"


def test_every_revision_is_in_exactly_one_group():
    closure = close(CHANGED, USED)
    members = [index for group in range(len(closure.representatives)) for index in closure.members(group)]
    assert members == list(range(len(CHANGED)))
    assert all(index in closure.members(closure.group(index)) for index in range(len(CHANGED)))


def test_pins_are_patterns():
    changed = [set(), {"a/requirements-dev.txt"}, {"b/requirements.in"}]
    assert close(changed, set(), pins=["*/requirements*.txt"]).representatives == (0, 1)


def test_nothing_may_matter_at_all():
    closure = close([{"x"}, {"docs/b.md"}], USED)
    assert closure.can_matter == 0
    assert closure.describe() == "1 commit, 0 can matter"


def test_turned_off_it_keeps_all():
    assert keep_all(4).representatives == (0, 1, 2, 3)
    assert keep_all(4).describe() == "3 commits, 3 can matter"


def test_a_file_that_only_the_neighbours_load_uncovers_hidden_commits():
    closure = close(CHANGED, USED)
    assert hidden_commits(closure, CHANGED, USED) == ()
    assert hidden_commits(closure, CHANGED, {*USED, "python/pkg/unused.py"}) == (3,)
    assert close(CHANGED, {*USED, "python/pkg/unused.py"}).representatives == (0, 2, 3, 6)


def test_wrong_questions_are_refused():
    closure = close(CHANGED, USED)
    for call in (
        lambda: closure.group(7),
        lambda: closure.group(-1),
        lambda: closure.members(9),
        lambda: close([], []),
    ):
        with pytest.raises(ValueError):
            call()
