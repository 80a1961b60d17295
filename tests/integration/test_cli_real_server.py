"""The verbs on the real server: a short comparison across the known regression, resume after kill -9, nothing left."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

SCENARIO = """
name = "short"
description = "a short load for tests"
metric = "throughput_rps"

[target]
kind = "sglang-server"
device = "cpu"
tensor_parallel_size = 2
vision_tower = "zeros"
environment_spec = "sglang-cpu"
start_timeout_s = 240.0
drain_timeout_s = 30.0

[load]
concurrency = 16
warmup_requests = 32
settling_requests = 16
requests = 128
profiled_requests = 192
prompt_chars = 64
output_tokens = 2
request_timeout_s = 120.0
seed = 1

[load.image]
width_px = 112
height_px = 112
format = "jpeg"

[profiling]
enabled = true
trials_per_revision = 3
rate_hz = 100
nonblocking = true

[limits]
min_effect_frac = 0.05
confidence = 0.95
max_trials = 40
"""


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(SCENARIO)
    return path


def perfguard(*arguments):
    return [sys.executable, "-m", "perfguard.cli.main", *map(str, arguments)]


def left_over(marker):
    """Processes whose environment or command line names the run's folder, or that are servers of it."""
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        try:
            environment = process.environ()
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if marker in environment.get("PERFGUARD_REPORT_DIR", "") and process.pid != os.getpid():
            found.append((process.pid, process.info["name"]))
    return found


def wait_until(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)


def test_run_shows_the_commits_frame_on_the_real_server(
    managed_environment, release_tree, scenario, cli_environment, tmp_path
):
    run_dir = tmp_path / "run"
    done = subprocess.run(
        perfguard("run", "0.5.4.post1", "0.5.4.post2", "-s", scenario, "--run-dir", run_dir, "--json"),
        env=cli_environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert document["trials"] == 2
    assert document["environment"]["torch"].startswith("2.13")
    assert any("sgl_kernel" in name for name in document["environment"]["stand_ins"])
    assert [revision["revision"] for revision in document["revisions"]] == ["0.5.4.post1", "0.5.4.post2"]
    assert all(revision["metric_mean"] > 1.0 for revision in document["revisions"])
    report = Path(document["report"]).read_text()
    assert "0.5.4.post2" in report
    stacks = [gzip.decompress(file.read_bytes()).decode() for file in (run_dir / "artifacts").glob("*/*.gz")]
    assert any("_process_and_broadcast_mm_inputs" in text for text in stacks)
    assert re.search(r"""(src|href|action)=["']?(https?:)?//""", report) is None
    assert left_over(str(run_dir)) == []
    assert json.loads((run_dir / "result.json").read_text()) == document


def test_kill_nine_leaves_nothing_and_resume_repeats_nothing(
    managed_environment, release_tree, scenario, cli_environment, tmp_path
):
    run_dir = tmp_path / "run"
    command = perfguard("run", "0.5.4.post2", "-s", scenario, "--repeats", "2", "--run-dir", run_dir)
    log = tmp_path / "stderr.log"
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=cli_environment, stdout=sink, stderr=sink)
        try:
            wait_until(lambda: "trial 1, block 1" in log.read_text(), 150)
            wait_until(lambda: left_over(str(run_dir)), 60)
            time.sleep(3.0)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    wait_until(lambda: left_over(str(run_dir)) == [], 30)
    done = subprocess.run(
        [*command, "--resume", "--json"], env=cli_environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 2
    assert "trial 1, block 1" not in done.stderr
    assert "trial 2, block 2" in done.stderr
    assert left_over(str(run_dir)) == []
