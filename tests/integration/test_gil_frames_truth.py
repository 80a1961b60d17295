"""Holding and waiting by Python frame beside threads that measure themselves, function by function."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from integration.test_record_truth import INTERPRETERS

from perfguard.evidence.gil_frames import NOBODY, gil_costs, top_frames
from perfguard.evidence.stacks import function_key
from perfguard.model.threads import GilAnswer
from perfguard.samplers.gil import GilSampler

# `timed` adds up, for the function that it calls, the seconds in which its thread did not run and in which it did. What
# pure Python does not run, it waits: for the GIL, or for a core, which every function lacks in proportion to its CPU.
PROGRAM = """
import hashlib, json, sys, threading, time
stop, truth = threading.Event(), {{}}
def timed(function):
    began, ran = time.perf_counter(), time.thread_time()
    function()
    wall, ran = time.perf_counter() - began, time.thread_time() - ran
    spent = truth.setdefault(function.__name__, [0.0, 0.0])
    spent[0] += wall - ran
    spent[1] += ran
def heavy():
    for _ in range(1_500_000): pass
def light():
    for _ in range(500_000): pass
def other():
    for _ in range(1_000_000): pass
def both():
    while not stop.is_set():
        timed(heavy)
        timed(light)
def rival():
    while not stop.is_set():
        timed(other)
{main}
"""


def watch(main, *, seconds, rate_hz=500.0, python=sys.executable):
    """Run the program; gives what its GIL cost, what it says (seconds not run, and run, by function), and the looks."""
    command = [python, "-c", PROGRAM.format(main=main)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "up\n"
        with GilSampler([(child.pid, "truth")], rate_hz=rate_hz, stacks=True) as sampler:
            sampler.start()
            child.stdin.write("\n")
            child.stdin.flush()
            time.sleep(seconds)
            process = sampler.stop().processes[0]
        said, _ = child.communicate("\n", timeout=60)
    finally:
        child.kill()
        child.communicate()
    assert process.gil is GilAnswer.WATCHED, process.gil_reason
    costs = gil_costs(process)
    assert costs.unknown == ""
    return costs, json.loads(said), process


RUN = """
threads = [threading.Thread(target=target) for target in ({targets})]
print("up", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
sys.stdin.readline()
stop.set()
for thread in threads: thread.join()
print(json.dumps(truth), flush=True)
"""


def seconds_in(stacks, function):
    """Seconds of the stacks whose innermost function has this name."""
    return sum(stack.samples for stack in stacks if stack.frames[-1].function == function) / 1e6


@pytest.mark.parametrize("python", INTERPRETERS, ids=[path.replace("/", "_") for path in INTERPRETERS])
def test_waiting_and_holding_go_to_the_functions_that_did(python):
    costs, truth, process = watch(RUN.format(targets="both, rival"), seconds=1.6, python=python)
    waited = {name: idle for name, (idle, _) in truth.items()}
    held = {name: ran for name, (_, ran) in truth.items()}
    # About 400 looks find the thread waiting, and as many holding: 12 points are over five standard errors.
    for stacks, true in ((costs.waiting, waited), (costs.holding, held)):
        heavy, light = seconds_in(stacks, "heavy"), seconds_in(stacks, "light")
        share = true["heavy"] / (true["heavy"] + true["light"])
        assert heavy / (heavy + light) == pytest.approx(share, abs=0.12)
    whole = sum(stack.samples for stack in costs.holding) / 1e6
    assert seconds_in(costs.holding, "other") / whole == pytest.approx(held["other"] / sum(held.values()), abs=0.12)
    # Who waits, and who held meanwhile: one of the two threads has the GIL, and never waits for itself.
    pairs = [([frame.function for frame in stack.frames], stack.samples) for stack in costs.meanwhile]
    by_both = sum(samples for (waiting, _), samples in pairs if waiting in ("heavy", "light"))
    by_other = sum(samples for (waiting, held), samples in pairs if waiting in ("heavy", "light") and held == "other")
    assert by_other > 0.85 * by_both > 0
    gil = process.gil_stacks
    assert gil.unread_hold_ticks + gil.unread_wait_ticks < 0.05 * process.ticks


def test_hashing_that_releases_the_gil_is_not_told_as_holding_it():
    main = """
block = bytes(64 << 20)
def hashes():
    while not stop.is_set():
        hash_block()
def hash_block():
    hashlib.sha256(block).digest()
""" + RUN.format(targets="hashes, rival")
    costs, _, process = watch(main, seconds=1.5, rate_hz=250.0)
    held = sum(stack.samples for stack in costs.holding) / 1e6
    assert seconds_in(costs.holding, "hash_block") < 0.05 * held
    assert seconds_in(costs.holding, "other") > 0.8 * held
    busy = max(thread.cpu_s for thread in process.threads)
    assert busy > 0.3  # it did hash
    (hashing,) = [frame for frame in top_frames(costs, most=5) if frame.frame == "hash_block (<string>)"] or [None]
    if hashing is not None and hashing.held_meanwhile:  # it needs the GIL for a moment after each block
        assert hashing.held_meanwhile[0].frame in {"other (<string>)", NOBODY.function}


def test_idle_threads_cost_the_gil_nothing():
    main = """
lock = threading.Lock(); lock.acquire()
for target, arguments in ((lock.acquire, ()), (time.sleep, (60,)), (threading.Event().wait, (60,))):
    threading.Thread(target=target, args=arguments, daemon=True).start()
print("up", flush=True)
sys.stdin.readline()
sys.stdin.readline()
print("{{}}", flush=True)
import os; os._exit(0)
""".replace("{{}}", "{}")
    costs, _, process = watch(main, seconds=0.8, rate_hz=250.0)
    assert process.ticks > 50
    assert costs.waiting == costs.meanwhile == ()
    assert sum(stack.samples for stack in costs.holding) <= 0.02 * 0.8e6
    assert all(function_key(stack.frames[-1]) for stack in costs.holding)
