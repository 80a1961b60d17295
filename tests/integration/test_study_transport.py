"""A tiny study on the real functions of a release: every cell measured, every file written, nothing left running."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SHM = Path("/dev/shm")  # noqa: S108 - the place of POSIX segments, not a temporary directory
GRID = """
name = "tiny"
description = "two sizes"
target = "sglang-transport"
scenario = "mm-small-images"
strategies = ["local", "shared-memory"]
baseline = "local"
ranks = [2]
concurrency = [1, 8]
requests = 3
starts = 1
blocks_per_start = 1
most_in_flight_mb = 25
confidence = 0.95
min_effect_frac = 0.05

[[media]]
name = "112x112"
width_px = 112
height_px = 112

[[media]]
name = "video 8f 448x252"
kind = "video"
width_px = 448
height_px = 252
frames = 8
"""


def test_a_tiny_study_measures_every_cell_and_leaves_nothing(managed_environment, cli_environment, tmp_path):
    grid = tmp_path / "tiny.toml"
    grid.write_text(GRID)
    folder = tmp_path / "study"
    before = set(SHM.glob("perfguard-*"))
    command = [sys.executable, "-m", "perfguard.cli.main", "study", "0.5.4.post2", "--grid", str(grid)]
    done = subprocess.run(
        [*command, "--run-dir", str(folder), "--json"],
        env=cli_environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "trials of 6 to run" in done.stderr
    document = json.loads(done.stdout)
    places = {(cell["cell"]["media"], cell["cell"]["concurrency"]) for cell in document["cells"]}
    assert places == {("112x112", 1), ("112x112", 8), ("video 8f 448x252", 1)}  # 8 videos would be too much in flight
    for cell in document["cells"]:
        assert min(cell["memcpy_ms"], cell["sha256_ms"]) > 0.0
        for arm in cell["arms"]:
            assert math.isfinite(arm["mean_ms"])
            alone = cell["cell"]["concurrency"] == 1
            assert (arm["received_ms"] is not None) == (arm["to_limit"] is not None) == alone
            assert not alone or arm["received_ms"] < arm["delivered_ms"] < arm["whole_ms"]
    assert any("strategy shared-memory" in line for line in document["run"]["stand_ins"])
    assert "Not measured, since more than 25 MB would be in flight" in (folder / "report.html").read_text()
    assert len((folder / "study.csv").read_text().splitlines()) == 1 + 6
    assert not (folder / "work").exists() or list((folder / "work").iterdir()) == []
    assert set(SHM.glob("perfguard-*")) - before == set()
