"""Any Python server: a small asyncio server with a planted regression, bisected from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_server import Repository, program

pytestmark = pytest.mark.slow

SERVER = program('catalogue.rank(body.decode()) if body else b"up"', prelude="from shop import catalogue")

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

# The example that the documentation shows, with a little less of everything.
EXAMPLE = Path(__file__).parents[2] / "scenarios" / "examples" / "shop.toml"
LESS = {"requests = 400": "requests = 300", "confidence = 0.95": "confidence = 0.9"}

PLANTED = 5


@pytest.fixture
def shop(tmp_path):
    """A repository of eight commits, of which number `PLANTED` (from 0) is slow; returns it and the commits."""
    repository = Repository(tmp_path / "shop")
    commits = []
    for number in range(8):
        files = {
            "src/shop/__init__.py": "",
            "src/shop/server.py": SERVER,
            "src/shop/catalogue.py": f"{FAST if number < PLANTED else SLOW}\nVERSION = {number}\n",
        }
        commits.append(repository.commit(f"Change {number}", files))
    return repository.path, commits


def test_a_bisect_of_any_server_names_the_commit_and_the_function(shop, tmp_path):
    repo, commits = shop
    scenario = tmp_path / "shop.toml"
    text = EXAMPLE.read_text()
    for usual, less in LESS.items():
        assert usual in text
        text = text.replace(usual, less)
    scenario.write_text(text)
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
