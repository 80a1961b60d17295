"""A search driven through the store and killed with SIGKILL at random moments answers as if nothing had happened."""

import dataclasses
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest

from perfguard.model.trial import Completed, Untestable
from perfguard.search import Duel, DuelConfig, DuelVerdict, Outcome, Question, Search, SearchConfig, Side
from perfguard.store.runs import RunStore

REVISIONS, CULPRIT, BROKEN = 48, 31, frozenset({20, 21})


def measure(sample, number, index):
    """Return the trial that the machine gives at this place; killed and repeated, it is the same one."""
    trial = dataclasses.replace(sample, number=number, block=0, revision=str(index))
    if index in BROKEN:
        return dataclasses.replace(trial, outcome=Untestable(reason="does not start", log=""))
    rng = np.random.default_rng((11, number))
    throughput = 140.0 * np.exp(-0.06 * (index >= CULPRIT) + 0.03 * rng.standard_t(4) / np.sqrt(2))
    load = dataclasses.replace(sample.outcome.samples.load, throughput_rps=float(throughput))
    return dataclasses.replace(trial, outcome=Completed(samples=dataclasses.replace(sample.outcome.samples, load=load)))


def drive(run_dir, sample):
    """Go on with the run in `run_dir` from whatever the store holds, to its end."""
    fresh = not (run_dir / "run.sqlite").exists()
    with RunStore.create(run_dir, {}) if fresh else RunStore.open(run_dir) as store:
        kept = store.trials()
        search, number = Search(REVISIONS, SearchConfig(), seed=3), 0
        while (block := search.next_block()) is not None:
            for index in block:
                number += 1
                if number <= len(kept):
                    trial = kept[number - 1]
                    assert trial.revision == str(index)
                else:
                    trial = measure(sample, number, index)
                    store.add_trial(trial)
                outcome = trial.outcome
                done = isinstance(outcome, Completed)
                search.record(index, -np.log(outcome.samples.load.throughput_rps) if done else Outcome.UNTESTABLE)
        return search.result(), search.to_json()


def fight(run_dir, sample):
    """Go on with the duel in `run_dir` from whatever the store holds, to its end; start 1 is the baseline's first."""
    fresh = not (run_dir / "run.sqlite").exists()
    with RunStore.create(run_dir, {}) if fresh else RunStore.open(run_dir) as store:
        kept = store.trials()
        config = DuelConfig(question=Question.WORSE, confidence=0.95, min_effect=0.05)
        duel, number, pairs, asked = Duel(config, seed=3), 0, 0, []
        while (round_ := duel.next_round()) is not None:
            pairs += round_.fresh
            for side in round_.order:
                number += 1
                asked.append((round_.fresh, side))
                index = CULPRIT if side is Side.CANDIDATE else 0
                if number <= len(kept):
                    trial = kept[number - 1]
                    assert trial.revision == str(index)
                else:
                    start = 2 * pairs + (side is Side.CANDIDATE)
                    trial = dataclasses.replace(measure(sample, number, index), start=start)
                    store.add_trial(trial)
                duel.record(side, trial.start, -np.log(trial.outcome.samples.load.throughput_rps))
        return duel.result(), asked


def timed(run, tmp_path, sample):
    """Return what an undisturbed run gives, and its seconds: the shorter of two, the first one fills the caches."""
    seconds = []
    for name in ("first", "straight"):
        started = time.monotonic()
        whole = run(tmp_path / name, sample)
        seconds.append(time.monotonic() - started)
    return whole, min(seconds)


def kill_after(run, run_dir, sample, delay_s):
    """Start `run` in a process of its own, and kill it; return whether it was still going."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(run_dir, sample))
    process.start()
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_kill_9_at_twenty_random_moments_changes_nothing(tmp_path, completed_trial):
    (expected, saved), whole_s = timed(drive, tmp_path, completed_trial)
    assert expected.culprit == CULPRIT
    moments, interrupted, partial = random.Random(20), 0, 0
    for moment in range(20):
        run_dir = tmp_path / f"killed-{moment}"
        interrupted += kill_after(drive, run_dir, completed_trial, moments.uniform(0.0, whole_s))
        if (run_dir / "run.sqlite").exists():
            with RunStore.open(run_dir) as store:
                partial += 0 < len(store.trials()) < expected.trials
        result, text = drive(run_dir, completed_trial)
        assert text == saved
        assert np.array_equal(result.posterior, expected.posterior)
        assert (result.verdict, result.culprit, result.trials) == ("culprit", CULPRIT, expected.trials)
        assert (result.effect, result.effect_low, result.effect_high) == (
            expected.effect,
            expected.effect_low,
            expected.effect_high,
        )
    # The kills did hit runs in progress, and some of them between two trials that were kept.
    assert interrupted >= 5
    assert partial >= 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_kill_9_at_twenty_random_moments_of_a_duel_changes_nothing(tmp_path, completed_trial):
    (expected, asked), whole_s = timed(fight, tmp_path, completed_trial)
    assert expected.verdict is not DuelVerdict.UNKNOWN
    moments, interrupted = random.Random(21), 0
    for moment in range(20):
        run_dir = tmp_path / f"killed-{moment}"
        interrupted += kill_after(fight, run_dir, completed_trial, moments.uniform(0.0, whole_s))
        result, asked_again = fight(run_dir, completed_trial)
        assert asked_again == asked
        assert (result.verdict, result.probability, result.rounds, result.starts) == (
            expected.verdict,
            expected.probability,
            expected.rounds,
            expected.starts,
        )
        assert np.array_equal(result.posterior.density, expected.posterior.density)
    assert interrupted >= 5
