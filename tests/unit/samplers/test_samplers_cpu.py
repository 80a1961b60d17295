"""CPU: against processes whose CPU is known, and against made-up counters for what this machine may not have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from perfguard.model.errors import PerfguardError
from perfguard.samplers.cpu import CpuSampler

TICKS = os.sysconf("SC_CLK_TCK")
SPIN = """
import sys, threading, time
def spin(seconds):
    while time.thread_time() < seconds: pass
print("up", flush=True)
sys.stdin.readline()
{act}
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def child():
    started = []

    def start(act: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", SPIN.format(act=act)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def act(process) -> None:
    process.stdin.write("go\n")
    assert process.stdout.readline() == "done\n"


def test_a_spinning_child_uses_what_it_says(child):
    spinning, idle = child("spin(0.5)"), child("pass")
    sampler = CpuSampler([(spinning.pid, "rank-0"), (idle.pid, "tokenizer")])
    sampler.start()
    began = time.perf_counter()
    act(spinning)
    wall_s = time.perf_counter() - began
    result = sampler.stop()
    busy, still = result.processes
    assert (busy.pid, busy.role, still.role) == (spinning.pid, "rank-0", "tokenizer")
    # The interpreter's start used some of the 0.5 s that the child spins up to.
    assert 0.35 < busy.cpu_s < 0.52
    assert still.cpu_s < 0.02
    assert 0 <= busy.run_delay_s <= wall_s
    assert wall_s <= result.duration_s
    assert result.cores == os.cpu_count()
    assert 0.3 / (result.duration_s * result.cores) < result.machine_busy_frac <= 1.0
    assert 0.0 <= result.stolen_frac < 1.0


def test_threads_are_told_apart_and_a_new_one_counts_from_zero(child):
    process = child(
        "spun = threading.Event();"
        "threading.Thread(target=lambda: (spin(0.3), spun.set(), time.sleep(600)), daemon=True).start(); spun.wait()"
    )
    sampler = CpuSampler([(process.pid, "other")])
    sampler.start()
    act(process)
    (found,) = sampler.stop().processes
    assert len(found.threads) == 2
    assert found.threads[0].tid != process.pid
    assert 0.25 < found.threads[0].cpu_s < 0.32
    assert found.threads[1].tid == process.pid
    assert found.threads[1].cpu_s < 0.05
    assert found.cpu_s == pytest.approx(sum(thread.cpu_s for thread in found.threads))


def test_a_thread_that_ended_counts_with_its_process(child):
    process = child("t = threading.Thread(target=spin, args=(0.4,)); t.start(); t.join(); time.sleep(0.2)")
    sampler = CpuSampler([(process.pid, "other")])
    sampler.start()
    act(process)
    (found,) = sampler.stop().processes
    assert [thread.tid for thread in found.threads] == [process.pid]
    assert found.threads[0].cpu_s < 0.05
    assert 0.35 < found.cpu_s < 0.48


def test_a_process_that_ended_is_left_out(child):
    ended, alive = child("pass"), child("pass")
    sampler = CpuSampler([(ended.pid, "rank-0"), (alive.pid, "rank-1")])
    sampler.start()
    ended.kill()
    ended.wait()
    assert [process.role for process in sampler.stop().processes] == ["rank-1"]


def test_a_process_that_is_not_there_is_an_error(child):
    process = child("pass")
    process.kill()
    process.wait()
    with pytest.raises(PerfguardError, match=rf"process {process.pid} \(rank-0\) ended"):
        CpuSampler([(process.pid, "rank-0")]).start()


def test_stopping_before_starting_is_an_error():
    with pytest.raises(PerfguardError, match="before it was started"):
        CpuSampler([]).stop()


class Roots:
    """A `/proc` and a control-group tree on disk, whose numbers a test writes."""

    def __init__(self, path) -> None:
        self.proc, self.cgroup = path / "proc", path / "cgroup"

    def machine(self, *, user: int, idle: int, iowait: int = 0, steal: int = 0) -> None:
        self.proc.mkdir(parents=True, exist_ok=True)
        line = f" {user} 0 0 {idle} {iowait} 0 0 {steal} {user} 0\n"
        (self.proc / "stat").write_text(f"cpu {line}cpu0{line}cpu1{line}cpu2{line}intr 5 0\nctxt 9\n")

    def process(self, pid: int, *, ticks: int, started: int = 7, cgroup: str | None = None) -> None:
        self._stat(self.proc / str(pid), pid, "main", ticks, started)
        (self.proc / str(pid) / "task").mkdir(exist_ok=True)
        if cgroup is not None:
            (self.proc / str(pid) / "cgroup").write_text(cgroup)

    def thread(
        self, pid: int, tid: int, *, ticks: int, schedstat: str | None, name: str = "worker", started: int = 7
    ) -> None:
        task = self.proc / str(pid) / "task" / str(tid)
        self._stat(task, tid, name, ticks, started)
        if schedstat is not None:
            (task / "schedstat").write_text(schedstat + "\n")

    def throttled(self, folder: str, text: str) -> None:
        (self.cgroup / folder).mkdir(parents=True, exist_ok=True)
        (self.cgroup / folder / "cpu.stat").write_text(text)

    def sampler(self, *pids: int) -> CpuSampler:
        return CpuSampler([(pid, "rank-0") for pid in pids], proc_root=self.proc, cgroup_root=self.cgroup)

    def _stat(self, folder, number: int, name: str, ticks: int, started: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rest = [0] * 40
        rest[10], rest[11], rest[18] = ticks, 0, started
        (folder / "stat").write_text(f"{number} ({name}) S {' '.join(map(str, rest))}\n")


@pytest.fixture
def roots(tmp_path):
    made = Roots(tmp_path)
    made.machine(user=1000, idle=1000)
    return made


def test_the_machines_shares(roots):
    sampler = roots.sampler()
    sampler.start()
    roots.machine(user=1600, idle=1200, iowait=100, steal=100)
    result = sampler.stop()
    assert result.machine_busy_frac == pytest.approx(0.7)
    assert result.stolen_frac == pytest.approx(0.1)
    assert result.cores == 3


def test_schedstat_gives_cpu_and_delay_in_nanoseconds(roots):
    roots.process(50, ticks=10)
    roots.thread(50, 50, ticks=10, schedstat="100000000 5000000 3")
    sampler = roots.sampler(50)
    sampler.start()
    roots.process(50, ticks=10 + TICKS)
    roots.thread(50, 50, ticks=10 + TICKS, schedstat="1100500000 45000000 9", name="odd ) (name")
    (process,) = sampler.stop().processes
    (thread,) = process.threads
    assert thread.name == "odd ) (name"
    assert thread.cpu_s == pytest.approx(1.0005)
    assert thread.run_delay_s == process.run_delay_s == pytest.approx(0.04)
    assert process.cpu_s == pytest.approx(1.0005)


def test_without_schedstat_ticks_must_do(roots):
    roots.process(50, ticks=10)
    roots.thread(50, 50, ticks=10, schedstat=None)
    sampler = roots.sampler(50)
    sampler.start()
    roots.process(50, ticks=10 + 2 * TICKS)
    roots.thread(50, 50, ticks=10 + 2 * TICKS, schedstat=None)
    (process,) = sampler.stop().processes
    assert process.cpu_s == process.threads[0].cpu_s == pytest.approx(2.0)
    assert process.run_delay_s == 0.0


def test_a_reused_thread_id_counts_from_zero(roots):
    roots.process(50, ticks=0)
    roots.thread(50, 51, ticks=0, schedstat="900000000 0 1", started=7)
    sampler = roots.sampler(50)
    sampler.start()
    roots.thread(50, 51, ticks=0, schedstat="20000000 0 1", started=99)
    (process,) = sampler.stop().processes
    assert process.threads[0].cpu_s == pytest.approx(0.02)


def test_a_reused_process_id_is_left_out(roots):
    roots.process(50, ticks=0, started=7)
    sampler = roots.sampler(50)
    sampler.start()
    roots.process(50, ticks=500, started=99)
    assert sampler.stop().processes == ()


def test_the_busiest_thread_comes_first(roots):
    roots.process(50, ticks=0)
    sampler = roots.sampler(50)
    sampler.start()
    for tid, cpu in ((50, 10), (51, 30), (52, 20)):
        roots.thread(50, tid, ticks=0, schedstat=f"{cpu}000000 0 1")
    (process,) = sampler.stop().processes
    assert [thread.tid for thread in process.threads] == [51, 52, 50]


@pytest.mark.parametrize(
    ("membership", "folder", "counters", "seconds"),
    [
        ("0::/a/b\n", "a/b", ("nr_throttled 1\nthrottled_usec 500000\n", "throttled_usec 2000000\n"), 1.5),
        ("0::/a/b\n", "a", ("throttled_usec 0\n", "throttled_usec 250000\n"), 0.25),
        ("0::/../c\n", "c", ("throttled_usec 0\n", "throttled_usec 250000\n"), 0.25),
        ("5:memory:/x\n1:cpu:/a\n0::/\n", "cpu/a", ("throttled_time 0\n", "throttled_time 3000000000\n"), 3.0),
        ("3:cpu,cpuacct:/a\n", "cpu,cpuacct/a", ("throttled_time 1\n", "throttled_time 1000000001\n"), 1.0),
        ("0::/a\n", "unified/a", ("throttled_usec 0\n", "throttled_usec 100000\n"), 0.1),
        ("0::/a\n", "other", ("throttled_usec 0\n", "throttled_usec 100000\n"), 0.0),
        ("2:memory:/a\n", "memory/a", ("throttled_time 0\n", "throttled_time 100000\n"), 0.0),
        ("0::/a\n", "a", ("usage_usec 0\n", "usage_usec 100000\n"), 0.0),
    ],
)
def test_throttling_of_the_control_group_and_those_around_it(roots, membership, folder, counters, seconds):
    roots.process(50, ticks=0, cgroup=membership)
    roots.process(51, ticks=0, cgroup=membership)
    roots.throttled(folder, counters[0])
    sampler = roots.sampler(50, 51)
    sampler.start()
    roots.throttled(folder, counters[1])
    assert sampler.stop().throttled_s == pytest.approx(seconds)


def test_the_gone_process_of_a_made_up_root_is_left_out(roots):
    roots.process(50, ticks=0)
    sampler = roots.sampler(50)
    sampler.start()
    shutil.rmtree(roots.proc / "50")
    assert sampler.stop().processes == ()
