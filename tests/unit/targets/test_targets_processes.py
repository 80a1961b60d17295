"""Nothing of a started process survives, however it hides and whatever ends perfguard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from perfguard.model.errors import PerfguardError
from perfguard.targets.processes import ManagedProcess

REPOSITORY = Path(__file__).parents[3]
SHM = Path("/dev/shm")  # noqa: S108 - the place of POSIX segments, not a temporary directory

# A server that writes the pids of all its processes to the file in argv[1], one a line, its own first.
HIDING_TREE = """
import os, signal, subprocess, sys, time
def note(text):
    with open(sys.argv[1], "a") as file: file.write(f"{text}\\n")
note(os.getpid())
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:            # a daemon: new session, its parent is gone
    os.setsid()
    if os.fork() == 0:
        note(os.getpid())
        time.sleep(600)
    os._exit(0)
os.wait()
stopped = subprocess.Popen(["sleep", "600"], start_new_session=True)
os.kill(stopped.pid, signal.SIGSTOP)
note(stopped.pid)
grouped = subprocess.Popen(["sleep", "600"], preexec_fn=os.setpgrp)
note(grouped.pid)
time.sleep(600)
"""
TREE_SIZE = 4


@pytest.fixture
def start(tmp_path):
    started = []

    def start_script(source, *arguments, **options):
        script = tmp_path / f"script{len(started)}.py"
        script.write_text(textwrap.dedent(source))
        options = {"working_dir": tmp_path, "log_path": tmp_path / "log", "environment": dict(os.environ)} | options
        process = ManagedProcess([sys.executable, "-S", str(script), *map(str, arguments)], **options)
        started.append(process)
        return process

    yield start_script
    for process in started:
        process.stop(0)


def wait_for(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def read_pids(file):
    lines = file.read_text().split() if file.exists() else []
    return [int(line) for line in lines] if len(lines) == TREE_SIZE else None


def lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stop_ends_daemons_new_sessions_new_groups_stopped_ones_and_those_that_ignore_sigterm(start, tmp_path):
    process = start(HIDING_TREE, tmp_path / "pids")
    pids = wait_for(lambda: read_pids(tmp_path / "pids"))
    assert set(process.descendants()) == set(pids)
    assert process.descendants()[0] == process.pid == pids[0]

    report = process.stop(grace_s=0.2)

    assert report.killed == 4
    assert report.leftover == ()
    assert not any(lives(pid) for pid in pids)
    assert process.descendants() == ()
    assert process.stop(grace_s=5) is report


def test_stop_lets_a_polite_server_end_by_itself(start, tmp_path):
    process = start(
        """
        import signal, sys, time
        def end(*_):
            open(sys.argv[1], "w").write("ended in peace")
            sys.exit(3)
        signal.signal(signal.SIGINT, end)
        print("ready", flush=True)
        time.sleep(600)
        """,
        tmp_path / "farewell",
        stop_signal=signal.SIGINT,
    )
    wait_for(lambda: process.log_path.read_text() == "ready\n")
    begin = time.monotonic()
    assert process.stop(grace_s=20).killed == 0
    assert time.monotonic() - begin < 5
    assert (tmp_path / "farewell").read_text() == "ended in peace"
    assert process.poll() == 3


def test_a_server_ends_on_sigint_even_where_perfguard_was_started_with_it_ignored(start):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start("import time; print('ready', flush=True); time.sleep(600)", stop_signal=signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: process.log_path.read_text() == "ready\n")
    assert process.stop(grace_s=20).killed == 0


def test_poll_tells_the_exit_status(start):
    process = start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert wait_for(lambda: process.poll() is not None)
    assert process.returncode == 7
    assert sorted(process.log_path.read_text().split()) == ["err", "out"]
    killed = start("import os; os.kill(os.getpid(), 9)")
    assert wait_for(lambda: killed.poll() is not None)
    assert killed.poll() == -signal.SIGKILL


def test_poll_is_none_while_it_runs(start):
    assert start("import time; time.sleep(600)").poll() is None


def test_orphans_are_ended_after_the_server_died_by_itself(start, tmp_path):
    process = start(HIDING_TREE, tmp_path / "pids")
    pids = wait_for(lambda: read_pids(tmp_path / "pids"))
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: process.poll() is not None)
    assert set(process.descendants()) == set(pids[1:])
    assert process.stop(grace_s=5).killed == 3
    assert not any(lives(pid) for pid in pids)


def test_the_server_gets_exactly_the_environment_and_no_input(start):
    process = start(
        "import os, sys; print(sorted(os.environ), repr(sys.stdin.read()), os.getcwd())",
        environment={"LC_ALL": "C.UTF-8", "ONLY": "this"},
    )
    wait_for(lambda: process.poll() is not None)
    assert process.log_path.read_text() == f"['LC_ALL', 'ONLY'] '' {process.log_path.parent}\n"


def test_a_command_that_does_not_exist_is_one_clear_error(tmp_path):
    gone = tmp_path / "scratch"
    gone.mkdir()
    with pytest.raises(PerfguardError, match=r"cannot start /no/such/python: No such file or directory"):
        ManagedProcess(
            ["/no/such/python"], environment={}, working_dir=tmp_path, log_path=tmp_path / "log", remove_dirs=[gone]
        )
    assert not gone.exists()


def test_directories_are_removed_on_stop(start, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "file").write_text("x")
    process = start("import time; time.sleep(600)", remove_dirs=[scratch], working_dir=scratch)
    process.stop(0)
    assert not scratch.exists()


@pytest.fixture
def segment_names():
    names = [f"perfguard-test-{os.getpid()}-{kind}" for kind in ("held", "recorded", "foreign", "shared")]
    yield dict(zip(("held", "recorded", "foreign", "shared"), names, strict=True))
    for name in names:
        (SHM / name).unlink(missing_ok=True)


def test_only_the_trees_own_segments_are_removed(start, tmp_path, segment_names):
    paths = {kind: SHM / name for kind, name in segment_names.items()}
    records = tmp_path / "records"
    records.mkdir()
    paths["shared"].write_bytes(b"was there before, and the server opens it")
    process = start(
        """
        import json, mmap, os, sys, time
        held, recorded, shared, records = sys.argv[1:]
        file = open(held, "w+b"); file.truncate(4096); mapped = mmap.mmap(file.fileno(), 4096); file.close()
        kept_open = open(shared, "rb")
        with open(recorded, "wb") as file:
            line = {"pid": os.getpid(), "shm": os.path.basename(recorded), "inode": os.fstat(file.fileno()).st_ino}
        print(json.dumps(line), file=open(os.path.join(records, "1.jsonl"), "w"), flush=True)
        print("ready", flush=True)
        time.sleep(600)
        """,
        paths["held"],
        paths["recorded"],
        paths["shared"],
        records,
        record_dir=records,
    )
    wait_for(lambda: process.log_path.read_text() == "ready\n")
    paths["foreign"].write_bytes(b"another program's, made while the server ran")
    process.stop(0)
    assert {kind for kind, path in paths.items() if path.exists()} == {"foreign", "shared"}


def test_a_recorded_name_that_was_given_anew_is_not_removed(start, tmp_path, segment_names):
    path = SHM / segment_names["recorded"]
    path.write_bytes(b"somebody else's by now")
    record = {"pid": 1, "shm": path.name, "inode": path.stat().st_ino + 1}
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "1.jsonl").write_text(json.dumps(record) + "\n")
    start("import time; time.sleep(600)", record_dir=tmp_path / "records").stop(0)
    assert path.exists()


PARENT = """
import os, sys, time
from pathlib import Path
from perfguard.targets.processes import ManagedProcess
scratch = Path(sys.argv[3]); scratch.mkdir()
process = ManagedProcess(
    [sys.executable, "-S", sys.argv[1], sys.argv[2]],
    environment=dict(os.environ), working_dir=scratch, log_path=Path(sys.argv[2] + ".log"), remove_dirs=[scratch],
)
if os.fork() == 0: time.sleep(30)   # a helper that holds the socket to the reaper open
print(process._reaper.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path):
    """Start a process that stands for perfguard; return it, its reaper's pid and all pids of the server below."""
    (tmp_path / "tree.py").write_text(HIDING_TREE)
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [
            sys.executable,
            str(tmp_path / "parent.py"),
            str(tmp_path / "tree.py"),
            str(tmp_path / "pids"),
            str(tmp_path / "scratch"),
        ],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert parent.stdout is not None
    reaper = int(parent.stdout.readline())
    pids = wait_for(lambda: read_pids(tmp_path / "pids"))
    yield parent, reaper, pids
    os.killpg(parent.pid, signal.SIGKILL)
    parent.stdout.close()
    for pid in (reaper, *pids):
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


