"""memray in running programs: who allocates, and what is said of a program that it cannot enter."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from perfguard.cli.main import run_cli
from perfguard.model.errors import UsageError
from perfguard.samplers import memray
from perfguard.samplers.pyspy import check_attach

KEEPER = """
import time
kept = []
def keep_more():
    kept.append(bytearray(1_000_000))
print("up", flush=True)
while True:
    keep_more()
    time.sleep(0.05)
"""
SLEEPER = "import time; print('up', flush=True); time.sleep(120); print('slept')"

needs_memray = pytest.mark.skipif(
    importlib.util.find_spec("memray") is None or shutil.which("gdb") is None or check_attach() is not None,
    reason="memray, gdb or the permission to attach is missing",
)


@pytest.fixture
def start():
    children = []

    def run(*command):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout.readline() == "up\n"
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


def version():
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


@needs_memray
@pytest.mark.slow
def test_the_flamegraph_names_what_allocates_and_the_program_runs_on(start, tmp_path):
    child = start(sys.executable, "-c", KEEPER)
    (drawn,) = memray.draw_allocations([(child.pid, version())], seconds=1, output_dir=tmp_path)
    assert drawn.unknown == ""
    assert drawn.flamegraph == tmp_path / f"memray-{child.pid}.html"
    assert "keep_more" in drawn.flamegraph.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [drawn.flamegraph]
    assert child.poll() is None


@needs_memray
@pytest.mark.slow
def test_a_program_that_is_not_python_is_left_as_it_was(start, tmp_path, monkeypatch):
    monkeypatch.setattr(memray, "_ATTACH_TIMEOUT_S", 5.0)
    child = start("sh", "-c", "echo up; exec sleep 8; exit 3")
    (drawn,) = memray.draw_allocations([(child.pid, version())], seconds=1, output_dir=tmp_path)
    assert drawn.flamegraph is None
    assert "memray could not enter it" in drawn.unknown
    assert child.wait(timeout=60) == 0


@needs_memray
@pytest.mark.slow
def test_a_sleeping_program_is_given_up_and_sleeps_on(start, tmp_path, monkeypatch):
    monkeypatch.setattr(memray, "_ATTACH_TIMEOUT_S", 8.0)
    child = start(sys.executable, "-c", SLEEPER.replace("120", "20"))
    (drawn,) = memray.draw_allocations([(child.pid, version())], seconds=1, output_dir=tmp_path)
    assert drawn.flamegraph is None
    assert "allocated nothing meanwhile" in drawn.unknown
    said, _ = child.communicate(timeout=60)
    assert (said, child.returncode) == ("slept\n", 0)


@needs_memray
@pytest.mark.slow
def test_record_draws_a_program_that_runs_and_leaves_one_that_sleeps(start, tmp_path, capsys):
    parent = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {KEEPER!r}])\ntime.sleep(120)"
    child = start(sys.executable, "-c", parent)
    arguments = ["--pid", str(child.pid), "--duration", "1", "--memray", "1", "--stack-rate", "0", "-q"]
    try:
        assert run_cli(["record", *arguments, "--output", str(tmp_path)]) == 0
    finally:
        for member in psutil.Process(child.pid).children():
            member.kill()
    processes = {each["pid"]: each for each in json.loads((tmp_path / "record.json").read_text())["processes"]}
    asleep = processes.pop(child.pid)
    assert (asleep["memray"], "ran less than 1%" in asleep["memray_unknown"]) == (None, True)
    ((pid, awake),) = processes.items()
    assert "keep_more" in (tmp_path / awake["memray"]).read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert f"allocations by function: memray-{pid}.html" in printed
    assert "no flamegraph of allocations: it is no Python process, has ended, or ran less than 1%" in printed


@pytest.mark.parametrize(
    ("said", "unknown"),
    [
        ("Unexpected error: ModuleNotFoundError(\"No module named 'memray'\")", "not installed in the process's own"),
        ("memray: tracking PID 7 for 1s in the background.", "not to be seen from here"),
        ("Failed to attach a debugger to the process.\nNo permission.\n", "could not enter it: No permission."),
        ("", "could not enter it: it said nothing"),
        (None, "allocated nothing meanwhile"),
    ],
)
def test_why_there_is_no_flamegraph_is_told_in_words(tmp_path, monkeypatch, said, unknown):
    monkeypatch.setattr(memray, "_attach", lambda _: said)
    (drawn,) = memray.draw_allocations([(7, version())], seconds=60, output_dir=tmp_path)
    assert drawn.flamegraph is None
    assert unknown in drawn.unknown


def test_where_memray_is_missing_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(memray.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="memray is not installed here"):
        memray.check_memray()


def test_where_no_debugger_is_found_one_line_says_so(monkeypatch):
    monkeypatch.setattr(memray.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(memray.shutil, "which", lambda _name: None)
    monkeypatch.delattr(sys, "remote_exec", raising=False)
    with pytest.raises(UsageError, match="needs a debugger"):
        memray.check_memray()


def test_an_interrupt_lets_the_debugger_leave_and_nothing_stays(tmp_path):
    package = tmp_path / "memray"
    package.mkdir()
    (package / "__init__.py").touch()
    # In memray's place: it waits for a debugger that does not get in.
    (package / "__main__.py").write_text(
        "import pathlib, subprocess\n"
        "debugger = subprocess.Popen(['sleep', '300'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(f'{{debugger.pid}}\\n')\n"
        "debugger.wait()\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", "from perfguard.samplers import memray; memray._attach(['attach', '7'])"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    caller.send_signal(signal.SIGINT)
    _, said = caller.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
