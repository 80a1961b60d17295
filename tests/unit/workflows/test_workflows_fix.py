"""Ways out after a bisect, over a simulated server: what gives it back, and what that leaves as it was."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import itertools
import math
import sqlite3
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from made_trials import make_samples, make_trial

sys.path.insert(0, str(Path(__file__).parent))

from test_workflows_bisect import FakeRepository, World, lab  # noqa: F401 - the simulated server and its fixture
from test_workflows_replay import NoServers, Told

from perfguard.model.errors import PerfguardError
from perfguard.model.fix import FixMode, FixVerdict, RevertConflict
from perfguard.model.progress import Silent
from perfguard.model.result import Direction
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy, UserMetric
from perfguard.model.trial import Untestable
from perfguard.revisions.reverts import Revert
from perfguard.stats.starts import differences_of
from perfguard.workflows import session as session_module
from perfguard.workflows.bisect import bisect
from perfguard.workflows.fix import PATCH, ROUNDS, STRATEGIES
from perfguard.workflows.metrics import log_worse, paired_values
from perfguard.workflows.replay import KEPT, keep_result, read_result, read_run, replay

REVERTED = 9999
PATCH_BYTES = b"diff --git a/x b/x\n"


class FixWorld(World):
    """A world in which the reverted tree is fast if `revert` is True, and BAD with one of `fast` strategies is too."""

    def __init__(self, culprit=4, *, revert=True, fast=(), broken=(), **arguments):
        super().__init__(culprit, noise=0.01, **arguments)
        self.revert, self.fast, self.broken = revert, fast, broken

    def run(self, bench, revision, start, *, number, block, strategy, profile):
        index = int(revision.commit)
        if strategy is Strategy.AS_COMMITTED and index != REVERTED:
            return super().run(bench, revision, start, number=number, block=block, strategy=strategy, profile=profile)
        assert not profile
        if self.die_after is not None and len(self.ran) >= self.die_after:
            raise KeyboardInterrupt
        self.ran.append((number, index))
        is_fast = self.revert if index == REVERTED else strategy in self.fast
        noise = self.noise * np.random.default_rng((7, number)).standard_normal()
        samples = make_samples(140.0 * math.exp(-self.effect * (not is_fast) + noise))
        trial = make_trial(number, block, revision.commit, samples, start=start)
        if strategy in self.broken:
            trial = dataclasses.replace(trial, outcome=Untestable(reason="the code is not known", log=""))
        trial = dataclasses.replace(trial, strategy=strategy.value)
        bench.store.add_trial(trial)
        return trial


def clean_revert(_repository, culprit, *, on):
    label = f"{on.label} without {culprit.label}"
    revision = Revision(commit=f"{REVERTED:040d}", label=label, subject="Revert", author="A", committed_at="2026-01-01")
    return Revert(commit=revision.commit, patch=PATCH_BYTES), revision


def conflicting_revert(_repository, culprit, *, on):
    conflict = RevertConflict(path="a.py", reason="the same lines were changed since", functions=("share",))
    return Revert(conflicts=(conflict,)), None


@pytest.fixture
def fixing(lab, monkeypatch):  # noqa: F811 - the fixture
    """Run a bisect with a mode of fixing; `revert` is what the repository answers."""

    def run(
        world,
        mode=FixMode.REVERT,
        *,
        revert=clean_revert,
        direction=Direction.REGRESSION,
        fix_rounds=None,
        **arguments,
    ):
        monkeypatch.setattr(FakeRepository, "revert", revert, raising=False)
        return lab(
            functools.partial(bisect, fix=mode, fix_rounds=fix_rounds), world, "r0", "r11", direction, **arguments
        )

    return run


def test_a_revert_that_restores_is_said_with_its_interval(fixing, tmp_path):
    result = fixing(FixWorld())
    good, bad, reverted = result.fix.arms
    assert (good.label, bad.label, reverted.label) == ("r0", "r11", "r11 without r4")
    assert reverted.verdict is FixVerdict.RESTORES
    assert reverted.recovery.low < 1.0 < reverted.recovery.high
    assert reverted.recovery.rounds == ROUNDS[FixMode.REVERT]
    assert result.fix.sentence.startswith("Reverting r4 on r11 gives back ")
    assert "of the lost throughput (95% interval " in result.fix.sentence
    assert (tmp_path / "run" / PATCH).read_bytes() == PATCH_BYTES


def test_a_round_is_one_block_of_servers_of_their_own_and_the_verdict_stays(fixing):
    plain = fixing(FixWorld(), FixMode.NONE, folder="plain")
    world = FixWorld()
    result = fixing(world)
    assert plain.fix is None
    for name in ("verdict", "sentence", "culprit", "effects", "findings", "grown_frames", "revisions", "posterior"):
        assert getattr(result, name) == getattr(plain, name), name
    assert result.search_trials == plain.trials
    fix_trials = result.trials[len(plain.trials) :]
    assert result.fix.first_trial == fix_trials[0].number
    blocks = [list(group) for _, group in itertools.groupby(fix_trials, key=lambda trial: trial.block)]
    assert [len({trial.revision for trial in block}) for block in blocks] == [3] * ROUNDS[FixMode.REVERT]
    assert len({trial.start for trial in fix_trials}) == len(fix_trials)
    assert not {trial.start for trial in fix_trials} & {trial.start for trial in plain.trials}
    # One server at a time.
    assert [len(started) for started in world.started[-len(fix_trials) :]] == [1] * len(fix_trials)
    assert len({tuple(trial.revision for trial in block) for block in blocks}) > 1


def test_a_revert_that_changes_nothing_is_no_fix(fixing):
    result = fixing(FixWorld(revert=False))
    assert result.fix.arms[2].verdict is FixVerdict.DOES_NOT_HELP
    assert result.fix.sentence.endswith("Nothing measured gives it back.")


def test_strategies_are_told_apart_and_a_broken_one_is_not_started_for_ever(fixing):
    world = FixWorld(fast=(Strategy.LOCAL,), broken=(Strategy.SHARED_MEMORY,))
    result = fixing(world, FixMode.ALL, revert=conflicting_revert)
    arms = {arm.strategy: arm for arm in result.fix.arms[2:]}
    assert tuple(arms) == STRATEGIES
    assert arms[Strategy.LOCAL].verdict is FixVerdict.RESTORES
    assert arms[Strategy.TENSOR_BROADCAST].verdict is FixVerdict.DOES_NOT_HELP
    broken = arms[Strategy.SHARED_MEMORY]
    assert (broken.verdict, broken.trials, broken.mean) == (FixVerdict.CANNOT_TELL, 2, None)
    assert broken.untestable_reason == "the code is not known"
    assert result.fix.sentence.startswith(
        "Reverting r4 on r11 conflicts in a.py (the same lines were changed since: share). "
        "The strategy local on r11 gives back "
    )


def test_as_many_rounds_as_asked_for_are_measured_and_judged_again(fixing, tmp_path, monkeypatch):
    for folder, rounds in (("two", 2), ("three", 3)):
        first = fixing(FixWorld(), folder=folder, fix_rounds=rounds)
        assert first.fix.arms[2].recovery.rounds == rounds
        database = sqlite3.connect(tmp_path / folder / "run.sqlite")
        with database:
            database.execute('UPDATE meta SET value = replace(value, \'"refs":[]\', \'"refs":["r0","r11"]\')')
        database.close()
        with monkeypatch.context() as patched:
            patched.setattr(session_module, "Servers", NoServers)
            assert replay(tmp_path / folder, Silent()).fix == first.fix


def test_a_conflict_alone_measures_nothing(fixing, tmp_path):
    result = fixing(FixWorld(), revert=conflicting_revert)
    assert (result.fix.arms, result.fix.first_trial, result.fix.patch) == ((), None, "")
    assert result.fix.sentence.endswith("share). Nothing was measured.")
    assert result.search_trials == result.trials
    assert not (tmp_path / "run" / PATCH).exists()


def test_a_revert_that_cannot_be_made_does_not_cost_the_verdict(fixing):
    def failing(_repository, _culprit, *, on):
        raise PerfguardError(f"the disk is full at {on.label}")

    result = fixing(FixWorld(), revert=failing)
    assert result.culprit.revision.label == "r4"
    assert result.fix.notes == ("The revert of r4 could not be made: the disk is full at r11.",)


def test_nothing_is_tried_without_a_culprit_or_for_an_improvement(fixing):
    none = fixing(FixWorld(99, effect=0.0))
    assert none.fix.sentence == "Nothing was tried to give it back: there is no culprit."
    better = fixing(FixWorld(effect=-0.2), direction=Direction.IMPROVEMENT, folder="better")
    assert better.fix.sentence == "Nothing was tried to give it back: an improvement needs no fix."
    assert none.fix.arms == better.fix.arms == ()


@pytest.mark.parametrize("into", [0, 4])
def test_a_resumed_run_repeats_no_trial(fixing, into):
    straight = fixing(FixWorld(), folder="straight")
    world = FixWorld()
    world.die_after = straight.fix.first_trial - 1 + into
    with pytest.raises(KeyboardInterrupt):
        fixing(world)
    world.die_after = None
    result = fixing(world, resume=True)
    numbers = [number for number, _ in world.ran]
    assert numbers == list(range(1, len(straight.trials) + 1))
    order = [(trial.block, trial.revision) for trial in result.trials]
    assert order == [(trial.block, trial.revision) for trial in straight.trials]
    assert result.fix.arms[2].verdict is FixVerdict.RESTORES


def test_it_is_judged_again_without_a_server(fixing, tmp_path, monkeypatch):
    first = fixing(FixWorld(fast=(Strategy.LOCAL,)), FixMode.ALL)
    database = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    with database:
        database.execute('UPDATE meta SET value = replace(value, \'"refs":[]\', \'"refs":["r0","r11"]\')')
    database.close()
    monkeypatch.setattr(session_module, "Servers", NoServers)
    (tmp_path / "run" / PATCH).unlink()
    again = replay(tmp_path / "run", Silent())
    assert (again.fix, again.trials, again.effects) == (first.fix, first.trials, first.effects)
    assert not (tmp_path / "run" / PATCH).exists()
    keep_result(first, tmp_path / "run")
    assert read_result(read_run(tmp_path / "run")).fix == first.fix


def test_what_was_kept_before_there_were_ways_out_is_still_read(fixing, tmp_path):
    first = fixing(FixWorld(), FixMode.NONE)
    keep_result(first, tmp_path / "run")
    kept = msgspec.json.decode(gzip.decompress((tmp_path / "run" / KEPT).read_bytes()))
    del kept["result"]["fix"]
    (tmp_path / "run" / KEPT).write_bytes(gzip.compress(msgspec.json.encode(kept)))
    assert read_result(read_run(tmp_path / "run")).fix is None


def test_pairs_of_trials_leave_strategies_out():
    trials = [
        make_trial(1, 1, "a", make_samples(100.0)),
        make_trial(2, 1, "b", make_samples(90.0)),
        dataclasses.replace(make_trial(3, 1, "b", make_samples(50.0)), strategy="local"),
    ]
    groups = paired_values(trials, "a", "b", log_worse(UserMetric.THROUGHPUT))
    ((difference,),) = differences_of(groups)
    assert difference == pytest.approx(math.log(100.0 / 90.0))


def test_what_it_will_cost_is_said_before_it_starts(fixing, monkeypatch):
    told = Told()
    monkeypatch.setattr("test_workflows_bisect.Silent", lambda: told)
    fixing(FixWorld())
    (line,) = [line for line in told.lines if line.startswith("what gives it back")]
    assert line.startswith("what gives it back: 3 arms, 5 rounds: 15 trials, each on a server of its own; about ")
    assert line.endswith(" min")
