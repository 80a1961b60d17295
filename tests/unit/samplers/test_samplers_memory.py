"""Memory of processes, from made-up files and from a real process that grows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from perfguard.model.errors import PerfguardError
from perfguard.samplers.memory import MemorySampler

ROLLUP = """\
55d0-7ffc ---p 00000000 00:00 0                          [rollup]
Rss:              9000 kB
Pss:              {pss} kB
Pss_Shmem:        {shmem} kB
Locked:              0 kB
"""


def write(proc, pid, pss, shmem):
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "smaps_rollup").write_text(ROLLUP.format(pss=pss, shmem=shmem))


def test_readings_hold_the_proportional_size_and_its_shared_part(tmp_path):
    write(tmp_path, 7, pss=4000, shmem=1000)
    with MemorySampler([(7, "rank-0")], interval_s=60.0, proc_root=tmp_path) as sampler:
        sampler.start()
        write(tmp_path, 7, pss=5000, shmem=1500)
        (process,) = sampler.stop()

    assert (process.pid, process.role, process.unknown) == (7, "rank-0", "")
    assert [(each.pss_bytes, each.shared_bytes) for each in process.readings] == [
        (4000 * 1024, 1000 * 1024),
        (5000 * 1024, 1500 * 1024),
    ]
    assert 0.0 <= process.readings[0].at_s < process.readings[1].at_s


def test_a_process_that_ended_keeps_what_was_read(tmp_path):
    write(tmp_path, 7, pss=4000, shmem=0)
    with MemorySampler([(7, "a"), (8, "b")], interval_s=60.0, proc_root=tmp_path) as sampler:
        sampler.start()
        (tmp_path / "7" / "smaps_rollup").write_text("")  # what the kernel shows of a process that waits to be reaped
        ended, never_was = sampler.stop()

    assert len(ended.readings) == 1
    assert ended.unknown == ""
    assert never_was.readings == ()
    assert "No such file" in never_was.unknown


def test_a_growing_process_is_seen_to_grow():
    program = "import sys\nkeep = []\nfor _ in sys.stdin: keep.append(b'x' * 30_000_000); print('grown', flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        child.stdin.write("\n")
        assert child.stdout.readline() == "grown\n"
        with MemorySampler([(child.pid, "child")], interval_s=0.1) as sampler:
            sampler.start()
            child.stdin.write("\n")
            assert child.stdout.readline() == "grown\n"
            (process,) = sampler.stop()
    finally:
        child.kill()
        child.communicate()

    grown = process.readings[-1].pss_bytes - process.readings[0].pss_bytes
    assert 25e6 < grown < 40e6


def test_it_reads_at_its_interval_and_leaves_no_thread(tmp_path):
    write(tmp_path, 7, pss=1, shmem=0)
    with MemorySampler([(7, "a")], interval_s=0.1, proc_root=tmp_path) as sampler:
        sampler.start()
        time.sleep(0.25)
        (process,) = sampler.stop()

    assert 3 <= len(process.readings) <= 4
    assert not any(thread.name == "perfguard-memory" for thread in threading.enumerate())


def test_wrong_use_is_said():
    with pytest.raises(PerfguardError, match=r"cannot be read every 0\.01 s"):
        MemorySampler([(os.getpid(), "a")], interval_s=0.01)
    with pytest.raises(PerfguardError, match="before it was started"):
        MemorySampler([(os.getpid(), "a")]).stop()
