"""The guard on a real server: a night that its budget ends, one that is killed, and the one that goes on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from small_server import Repository, program

pytestmark = pytest.mark.slow

SERVER = program(
    'await wait() if body else b"up"',
    prelude="""
import pathlib

DELAY_S = float(pathlib.Path("delay").read_text())


async def wait():
    await asyncio.sleep(DELAY_S)
    return b"up"
""",
)

SCENARIO = """
name = "waiter"
description = "a server that waits as long as its commit says"
metric = "throughput_rps"

[target]
kind = "command"
start_timeout_s = 60.0
drain_timeout_s = 10.0

[target.command]
line = ["{python}", "server.py", "{port}"]

[load]
concurrency = 1
warmup_requests = 2
settling_requests = 1
requests = 10
profiled_requests = 0
request_timeout_s = 20.0
seed = 1

[load.request]
path = "/wait"
json = { query = "{prompt}" }

[profiling]
enabled = false
trials_per_revision = 1
rate_hz = 100
nonblocking = true

[limits]
min_effect_frac = 0.2
confidence = 0.95
max_trials = 100
"""

FAST_S, SLOW_S = "0.01", "0.03"


class Guard:
    """A repository, a state folder, and the command that guards them."""

    def __init__(self, root):
        self.repository, self.state = Repository(root / "repo"), root / "state"
        self.scenario = root / "waiter.toml"
        self.scenario.write_text(SCENARIO)
        self._environment = {**os.environ, "PERFGUARD_CACHE_DIR": str(root / "cache"), "NO_COLOR": "1"}

    def commit(self, subject, delay):
        return self.repository.commit(subject, {"server.py": SERVER, "delay": delay, "subject": subject})

    def start(self, *arguments):
        where = ["--repo", self.repository.path, "--state", self.state]
        return subprocess.Popen(
            [sys.executable, "-m", "perfguard.cli.main", "nightly", *where, "-s", self.scenario, "--json", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def night(self, *arguments):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, json.loads(out), err


def test_a_night_is_continued_after_its_budget_and_after_a_kill(tmp_path):
    guard = Guard(tmp_path)
    guard.commit("start", FAST_S)
    assert guard.night()[0] == 0
    guard.commit("docs", FAST_S)
    # Twelve trials and four starts at least do not fit into a second.
    code, night, err = guard.night("--budget", "1s")
    assert (code, night["verdict"]) == (125, "unfinished"), err
    code, night, err = guard.night()
    assert (code, night["verdict"]) == (0, "clean"), err
    assert any("went on with" in note for note in night["notes"])
    culprit = guard.commit("slow", SLOW_S)
    guard.commit("more docs", SLOW_S)
    killed = guard.start()
    while not list(guard.state.glob("runs/*-bisect/run.sqlite")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    code, night, err = guard.night()
    assert (code, night["verdict"], night["alerts"][0]["commit"]) == (1, "regression", culprit), err
    assert [(alert["commit"], alert["state"]) for alert in night["alerts"]] == [(culprit, "open")]
    assert sum("went on with" in note for note in night["notes"]) >= 1
    assert list((guard.state / "begun").iterdir()) == []
