"""Links of 1, 2 and 4 ranks, with a CPU for a card: equal to the byte, and a rank that fails ends the others' waits."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("torch")

PROGRAM = Path(__file__).with_name("link_of_ranks.py")
GONE = "RankFailedError: another rank is gone"


@functools.cache
def run_link(ranks):
    """What the ranks of a link found, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        return run_link_in(Path(folder), ranks)


def run_link_in(folder, ranks):
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(ranks), str(folder)],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(params=[1, 2, 4])
def link(request):
    return run_link(request.param)


@pytest.fixture(params=[2, 4])
def link_of_several(request):
    return run_link(request.param)


def test_every_rank_gets_every_case_to_the_byte_alone_and_together(link):
    assert [rank["wrong"] + rank["wrong early"] for rank in link] == [[]] * len(link)
    assert all(rank["together"] is True for rank in link)


def test_nothing_long_messages_and_many_arrive_in_order(link):
    assert [(rank["nothing"], rank["long"], rank["many"]) for rank in link] == [([], True, True)] * len(link)
    assert all(rank["long behind early"] is True for rank in link)


def test_a_value_that_cannot_be_sent_leaves_the_ranks_in_step(link):
    first, *others = link
    assert first["unsendable"] in ("PicklingError", "AttributeError")
    assert [rank["unsendable"] for rank in others] == ["not asked"] * len(others)
    assert [rank["after it"] for rank in link] == [["in step"]] * len(link)


def test_a_rank_that_raises_before_its_collective_is_told_to_all_at_once(link_of_several):
    told = [rank["failed receiver"] for rank in link_of_several]
    assert told.pop().startswith("ZeroDivisionError")
    assert all(text.startswith(GONE) for text in told), told
    told = [rank["failed sender"] for rank in link_of_several]
    assert told.pop(0).startswith("ZeroDivisionError")
    assert all(text.startswith(GONE) for text in told), told


def test_a_rank_that_is_killed_ends_the_others_at_once(link_of_several):
    *others, last = link_of_several
    assert "killed" not in last
    assert all(rank["killed"].startswith(GONE) for rank in others), others


def test_a_rank_that_is_silent_ends_the_others_by_the_limit(link_of_several):
    told = [rank["silent"] for rank in link_of_several[1:]]
    assert all(text.startswith("RankFailedError: another rank was silent for 2 s") for text in told), told
