"""Servers side by side: parked between trials, stopped where one fails, and none is left."""

from types import SimpleNamespace

import pytest
from made_trials import make_samples

from perfguard.model.errors import UntestableError
from perfguard.model.progress import Silent
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Untestable
from perfguard.workflows import servers as module
from perfguard.workflows.servers import Servers

FAST, SLOW = (
    Revision(commit=name * 40, label=name, subject="", author="", committed_at="2026-01-01") for name in ("a", "b")
)


class Launched:
    """A server of the laboratory; `events` tells what was done to which, in order."""

    def __init__(self, lab, source_tree, **given):
        self.lab, self.name, self.given = lab, source_tree, given
        lab.events.append(f"launch {self.name}")

    def wait(self):
        if self.name in self.lab.dead:
            raise UntestableError("no module named x", log_tail="Traceback")
        return self

    def park(self):
        self.lab.events.append(f"park {self.name}")

    def unpark(self):
        self.lab.events.append(f"unpark {self.name}")

    def stop(self):
        self.lab.events.append(f"stop {self.name}")


@pytest.fixture
def lab(monkeypatch, tmp_path):
    lab = SimpleNamespace(events=[], dead=set(), failing=set(), firsts=[], trials=[], launched=[])

    def launch(_bench, **given):
        lab.launched.append(Launched(lab, **given))
        return lab.launched[-1]

    def run_trial(_bench, server, _work_dir, *, first, profile):
        lab.firsts.append((server.name, first, profile))
        if server.name in lab.failing:
            raise UntestableError("3 of 9 requests failed")
        return make_samples(100.0)

    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(module, "run_trial", run_trial)
    lab.bench = SimpleNamespace(
        store=SimpleNamespace(run_dir=tmp_path, add_trial=lab.trials.append),
        repository=SimpleNamespace(worktree=lambda revision: revision.label),
        environment=SimpleNamespace(python="python"),
        scenario=SimpleNamespace(target=None),
        progress=Silent(),
        model_path=None,
        port=28000,
    )
    return lab


def run(servers, revision, number):
    return servers.run(revision, number=number, block=1, profile=False)


def test_servers_start_together_and_only_the_measured_one_runs(lab, tmp_path):
    servers = Servers(lab.bench)
    servers.restart((FAST, SLOW), first_start=5, strategy=Strategy.LOCAL)
    trials = [run(servers, FAST, 1), run(servers, SLOW, 2), run(servers, FAST, 3)]
    servers.close()
    assert lab.events[:4] == ["launch a", "launch b", "park a", "park b"]
    assert lab.events[4:10] == ["unpark a", "park a", "unpark b", "park b", "unpark a", "park a"]
    assert sorted(lab.events[10:]) == ["stop a", "stop b"]
    assert lab.firsts == [("a", True, False), ("b", True, False), ("a", False, False)]
    assert [trial.start for trial in trials] == [5, 6, 5]
    assert {trial.strategy for trial in trials} == {"local"}
    assert [server.given["port"] for server in lab.launched] == [28000, 28001]
    assert lab.trials == trials
    assert list((tmp_path / "work").iterdir()) == []


def test_a_server_that_does_not_start_is_stopped_before_the_other_is_measured(lab):
    lab.dead = {"b"}
    servers = Servers(lab.bench)
    servers.restart((FAST, SLOW), first_start=1, strategy=Strategy.AS_COMMITTED)
    assert lab.events[-1] == "stop b"
    assert not isinstance(run(servers, FAST, 1).outcome, Untestable)
    assert run(servers, SLOW, 2).outcome == Untestable(reason="no module named x", log="Traceback")
    servers.close()


def test_a_server_that_fails_under_load_is_stopped_and_not_asked_again(lab):
    lab.failing = {"a"}
    servers = Servers(lab.bench)
    servers.restart((FAST, SLOW), first_start=1, strategy=Strategy.AS_COMMITTED)
    assert isinstance(run(servers, FAST, 1).outcome, Untestable)
    assert lab.events[-1] == "stop a"
    assert not isinstance(run(servers, SLOW, 2).outcome, Untestable)
    assert isinstance(run(servers, FAST, 3).outcome, Untestable)
    assert [name for name, *_ in lab.firsts] == ["a", "b"]
    servers.close()


def test_what_the_start_cost_is_paid_once(lab):
    servers = Servers(lab.bench)
    servers.restart((FAST,), first_start=1, strategy=Strategy.AS_COMMITTED)
    servers._stalls[FAST.commit].unpaid_wall_s = 30.0
    first, second = run(servers, FAST, 1), run(servers, FAST, 2)
    servers.close()
    assert first.wall_s >= 30.0
    assert second.wall_s < 1.0