def test_kill_9_of_perfguard_ends_everything_though_a_forked_helper_lives_on(parent, tmp_path):
    perfguard, reaper, pids = parent
    perfguard.kill()
    perfguard.wait()
    wait_for(lambda: not any(lives(pid) for pid in (reaper, *pids)))
    assert not (tmp_path / "scratch").exists()


def test_ctrl_c_on_the_terminal_does_not_end_the_reaper(parent):
    _, reaper, pids = parent
    os.kill(reaper, signal.SIGINT)
    os.kill(reaper, signal.SIGHUP)
    time.sleep(0.2)
    assert lives(reaper)
    assert all(lives(pid) for pid in pids)


def test_sigterm_to_the_reaper_ends_everything(parent, tmp_path):
    _, reaper, pids = parent
    os.kill(reaper, signal.SIGTERM)
    wait_for(lambda: not any(lives(pid) for pid in (reaper, *pids)))
    assert not (tmp_path / "scratch").exists()


def test_kill_9_of_the_reaper_is_made_good_on_stop(start, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = start(HIDING_TREE, tmp_path / "pids", working_dir=scratch, remove_dirs=[scratch])
    pids = wait_for(lambda: read_pids(tmp_path / "pids"))
    process._reaper.kill()
    wait_for(lambda: process.poll() is not None)
    assert process.returncode == -signal.SIGKILL  # the kernel ended the server
    report = process.stop(grace_s=1)
    assert report.leftover == ()
    assert not any(lives(pid) for pid in pids)
    assert not scratch.exists()


def test_perfguard_killed_at_any_moment_of_a_start_leaves_nothing(tmp_path):
    (tmp_path / "tree.py").write_text(HIDING_TREE)
    (tmp_path / "parent.py").write_text(PARENT)
    for moment, delay_s in enumerate((0.15, 0.2, 0.25, 0.3, 0.35, 0.4)):
        pids = tmp_path / f"pids{moment}"
        scratch = tmp_path / f"scratch{moment}"
        parent = subprocess.Popen(
            [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "tree.py"), str(pids), str(scratch)],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
        )
        time.sleep(delay_s)
        parent.kill()
        parent.wait()
    marker = str(tmp_path / "tree.py")
    wait_for(
        lambda: (
            not [
                process.pid
                for process in psutil.process_iter(["cmdline"])
                if marker in (process.info["cmdline"] or []) and "parent.py" not in str(process.info["cmdline"])
            ]
        )
    )
    started = [int(line) for file in tmp_path.glob("pids[0-9]") for line in file.read_text().split()]
    wait_for(lambda: not any(lives(pid) for pid in started))
