"""`perfguard run` on the command line: how many blocks it asks for, and of which strategies."""

from __future__ import annotations

import pytest

from perfguard.cli.main import run_cli
from perfguard.model.errors import EXIT_USAGE, UsageError
from perfguard.model.scenario import Strategy
from perfguard.workflows import measure as measure_module


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What was asked of the workflow, which then stops."""
    found = {}
    monkeypatch.setenv("PERFGUARD_RUNS_DIR", str(tmp_path / "runs"))

    def measure(_request, refs, blocks, _progress, strategies):
        found.update(refs=refs, blocks=blocks, strategies=strategies)
        raise UsageError("seen")

    monkeypatch.setattr(measure_module, "measure", measure)
    return found


@pytest.mark.parametrize(
    ("options", "blocks", "strategies"),
    [
        ([], 1, (Strategy.AS_COMMITTED,)),
        (["--strategy", "local"], 1, (Strategy.LOCAL,)),
        (["--strategy", "all"], 5, tuple(Strategy)),
        (["--strategy", "all", "--blocks", "3"], 3, tuple(Strategy)),
        (["--repeats", "4"], 4, (Strategy.AS_COMMITTED,)),
    ],
)
def test_all_strategies_run_in_five_blocks_unless_told(asked, options, blocks, strategies):
    assert run_cli(["run", "0.5.4.post2", *options]) == EXIT_USAGE
    assert asked == {"refs": ("0.5.4.post2",), "blocks": blocks, "strategies": strategies}


def test_no_block_is_no_run(asked):
    assert run_cli(["run", "0.5.4.post2", "--blocks", "0"]) == EXIT_USAGE
    assert asked == {}
