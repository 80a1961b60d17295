"""A real night of a real server through the action: two commits, the second of which is slow, and nothing is played."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from test_actions_steps import World, world
from test_command_bisect import FAST, SCENARIO, SERVER, SLOW

__all__ = ["world"]  # the fixture

pytestmark = pytest.mark.slow


def test_a_planted_regression_is_found_told_and_accepted(world: World):
    repo = world.clone
    repo.commit("Open the shop", **{"src/shop/server.py": SERVER, "src/shop/catalogue.py": FAST})
    scenario = world.root / "shop.toml"
    scenario.write_text(
        SCENARIO.replace("requests = 300", "requests = 150").replace("max_trials = 60", "max_trials = 40")
    )
    given = {"repo": str(repo.path), "scenario": str(scenario)}

    first = world.runner("first")
    first.install()
    assert not first.action(given).failed

    slow = repo.commit("Copy every thing", **{"src/shop/catalogue.py": SLOW})
    second = world.runner("second")
    second.install()
    run = second.action(given)
    assert run.ran[-1] == ("Say how it ended", 1)
    assert "## ▲ Regression" in second.summary.read_text()
    assert f"::error title=perfguard%3A Slower since {slow[:12]}::" in run.printed
    (issue,) = world.issues
    assert issue["title"] == f"perfguard: Slower since {slow[:12]}"
    assert "Copy every thing" in issue["body"]
    site = second.workspace / "perfguard-night" / "site"
    (page,) = site.glob("series-*.html")
    assert slow[:9] in page.read_text()
    assert len(list((site / "reports").glob("*.html"))) == 1
    told = json.loads((second.workspace / "perfguard-night" / "output" / "issues.json").read_text())
    assert [each["state"] for each in told] == ["open"]

    state = second.workspace / "perfguard-night" / "state"
    program = second.temp / "perfguard" / "bin" / "perfguard"
    accepted = second.bash(f'"{program}" accept {slow} --reason "it is worth it" --state "{state}"')
    assert accepted.returncode == 0, accepted.stdout
    third = second.action(given)
    assert third.ran[-1] == ("Say how it ended", 0)
    (issue,) = world.issues
    assert issue["state"] == "CLOSED"
    assert "it is worth it" in issue["comments"][0]
