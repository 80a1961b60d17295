"""The sampler as a process: what it sees of threads with a known state, and what it does when things end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from perfguard.model.errors import PerfguardError
from perfguard.model.threads import GilAnswer
from perfguard.samplers import gil_ticks
from perfguard.samplers.gil import GilSampler
from perfguard.samplers.threads import read_pressure, read_thread

SLEEPERS = """
import threading, time
event = threading.Event()
for _ in range(3): threading.Thread(target=event.wait, daemon=True).start()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start():
    children = []

    def run(*command):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        children.append(child)
        child.stdout.readline()
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


def watch(pid, seconds, **options):
    with GilSampler([(pid, "target")], **options) as sampler:
        sampler.start()
        time.sleep(seconds)
        return sampler.stop()


def test_sleeping_threads_never_wait_for_the_gil(start):
    child = start(sys.executable, "-c", SLEEPERS)
    time.sleep(0.2)  # the threads fall asleep
    recording = watch(child.pid, 0.5)
    process = recording.processes[0]
    assert process.gil is GilAnswer.WATCHED
    assert process.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert len(process.threads) == 5
    assert recording.ticks > 10
    for thread in process.threads:
        assert thread.ticks >= recording.ticks - 1
        assert thread.blocked_ticks == thread.ticks
        assert (thread.gil_wait_ticks, thread.gil_hold_ticks) == (0, 0)
        assert thread.observed_s == pytest.approx(recording.duration_s, abs=0.3)
    assert process.gil_held_ticks == 0
    assert not process.ended


def test_threads_that_sleep_are_left_out_of_most_looks_and_counted_in_all(start, monkeypatch):
    child = start(sys.executable, "-c", SLEEPERS)
    time.sleep(0.2)  # the threads fall asleep
    watch = gil_ticks.Watch(gil_ticks.Request(processes=((child.pid, "target"),), rate_hz=100, seed=1))
    watch._relist(watch._count_next_s)
    threads = dict(watch._processes[0].threads)
    files, read, pread = {thread.fd for thread in threads.values()}, [], os.pread
    monkeypatch.setattr(gil_ticks.os, "pread", lambda fd, *rest: read.append(fd) or pread(fd, *rest))
    for _ in range(400):
        watch.look()
    looks = sum(fd in files for fd in read)
    # One in eight of 2000, each 1 to 15 apart: 250 with a standard deviation of 9.
    assert 200 < looks < 300
    (process,) = watch.finish().processes
    assert [(thread.ticks, thread.blocked_ticks) for thread in process.threads] == [(400, 400)] * 5


def test_a_thread_that_wakes_up_is_looked_at_as_often_as_any(start):
    code = "import time; print('up', flush=True); time.sleep(0.8)\nwhile True: pass"
    child = start(sys.executable, "-c", code)
    (thread,) = watch(child.pid, 2.0).processes[0].threads
    asleep = 1.0 - (thread.cpu_s + thread.run_delay_s) / thread.observed_s
    # Up to 15 of about 400 looks may fall on the wrong side.
    assert thread.blocked_ticks / thread.ticks == pytest.approx(asleep, abs=0.15)


def test_a_process_that_ends_meanwhile_is_told_and_what_was_seen_is_kept(start):
    child = start(sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
    with GilSampler([(child.pid, "target")], rate_hz=500) as sampler:
        sampler.start()
        time.sleep(0.3)
        child.kill()
        child.wait()
        time.sleep(0.3)
        process = sampler.stop().processes[0]
    assert process.ended
    assert process.threads[0].ticks > 0


def test_a_process_that_has_ended_before_is_no_error(start):
    child = start(sys.executable, "-c", "print('up', flush=True)")
    child.wait()
    process = watch(child.pid, 0.1).processes[0]
    assert process.ended
    assert process.threads == ()
    assert process.gil is GilAnswer.UNKNOWN


def test_what_is_not_python_has_no_gil_to_tell_of_and_still_its_threads(start):
    child = start("sh", "-c", "echo up; exec sleep 60")
    process = watch(child.pid, 0.3).processes[0]
    assert process.gil is GilAnswer.UNKNOWN
    assert "not a CPython process" in process.gil_reason
    assert process.python == ""
    assert [thread.blocked_ticks for thread in process.threads] == [process.threads[0].ticks]


def test_a_thread_that_ends_meanwhile_keeps_its_looks():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="short")
    thread.start()
    with GilSampler([(os.getpid(), "self")], rate_hz=500) as sampler:
        sampler.start()
        time.sleep(0.3)
        stop.set()
        thread.join()
        time.sleep(0.2)
        process = sampler.stop().processes[0]
    (found,) = [seen for seen in process.threads if seen.tid == thread.native_id]
    assert 0 < found.ticks < process.ticks
    assert found.gil_wait_ticks <= 1  # it takes the GIL once, to end


