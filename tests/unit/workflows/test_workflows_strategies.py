"""Strategies measured side by side over a simulated server: blocks, intervals within them, advice, resume, replay."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from made_trials import make_samples, make_trial

sys.path.insert(0, str(Path(__file__).parent))

from test_workflows_bisect import FakeRepository, World, lab  # noqa: F401 - the simulated server and its fixture
from test_workflows_replay import NoServers

from perfguard.model.errors import UsageError
from perfguard.model.gil_trial import RoleGil
from perfguard.model.progress import Silent
from perfguard.model.scenario import Strategy
from perfguard.model.strategies import GIL_WAIT, PICKLE, WORKING_CPU, ArmMeaning, ChangeKind
from perfguard.model.trial import Untestable
from perfguard.workflows import compare as compare_module
from perfguard.workflows import measure as measure_module
from perfguard.workflows import session as session_module
from perfguard.workflows.measure import measure
from perfguard.workflows.replay import keep_result, read_result, read_run, replay
from perfguard.workflows.scenarios import load_scenario

ALL = tuple(Strategy)
MAIN = "<module> (server/main.py:10);event_loop (server/scheduler.py:50)"
WORK = f"{MAIN};work (server/scheduler.py:70)"
PICKLED = f"{MAIN};share_inputs (server/scheduler.py:3)"
SOURCE = "import pickle\ndef share_inputs(value):\n    return pickle.dumps(value)\n"


class ArmWorld(World):
    """A server that a strategy makes faster by exp(`gain`), in blocks that drift by far more than the noise."""

    def __init__(self, gains=None, *, noise=0.01, drift=0.3, broken=(), flaky=()):
        super().__init__(99, noise=noise)
        self.gains, self.drift, self.broken, self.flaky = gains or {}, drift, broken, flaky

    def run(self, bench, revision, start, *, number, block, strategy, profile):
        if self.die_after is not None and len(self.ran) >= self.die_after:
            raise KeyboardInterrupt
        self.ran.append((number, block, strategy, profile))
        noise = self.noise * np.random.default_rng((7, number)).standard_normal()
        drift = self.drift * np.random.default_rng((9, block)).standard_normal()
        gain = self.gains.get(strategy, 0.0)
        pickled = 0 if strategy is Strategy.LOCAL else 40 + number % 3
        text = f"{WORK} {100 + number % 5}\n" + (f"{PICKLED} {pickled}\n" if pickled else "")
        key = bench.store.put_artifact(text.encode())
        roles = (("rank-0", key), ("rank-1", key)) if profile else ()
        samples = make_samples(140.0 * math.exp(gain + drift + noise), roles, cpu_s=5.0 * (100 + pickled) / 140)
        gil = [
            RoleGil(
                role=role, thread="MainThread", looks=100, running_frac=0.5, hold_frac=0.4,
                wait_frac=wait + 0.01 * (number % 2), waiting_threads=1.0, held_frac=0.4,
            )
            for role, wait in (("rank-0", 0.0), ("tokenizer", 0.2), ("detokenizer", 0.5))
        ]  # fmt: skip
        trial = make_trial(number, block, revision.commit, dataclasses.replace(samples, gil=tuple(gil)), start=start)
        if strategy in self.broken or (strategy in self.flaky and block == 2):
            trial = dataclasses.replace(trial, outcome=Untestable(reason="the code is not recognised", log=""))
        trial = dataclasses.replace(trial, strategy=strategy.value)
        bench.store.add_trial(trial)
        return trial


@pytest.fixture
def table_of(lab, monkeypatch, tmp_path):  # noqa: F811 - the fixture
    """Measure strategies of one revision in blocks; gives the result."""
    (tmp_path / "tree" / "server").mkdir()
    (tmp_path / "tree" / "server" / "scheduler.py").write_text(SOURCE)

    def run(world, *, blocks=5, strategies=ALL, refs=("r0",), scenario=None, **arguments):
        def workflow(request, refs, blocks, strategies, progress):
            changed = dataclasses.replace(request, scenario=scenario or request.scenario)
            return measure(changed, refs, blocks, progress, strategies)

        monkeypatch.setattr(measure_module, "open_named", lambda *_: FakeRepository(3, tmp_path / "tree"))
        # The laboratory makes the bench of its own workflows.
        monkeypatch.setattr(measure_module, "open_bench", compare_module.open_bench)
        return lab(workflow, world, refs, blocks, strategies, **arguments)

    return run


def lines(arm):
    return {(line.metric, line.role): line for line in arm.metrics}


def by_strategy(result):
    return {arm.strategy: arm for arm in result.strategies[0].arms}


def test_a_block_holds_every_arm_once_in_an_order_of_its_own(table_of):
    world = ArmWorld()
    result = table_of(world)
    blocks = [list(group) for _, group in itertools.groupby(result.trials, key=lambda trial: trial.block)]
    assert [sorted(trial.strategy for trial in block) for block in blocks] == [sorted(s.value for s in ALL)] * 5
    assert len({tuple(trial.strategy for trial in block) for block in blocks}) > 1
    assert len({trial.start for trial in result.trials}) == len(result.trials)
    other = table_of(ArmWorld(), folder="other", seed=1)
    assert [trial.strategy for trial in other.trials] != [trial.strategy for trial in result.trials]


def test_changes_are_paired_within_blocks_so_that_drift_cancels(table_of):
    arms = by_strategy(table_of(ArmWorld({Strategy.LOCAL: 0.18, Strategy.BROADCAST: -0.2})))
    throughput = {name: lines(arm)["throughput_rps", ""] for name, arm in arms.items()}
    local = throughput[Strategy.LOCAL].change
    assert (local.kind, local.blocks, local.meaning) == (ChangeKind.RATIO, 5, ArmMeaning.BETTER)
    assert local.low < math.exp(0.18) < local.high
    assert local.high / local.low < 1.08  # a drift of 30% between blocks is not in it
    assert throughput[Strategy.BROADCAST].change.meaning is ArmMeaning.WORSE
    assert throughput[Strategy.AS_COMMITTED].change is None
    # Latencies fall where throughput rises.
    assert lines(arms[Strategy.LOCAL])["e2e_p99_ms", ""].change.meaning is ArmMeaning.BETTER


def test_the_evidence_stands_beside_it(table_of):
    arms = by_strategy(table_of(ArmWorld()))
    keys = list(lines(arms[Strategy.AS_COMMITTED]))
    assert keys == [
        ("throughput_rps", ""), ("e2e_p50_ms", ""), ("e2e_p99_ms", ""), ("ttft_p50_ms", ""),
        (WORKING_CPU, ""), (WORKING_CPU, "rank-0"), (WORKING_CPU, "rank-1"), (PICKLE, ""), (GIL_WAIT, "tokenizer"),
    ]  # fmt: skip
    plain, local = lines(arms[Strategy.AS_COMMITTED]), lines(arms[Strategy.LOCAL])
    # 2000 requests, 5 s x 140 / 140 of CPU a rank: 2.5 ms; a share of about 41 in 143 samples pickles, on both ranks.
    assert plain[WORKING_CPU, "rank-0"].mean == pytest.approx(2.5, rel=0.03)
    assert plain[WORKING_CPU, ""].mean == pytest.approx(5.0, rel=0.03)
    assert plain[PICKLE, ""].mean > 1.0
    assert local[PICKLE, ""].mean == 0.0
    change = local[PICKLE, ""].change
    assert (change.kind, change.meaning) == (ChangeKind.DIFFERENCE, ArmMeaning.BETTER)
    assert change.low < -plain[PICKLE, ""].mean < change.high
    assert plain[GIL_WAIT, "tokenizer"].mean == pytest.approx(0.2, abs=0.011)
    assert local[GIL_WAIT, "tokenizer"].change.meaning is ArmMeaning.NOISE


def test_the_best_is_advised_with_those_that_cannot_be_told_from_it(table_of):
    gains = {Strategy.LOCAL: 0.18, Strategy.SHARED_MEMORY: 0.18, Strategy.CONDITIONAL: 0.06, Strategy.BROADCAST: -0.1}
    advice = table_of(ArmWorld(gains)).strategies[0].advice
    first, second = sorted(("local", "shared-memory"), key=advice.index)
    assert advice.startswith(f"Today run {first} under mm-small-images: throughput +")
    assert advice.endswith(f"; {second} cannot be told from it.")


def test_it_says_to_stay_where_nothing_is_better(table_of):
    gains = {Strategy.BROADCAST: -0.2, Strategy.CONDITIONAL: -0.2}
    advice = table_of(ArmWorld(gains, noise=0.003)).strategies[0].advice
    assert advice.startswith(
        "Today stay with as-committed under mm-small-images: no strategy gives 5% or more (the nea"
    )
    assert advice.endswith("; broadcast and conditional are surely worse.")


def test_what_cannot_be_told_apart_is_not_called_equal(table_of):
    advice = table_of(ArmWorld({Strategy.SHARED_MEMORY: 0.1}, noise=0.1), blocks=2).strategies[0].advice
    assert advice.startswith("Nothing can be advised yet: more blocks would tell (the nearest is ")


def test_equal_strategies_are_seldom_advised(table_of):
    advised = sum(
        "Today run"
        in table_of(ArmWorld(noise=0.01 + 0.001 * turn), folder=f"run{turn}", seed=turn).strategies[0].advice
        for turn in range(5)
    )
    assert advised <= 1  # each has a chance of 2.5%: two of five have odds of 6e-3, and the seeds are fixed


def test_a_strategy_that_the_revision_refuses_has_its_reason_and_is_not_started_for_ever(table_of):
    result = table_of(ArmWorld({Strategy.LOCAL: 0.2}, broken=(Strategy.TENSOR_BROADCAST,), flaky=(Strategy.LOCAL,)))
    arms = by_strategy(result)
    refused = arms[Strategy.TENSOR_BROADCAST]
    assert (refused.trials, refused.untestable, refused.metrics) == (2, 2, ())
    assert refused.untestable_reason == "the code is not recognised"
    local = arms[Strategy.LOCAL]
    assert (local.trials, local.untestable) == (5, 1)
    assert lines(local)["throughput_rps", ""].change.blocks == 4
    assert "tensor-broadcast" not in result.strategies[0].advice


def test_without_a_baseline_or_a_second_block_nothing_is_advised(table_of):
    broken = table_of(ArmWorld(broken=(Strategy.AS_COMMITTED,)), folder="broken").strategies[0]
    assert broken.advice == "Nothing can be advised: as-committed could not be measured (the code is not recognised)."
    assert lines(broken.arms[1])["throughput_rps", ""].change is None
    (single,) = table_of(ArmWorld({Strategy.LOCAL: 0.2}), blocks=1).strategies
    assert single.advice == "Nothing can be advised: no strategy ran beside as-committed in 2 blocks or more."
    change = lines(single.arms[1])["throughput_rps", ""].change
    assert (change.low, change.blocks, change.meaning) == (None, 1, ArmMeaning.NOISE)


def test_each_revision_has_its_table_and_one_strategy_none(table_of):
    two = table_of(ArmWorld(), blocks=2, strategies=ALL[:2], refs=("r0", "r1"))
    assert [table.revision.label for table in two.strategies] == ["r0", "r1"]
    assert len({trial.block for trial in two.trials}) == 2
    assert table_of(ArmWorld(), strategies=(Strategy.LOCAL,), folder="one").strategies == ()
    with pytest.raises(UsageError, match="named twice"):
        table_of(ArmWorld(), refs=("r0", "r0"), folder="twice")


def test_strategies_have_nothing_to_share_where_requests_carry_no_image(table_of):
    scenario = load_scenario("text-only")
    with pytest.raises(UsageError, match="the requests of text-only carry none"):
        table_of(ArmWorld(), scenario=scenario)


@pytest.mark.parametrize("after", [0, 3, 8])
def test_a_resumed_run_repeats_no_trial(table_of, after):
    straight = table_of(ArmWorld({Strategy.LOCAL: 0.2}), blocks=2, folder="straight")
    world = ArmWorld({Strategy.LOCAL: 0.2})
    world.die_after = after
    with pytest.raises(KeyboardInterrupt):
        table_of(world, blocks=2)
    world.die_after = None
    result = table_of(world, blocks=2, resume=True)
    assert [number for number, *_ in world.ran] == list(range(1, 13))
    assert [(t.block, t.strategy) for t in result.trials] == [(t.block, t.strategy) for t in straight.trials]
    assert result.strategies == straight.strategies


def test_it_is_judged_again_without_a_server(table_of, tmp_path, monkeypatch):
    first = table_of(ArmWorld({Strategy.LOCAL: 0.2}))
    database = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    with database:
        database.execute('UPDATE meta SET value = replace(value, \'"refs":[]\', \'"refs":["r0"]\')')
    database.close()
    monkeypatch.setattr(session_module, "Servers", NoServers)
    again = replay(tmp_path / "run", Silent())
    assert again.strategies == first.strategies
    keep_result(first, tmp_path / "run")
    assert read_result(read_run(tmp_path / "run")).strategies == first.strategies
