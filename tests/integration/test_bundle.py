"""A bundle made where there is an index, and used where there is none: installed, and a run from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from perfguard.revisions.own_wheel import requirements

pytestmark = pytest.mark.slow

SPEC = """
name = "small"
summary = "what a small server imports"
requires_python = ">=3.10"
expected_size_bytes = 100000
expected_time_s = 1

[[steps]]
packages = ["six==1.17.0"]
"""

SERVER = """
import http.server
import sys

import six


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = six.ensure_binary("six " + six.__version__)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""

SCENARIO = """
name = "six"
description = "a small server whose one package came in a bundle"
metric = "throughput_rps"

[target]
kind = "command"
start_timeout_s = 30.0
drain_timeout_s = 10.0

[target.command]
line = ["{python}", "{tree}/server.py", "{port}"]
health_path = "/"

[load]
concurrency = 2
warmup_requests = 4
settling_requests = 4
requests = 20
profiled_requests = 0
request_timeout_s = 20.0
seed = 1

[load.request]
path = "/"
method = "GET"

[profiling]
enabled = false
trials_per_revision = 1
rate_hz = 100
nonblocking = true

[limits]
min_effect_frac = 0.05
confidence = 0.95
max_trials = 20
"""
NO_INDEX = {
    "PIP_NO_INDEX": "1",
    "PIP_INDEX_URL": "http://127.0.0.1:9/",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull,
}


def call(command, **environment):
    done = subprocess.run(
        command,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    path = tmp_path / "clone"
    path.mkdir()
    (path / "server.py").write_text(SERVER)
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "serve"], ["tag", "v1"]):
        call(["git", "-C", str(path), *arguments])
    return path


def test_a_bundle_is_made_here_and_measured_from_where_nothing_can_be_asked(tmp_path, clone):
    (tmp_path / "small.toml").write_text(SPEC)
    (tmp_path / "six.toml").write_text(SCENARIO)
    here = Path(__file__).parents[2]
    needed = [Requirement(each) for each in requirements()]
    provided = ",".join(each.name for each in needed if each.marker is None or each.marker.evaluate())
    made = call(
        [
            *(sys.executable, "-m", "perfguard.cli.main", "bundle", "create", "--json", "-q"),
            *("--revisions", "v1", "--repo", str(clone), "--provided", provided),
            *("--environment", str(tmp_path / "small.toml"), "--split", "3MiB", "--out", str(tmp_path / "bundle")),
        ],
        PYTHONPATH=str(here),
        PERFGUARD_CACHE_DIR=str(tmp_path / "cache"),
    )
    document = json.loads(made)
    assert document["wheels"] == 2
    assert sum(part["size_bytes"] for part in document["parts"]) == document["size_bytes"] < 3_000_000
    part = Path(document["parts"][0]["path"])
    clone.rename(tmp_path / "gone")

    environment = tmp_path / "environment"
    there = {
        **NO_INDEX,
        "PERFGUARD_CACHE_DIR": str(tmp_path / "elsewhere"),
        "PERFGUARD_RUNS_DIR": str(tmp_path / "runs"),
    }
    perfguard = call([sys.executable, str(part / "install.py"), "--into", str(environment)], **there).strip()
    printed = call(
        [perfguard, "run", "v1", "--bundle", str(tmp_path / "bundle"), "-s", str(tmp_path / "six.toml"), "--json"],
        **there,
    )
    result = json.loads(printed)
    (summary,) = result["revisions"]
    assert (summary["trials"], summary["untestable"]) == (1, 0)
    assert summary["metric_mean"] > 0.0
    with zipfile.ZipFile(next(part.glob("trees/*.zip"))) as tree:
        assert tree.namelist() == ["server.py"]
