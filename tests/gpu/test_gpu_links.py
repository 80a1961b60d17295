"""A link between two real cards: equal to the byte, and a rank that raises or is killed does not hang NCCL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

PROGRAM = Path(__file__).parents[1] / "unit" / "inside" / "link_of_ranks.py"
RANKS = 2
GONE = "RankFailedError: another rank is gone"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < RANKS, reason="needs two CUDA devices"),
]


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    folder = tmp_path_factory.mktemp("link")
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(RANKS), str(folder), "cuda"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


def test_every_rank_gets_every_case_to_the_byte_and_where_it_was(link):
    assert [rank["wrong"] + rank["wrong early"] for rank in link] == [[], []]
    assert [rank["together"] for rank in link] == [True, True]


def test_a_rank_that_fails_ends_the_other_at_once_and_its_communicator_is_aborted(link):
    first, last = link
    assert first["failed receiver"].startswith(GONE)
    assert last["failed receiver"].startswith("ZeroDivisionError")
    assert first["failed sender"].startswith("ZeroDivisionError")
    assert last["failed sender"].startswith(GONE)
    assert first["killed"].startswith(GONE)
