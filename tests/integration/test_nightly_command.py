"""The guard on a real server: a night that its budget ends, one that is killed, and the one that goes on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

SERVER = """
import asyncio
import pathlib
import sys

DELAY_S = float(pathlib.Path("delay").read_text())


async def answer(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = 0
            for line in head.split(b"\\r\\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if length:
                await reader.readexactly(length)
                await asyncio.sleep(DELAY_S)
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nup")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
"""

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
        self.repo, self.state = root / "repo", root / "state"
        self.repo.mkdir()
        self.scenario = root / "waiter.toml"
        self.scenario.write_text(SCENARIO)
        self._environment = {**os.environ, "PERFGUARD_CACHE_DIR": str(root / "cache"), "NO_COLOR": "1"}
        self._git("init", "-q", "-b", "main")
        (self.repo / "server.py").write_text(SERVER)

    def commit(self, subject, delay):
        (self.repo / "delay").write_text(delay)
        (self.repo / "subject").write_text(subject)
        self._git("add", ".")
        self._git("commit", "-q", "-m", subject)
        return self._git("rev-parse", "HEAD")

    def start(self, *arguments):
        command = [sys.executable, "-m", "perfguard.cli.main", "nightly", "--repo", self.repo, "--state", self.state]
        return subprocess.Popen(
            [*command, "-s", self.scenario, "--json", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def night(self, *arguments):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, json.loads(out), err

    def _git(self, *arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *arguments], cwd=self.repo, check=True, capture_output=True, text=True)
        return done.stdout.strip()


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
