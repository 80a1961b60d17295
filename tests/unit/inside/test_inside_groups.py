"""Groups of 1, 2, 4 and 8 ranks: each gets the same bytes every way, and a rank that fails does not hang the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

PROGRAM = Path(__file__).with_name("group_of_ranks.py")


@pytest.fixture(scope="module", params=[1, 2, 4, 8])
def group(request, tmp_path_factory):
    """What the ranks of a group found, in their order."""
    folder = tmp_path_factory.mktemp(f"group{request.param}")
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(request.param), str(folder)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("way", ["built", "parted", "shared"])
def test_every_rank_gets_every_case_to_the_byte(group, way):
    assert [rank[way] for rank in group] == [[]] * len(group)


def test_nothing_sent_arrives_as_nothing_and_no_segment_is_left(group):
    assert [rank["nothing sent"] for rank in group] == [[]] * len(group)
    assert [rank["segments"] for rank in group] == [[]] * len(group)


def test_the_condition_is_local_under_the_threshold_and_broadcast_from_it_on(group):
    for number, rank in enumerate(group):
        small, just_under, at = rank["conditional"]
        assert (small["by"], just_under["by"], at["by"]) == (number, number, 0)
        assert (small["count"], just_under["count"], at["count"]) == (10, 499, 500)


def test_a_rank_that_cannot_build_is_told_to_all_and_they_stay_in_step(group):
    first, *others = group
    assert first["built failure"].startswith("ZeroDivisionError")
    for rank in others:
        assert rank["built failure"].startswith("RankFailedError: rank 0 could not build")
        assert "ZeroDivisionError" in rank["built failure"]
    assert {rank["after the failure"] for rank in group} == {"by 0"}


def test_a_rank_that_cannot_map_its_segment_says_so_and_the_others_go_on(group):
    *others, last = group
    assert f"cannot be opened by rank {len(group) - 1}: No such file" in last["refused"]
    assert [rank["refused"] for rank in others] == [""] * len(others)


def test_a_rank_that_sends_nothing_ends_the_others_by_the_limit(group):
    first, *others = group
    assert first["silence"] in ("PicklingError", "AttributeError")
    assert {rank["silence"] for rank in others} <= {"RuntimeError", "DistBackendError"}
