"""A run judged again from what it kept: the same answer, no server, and a clear word where something is missing."""

from __future__ import annotations

import gzip
import sqlite3
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_workflows_bisect import World, lab  # noqa: F401 - the simulated server and its fixture

from perfguard.cli.main import run_cli
from perfguard.model.errors import MissingTrialError, PerfguardError, UsageError
from perfguard.model.progress import Silent
from perfguard.model.result import Direction
from perfguard.report.clean import clean
from perfguard.workflows import replay as replay_module
from perfguard.workflows import session as session_module
from perfguard.workflows.bisect import bisect
from perfguard.workflows.compare import compare
from perfguard.workflows.replay import KEPT, keep_result, log_lines, read_result, read_run, replay


class NoServers:
    """Servers that must not be asked for."""

    def __init__(self, _bench):
        pass

    def close(self):
        """Nothing runs."""


class Told:
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)

    def step(self, message):
        """Nothing is shown."""

    def close(self):
        """Nothing is shown."""


@pytest.fixture
def finished(lab, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    """Run a workflow to its end; from then on no server can be had."""

    def run(workflow, *arguments, die_after=None, count=12):
        world = World(4)
        world.die_after = die_after
        refs = tuple(each for each in arguments if not isinstance(each, Direction))
        try:
            result = lab(workflow, world, *arguments, count=count)
        except KeyboardInterrupt:
            result = None
        database = sqlite3.connect(tmp_path / "run" / "run.sqlite")
        with database:
            settings = database.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone()[0]
            settings = settings.replace('"refs":[]', '"refs":["' + '","'.join(refs) + '"]')
            database.execute("UPDATE meta SET value = ? WHERE key = 'settings'", (settings,))
        database.close()
        monkeypatch.setattr(session_module, "Servers", NoServers)
        return result

    return run


def test_a_finished_run_is_judged_again_without_a_server(finished, tmp_path):
    first = finished(bisect, "r0", "r11", Direction.REGRESSION)
    again = replay(tmp_path / "run", Silent())
    assert (again.verdict, again.culprit, again.effects, again.posterior, again.grown_frames) == (
        first.verdict,
        first.culprit,
        first.effects,
        first.posterior,
        first.grown_frames,
    )
    assert again.trials == first.trials


def test_its_profiles_are_exported_on_request(finished, tmp_path):
    finished(compare, "r3", "r4")
    assert run_cli(["report", str(tmp_path / "run"), "-q", "--exports", str(tmp_path / "exports")]) == 0
    names = {path.name for path in (tmp_path / "exports").iterdir()}
    assert {"profile.speedscope.json", "functions.csv"} < names
    assert any(name.endswith("-rank-0.folded") for name in names)


def test_a_comparison_too(finished, tmp_path):
    first = finished(compare, "r3", "r4")
    again = replay(tmp_path / "run", Silent())
    assert (again.verdict, again.sentence, again.effects) == (first.verdict, first.sentence, first.effects)


def test_an_unfinished_run_says_what_is_missing_and_how_to_go_on(finished, tmp_path):
    finished(bisect, "r0", "r11", Direction.REGRESSION, die_after=4)
    with pytest.raises(MissingTrialError, match="trial 5 is missing: the run is not finished") as caught:
        replay(tmp_path / "run", Silent())
    assert caught.value.exit_code == 125
    assert caught.value.hint == (
        f"4 trials are kept; continue with: perfguard test --resume --run-dir {tmp_path / 'run'}"
    )


def test_what_was_concluded_is_shown_where_it_cannot_be_judged_again(finished, tmp_path, monkeypatch):
    first = finished(bisect, "r0", "r11", Direction.REGRESSION)
    keep_result(first, tmp_path / "run")

    def gone(*_, **_named):
        raise UsageError("the clone is gone")

    monkeypatch.setattr(replay_module, "bisect", gone)
    told = Told()
    again = replay(tmp_path / "run", told)
    assert "the clone is gone" in told.lines[-1]
    assert again.trials == read_run(tmp_path / "run").trials
    assert clean(again) == clean(first)
    (tmp_path / "run" / KEPT).write_bytes(gzip.compress(b'{"version": 99, "kind": "BisectResult", "result": {}}'))
    assert read_result(read_run(tmp_path / "run")) is None
    with pytest.raises(UsageError, match="the clone is gone"):
        replay(tmp_path / "run", told)


def test_the_log_is_a_script_that_measures_anew(finished, tmp_path):
    finished(bisect, "r0", "r11", Direction.REGRESSION)
    run = read_run(tmp_path / "run")
    lines = log_lines(run)
    assert [line for line in lines if not line.startswith("#")] == ["perfguard test"]
    assert sum(line.startswith("#   trial ") for line in lines) == len(run.trials)
    assert any(f"perfguard report {tmp_path / 'run'}" in line for line in lines)
    assert any("--resume --run-dir" in line for line in lines)


def test_no_run_and_a_run_that_does_not_tell_are_refused(finished, tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        read_run(tmp_path)
    finished(compare, "r3", "r4")
    database = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    with database:
        database.execute("UPDATE meta SET value = replace(value, '\"request\"', '\"other\"') WHERE key = 'settings'")
    database.close()
    with pytest.raises(UsageError, match="does not tell how it was asked for"):
        read_run(tmp_path / "run")
    database = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    with database:
        database.execute("UPDATE meta SET value = '{}' WHERE key = 'settings'")
    database.close()
    with pytest.raises(PerfguardError, match="settings of the run"):
        read_run(tmp_path / "run")
