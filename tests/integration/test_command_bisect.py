"""Any Python server: a small asyncio server with a planted regression, bisected from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SERVER = """
import asyncio
import sys

from shop import catalogue


async def answer(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = 0
            for line in head.split(b"\\r\\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = await reader.readexactly(length)
            reply = catalogue.rank(body.decode()) if length else b"up"
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(reply) + reply)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
"""

FAST = """
import json

STOCK = [{"name": f"thing {number}", "words": [str(number * n) for n in range(8)]} for number in range(60)]


def rank(query):
    found = sorted(STOCK, key=lambda item: (query in item["words"], item["name"]))
    found = [dict(item, score=score(item, query)) for item in found]
    return json.dumps(found[:20]).encode()


def score(item, query):
    return sum(len(word) for word in item["words"] for _ in range(100) if word not in query)
"""

# Each item makes a journey through pickle, as if for another process.
SLOW = (
    FAST.replace(
        "    found = [dict(",
        "    found = copies(found)\n    found = [dict(",
    ).replace(
        "import json\n",
        "import json\nimport pickle\n",
    )
    + """

def copies(items):
    copied = items
    for _ in range(30):
        copied = [pickle.loads(pickle.dumps(item)) for item in copied]
    return copied
"""
)

SCENARIO = """
name = "shop"
description = "rank things of a small shop"
metric = "throughput_rps"

[target]
kind = "command"
start_timeout_s = 30.0
drain_timeout_s = 10.0

[target.command]
line = ["{python}", "-m", "shop.server", "{port}"]
health_path = "/health"
source_root = "src"

[load]
concurrency = 4
warmup_requests = 40
settling_requests = 20
requests = 300
profiled_requests = 300
request_timeout_s = 20.0
seed = 1

[load.request]
path = "/rank"
json = { query = "{prompt}" }

[profiling]
enabled = true
trials_per_revision = 4
rate_hz = 200
nonblocking = true

[limits]
min_effect_frac = 0.1
confidence = 0.9
max_trials = 60
"""

PLANTED = 5


@pytest.fixture
def shop(tmp_path):
    """A repository of eight commits, of which number `PLANTED` (from 0) is slow; returns it and the commits."""
    repo = tmp_path / "shop"
    package = repo / "src" / "shop"
    package.mkdir(parents=True)

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *arguments], cwd=repo, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    (package / "__init__.py").touch()
    (package / "server.py").write_text(SERVER)
    commits = []
    for number in range(8):
        text = FAST if number < PLANTED else SLOW
        (package / "catalogue.py").write_text(f"{text}\nVERSION = {number}\n")
        git("add", ".")
        git("commit", "-q", "-m", f"Change {number}")
        commits.append(git("rev-parse", "HEAD"))
    return repo, commits


def test_a_bisect_of_any_server_names_the_commit_and_the_function(shop, tmp_path):
    repo, commits = shop
    scenario = tmp_path / "shop.toml"
    scenario.write_text(SCENARIO)
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "perfguard.cli.main", "bisect", commits[0], commits[-1], "--repo", repo]
    done = subprocess.run(
        [*command, "-s", scenario, "--run-dir", run_dir, "--json"],
        env={**os.environ, "PERFGUARD_CACHE_DIR": str(tmp_path / "cache"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["culprit"]["commit"] == commits[PLANTED], done.stderr
    assert "copies" in json.dumps(document["grown_frames"]), done.stderr
    # The pickling holds the GIL, and in a server of one thread nobody waits for it.
    locked = [each for each in document["gil_frames"] if "frame" in each]
    copying = [each for each in locked if "copies" in each["frame"]]
    assert sum(each["after_holding_ms_per_request"] for each in copying) > 0.0
    assert all(each["before_holding_ms_per_request"] == 0.0 for each in copying)
    waited = sum(each["after_waiting_ms_per_request"] for each in locked)
    assert waited < 0.1 * sum(each["after_holding_ms_per_request"] for each in locked)
    assert "device" not in document["environment"]
    assert document["environment"]["stand_ins"] == []
    assert Path(document["report"]).is_file()
