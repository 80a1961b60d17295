"""The GIL sampler beside programs whose threads measure themselves in the same time, on every interpreter there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perfguard.evidence.gil import thread_shares
from perfguard.model.threads import GilAnswer
from perfguard.samplers.gil import GilSampler

# Each thread runs `body` over and over, and tells its tid and the seconds meanwhile: (wall, CPU, run delay).
PROGRAM = """
import hashlib, json, socket, sys, threading, time
go, stop, done = threading.Event(), threading.Event(), {{}}
def counters():
    with open("/proc/thread-self/schedstat") as file:
        ran, delayed, _ = file.read().split()
    return time.perf_counter(), int(ran) / 1e9, int(delayed) / 1e9
def spin():
    for _ in range(1000): pass
def worker(name, body):
    go.wait()
    before = counters()
    while not stop.is_set(): body()
    done[name] = [threading.get_native_id(), [b - a for a, b in zip(before, counters())]]
def run(**bodies):
    threads = [threading.Thread(target=worker, args=item) for item in bodies.items()]
    for thread in threads: thread.start()
    go.set()
    print("up", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads: thread.join()
    print(json.dumps(done), flush=True)
{main}
"""


def interpreters():
    """Name every CPython 3.10 to 3.15 on this machine; PERFGUARD_TEST_PYTHONS adds more, separated by colons."""
    named = [sys.executable, *os.environ.get("PERFGUARD_TEST_PYTHONS", "").split(":")]
    named += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.1*/bin/python"))]
    named += [shutil.which(f"python3.{minor}", path="/usr/bin:/usr/local/bin") or "" for minor in range(10, 16)]
    found = {}
    for path in filter(None, named):
        code = "import sys; print(sys.version_info[:2] >= (3, 10), sys.version.split()[0], sys.base_prefix)"
        try:
            said = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        if said.startswith("True"):
            found.setdefault(said, path)
    return list(found.values())


INTERPRETERS = interpreters()


def watch(main, *, seconds=2.0, python=sys.executable):
    """Run the program, and return ({thread's name: share}, {thread's name: (CPU, delay) as shares of its time})."""
    child = subprocess.Popen(
        [python, "-c", PROGRAM.format(main=main)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "up\n"
        with GilSampler([(child.pid, "truth")], rate_hz=250) as sampler:
            sampler.start()
            time.sleep(seconds)
            process = sampler.stop().processes[0]
        said, _ = child.communicate("\n", timeout=60)
    finally:
        child.kill()
        child.communicate()
    assert process.gil is GilAnswer.WATCHED, process.gil_reason
    assert process.unknown_holder_ticks <= 0.02 * process.gil_held_ticks + 2
    shares = {share.tid: share for share in thread_shares(process)}
    told = json.loads(said)
    truth = {name: (cpu / wall, delay / wall) for name, (_, (wall, cpu, delay)) in told.items()}
    named = {name: shares[tid] for name, (tid, _) in told.items()}
    return {**named, "main": shares[child.pid]}, truth


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_spinning_threads_wait_as_long_as_they_say(count):
    check_spinning(sys.executable, count)


@pytest.mark.parametrize("python", INTERPRETERS, ids=[path.replace("/", "_") for path in INTERPRETERS])
def test_spinning_threads_wait_on_every_interpreter(python):
    check_spinning(python, 4)


def check_spinning(python, count):
    shares, truth = watch(f"run(**{{'spin%d' % i: spin for i in range({count})}})", python=python)
    spinners = [shares[name] for name in truth]
    # What a pure Python spinner neither ran nor was ready for, it waited for the GIL. The mean over the threads is
    # compared: a single one's share differs between its own window and ours, which are not quite the same.
    true_wait = mean(1.0 - cpu - delay for cpu, delay in truth.values())
    assert mean(share.gil_wait_frac for share in spinners) == pytest.approx(true_wait, abs=0.08)
    # They do nothing else, so no blocked time is left over; and one of them always has the GIL.
    assert mean(share.off_cpu_frac for share in spinners) < 0.03
    assert sum(share.gil_hold_frac for share in spinners) == pytest.approx(1.0, abs=0.1)
    assert shares["main"].gil_wait_frac < 0.02
    if count == 1:
        assert spinners[0].gil_wait_frac < 0.03
        assert spinners[0].gil_hold_frac > 0.9
    else:
        assert min(share.gil_wait_frac for share in spinners) > 0.02


@pytest.mark.parametrize("python", INTERPRETERS, ids=[path.replace("/", "_") for path in INTERPRETERS])
def test_idle_threads_never_wait_for_the_gil(python):
    # Each wakes every ten seconds: what they wait for are locks, sleeps and sockets.
    main = """
left, right = socket.socketpair()
lock = threading.Lock(); lock.acquire()
for target, arguments in ((lock.acquire, ()), (right.recv, (1,)), (time.sleep, (60,)), (threading.Event().wait, (60,))):
    threading.Thread(target=target, args=arguments, daemon=True).start()
time.sleep(0.3)
run()
import os; os._exit(0)
"""
    child_shares = watch_all(main, python=python)
    assert len(child_shares) == 5
    for share in child_shares:
        assert share.gil_wait_frac == 0.0
        assert share.gil_hold_frac == 0.0
        assert share.off_cpu_frac > 0.97


def watch_all(main, *, python):
    child = subprocess.Popen(
        [python, "-c", PROGRAM.format(main=main)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "up\n"
        with GilSampler([(child.pid, "truth")], rate_hz=250) as sampler:
            sampler.start()
            time.sleep(1.0)
            return thread_shares(sampler.stop().processes[0])
    finally:
        child.kill()
        child.communicate()


def test_a_thread_in_join_waits_for_no_gil():
    main = """
def inner():
    thread = threading.Thread(target=time.sleep, args=(30,), daemon=True)
    thread.start()
    thread.join(0.5)
run(joiner=inner, spinner=spin)
"""
    shares, _ = watch(main)
    # It wakes twice a second and then waits for the spinner once or twice: 5 ms each, and a core.
    assert shares["joiner"].gil_wait_frac < 0.15
    assert shares["joiner"].off_cpu_frac > 0.6
    assert shares["spinner"].gil_hold_frac > 0.7


def test_hashing_that_releases_the_gil_neither_holds_it_nor_waits_much():
    main = """
block = bytes(64 << 20)
run(hasher=lambda: hashlib.sha256(block).digest(), spinner=spin)
"""
    shares, _ = watch(main)
    hasher = shares["hasher"]
    assert hasher.gil_hold_frac < 0.25
    assert hasher.gil_wait_frac < 0.25
    assert hasher.running_frac + hasher.run_delay_frac > 0.5
    assert shares["spinner"].gil_hold_frac > 0.6


def test_an_event_loop_with_a_blocking_call_holds_the_gil_and_starves_its_executor():
    main = """
import asyncio
async def blocked():
    while not stop.is_set():
        end = time.thread_time() + 0.05
        while time.thread_time() < end: pass
        await asyncio.sleep(0)
run(loop=lambda: asyncio.run(blocked()), helper=lambda: (spin(), time.sleep(0.001)))
"""
    shares, _ = watch(main)
    assert shares["loop"].gil_hold_frac > 0.5
    # The helper needs the GIL a thousand times a second and gets it when the loop's thread is made to give it.
    assert shares["helper"].gil_wait_frac > 0.2


def test_a_busy_poller_runs_and_waits_for_nothing():
    main = """
import select
poll = select.poll()
left, right = socket.socketpair()
poll.register(right.fileno(), select.POLLIN)
run(poller=lambda: poll.poll(0))
"""
    shares, _ = watch(main)
    assert shares["poller"].gil_wait_frac < 0.03
    assert shares["poller"].running_frac + shares["poller"].run_delay_frac > 0.95


HAS_SUB_INTERPRETERS = [
    path
    for path in INTERPRETERS
    if subprocess.run([path, "-c", "import _interpreters"], capture_output=True, check=False).returncode == 0
]


@pytest.mark.skipif(not HAS_SUB_INTERPRETERS, reason="no CPython 3.13 or later here")
def test_threads_of_a_sub_interpreter_with_its_own_gil_are_not_given_a_number():
    main = """
import _interpreters, os
other = _interpreters.create()
threading.Thread(target=_interpreters.run_string, args=(other, "while True: pass"), daemon=True).start()
threading.Thread(target=lambda: [spin() for _ in iter(int, 1)], daemon=True).start()
time.sleep(0.3)
run()
os._exit(0)
"""
    shares = watch_all(main, python=HAS_SUB_INTERPRETERS[-1])
    foreign = [share for share in shares if share.gil_wait_frac is None]
    assert len(foreign) == 1
    assert "a GIL of its own" in foreign[0].gil_unknown
    assert foreign[0].gil_hold_frac is None
    assert max(share.gil_hold_frac for share in shares if share not in foreign) > 0.9