def test_the_looks_are_not_in_step_with_the_rate():
    # Looked without a pause, so that no look is late and the plan alone decides.
    request = gil_ticks.Request(processes=((os.getpid(), "self"),), rate_hz=100, seed=1)
    watch, due_s = gil_ticks.Watch(request), []
    for _ in range(300):
        watch.look()
        due_s.append(watch._next_s)
    gaps_s = [after - before for before, after in pairwise(due_s)]
    assert min(gaps_s) == pytest.approx(0.005, abs=0.001)
    assert sorted(gaps_s)[-5] == pytest.approx(0.015, abs=0.001)
    assert sum(gaps_s) / len(gaps_s) == pytest.approx(0.01, rel=0.15)
    recording = watch.finish()
    assert (recording.ticks, recording.late_ticks) == (300, 0)


def test_it_is_gone_when_it_is_closed():
    sampler = GilSampler([(os.getpid(), "self")])
    sampler.start()
    child = sampler._child
    sampler.close()
    assert child.returncode is not None
    sampler.close()
    with pytest.raises(PerfguardError, match="before it was started"):
        sampler.stop()


@pytest.mark.parametrize("rate_hz", [0, -1, 0.5, 1e6, float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate_hz):
    with pytest.raises(PerfguardError, match="times a second"):
        GilSampler([(1, "init")], rate_hz=rate_hz)


def test_a_sampler_that_dies_is_said_to_have_died():
    with GilSampler([(os.getpid(), "self")]) as sampler:
        sampler.start()
        sampler._child.kill()
        with pytest.raises(PerfguardError, match="the thread sampler died"):
            sampler.stop()


def task_files(folder, *, status, schedstat):
    folder.mkdir()
    (folder / "status").write_text(status)
    if schedstat is not None:
        (folder / "schedstat").write_text(schedstat)
    return folder


STATUS = "Name:\tworker: 1\nState:\tS (sleeping)\nNSpid:\t4711\t33\n"
STATUS += "voluntary_ctxt_switches:\t8\nnonvoluntary_ctxt_switches:\t3\n"


def test_the_counters_of_a_thread_are_read(tmp_path):
    counters = read_thread(task_files(tmp_path / "4711", status=STATUS, schedstat="2500000000 500000000 7\n"))
    assert (counters.name, counters.native_tid, counters.ended) == ("worker: 1", 33, False)
    assert (counters.cpu_s, counters.run_delay_s) == (2.5, 0.5)
    assert (counters.voluntary_switches, counters.involuntary_switches) == (8, 3)


@pytest.mark.parametrize("schedstat", [None, "0 0 0\n"], ids=["no file", "not counted"])
def test_a_kernel_that_does_not_count_gives_none_and_not_zero(tmp_path, schedstat):
    counters = read_thread(task_files(tmp_path / "1", status=STATUS, schedstat=schedstat))
    assert counters.cpu_s is None
    assert counters.run_delay_s is None


def test_a_thread_that_waits_to_be_reaped_has_ended(tmp_path):
    assert read_thread(task_files(tmp_path / "1", status="Name:\tx\nState:\tZ (zombie)\n", schedstat=None)).ended


def test_pressure_is_read_and_its_absence_is_none(tmp_path):
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "cpu").write_text("some avg10=1.00 avg60=0.00 avg300=0.00 total=2500000\nfull total=1\n")
    assert read_pressure(tmp_path) == {"cpu": 2.5, "memory": None, "io": None}
