"""A server of any command: its whole life, its processes, and what is told of one that fails."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from perfguard.model.errors import PerfguardError, UntestableError, UsageError
from perfguard.model.scenario import CommandSpec, Device, Strategy, TargetKind, TargetSpec, VisionTower
from perfguard.model.trial import ROLE_OTHER
from perfguard.targets import running
from perfguard.targets.command import LaunchedCommand, command_line

SERVER = """
import multiprocessing, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
order, port = sys.argv[1:3]
import shop.words
if order == "crash": raise RuntimeError("no stock")
if order == "hang": time.sleep(600)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/up" else 404)
        self.end_headers()
        self.wfile.write(shop.words.HELLO)
    def log_message(self, *_): pass
if order == "workers":
    children = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)) for _ in range(2)]
    for child in children: child.start(); time.sleep(0.05)
    subprocess.Popen(["sleep", "600"])
print("serving in", os.getcwd(), os.environ.get("COLOUR"), flush=True)
ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Launch the server with an order; whatever happens, it is stopped in the end, and must have left nothing."""
    temp, tree = tmp_path / "temp", tmp_path / "tree"
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    (tree / "src" / "shop").mkdir(parents=True)
    (tree / "src" / "shop" / "words.py").write_text('HELLO = b"hello"\n')
    (tree / "server.py").write_text(SERVER)
    launched = []

    def start(order, *, start_timeout_s=20.0, line=("{python}", "{tree}/server.py"), source_root="src", **options):
        command = CommandSpec(line=(*line, order, "{port}"), health_path="/up", source_root=source_root)
        target = TargetSpec(
            kind=TargetKind.COMMAND,
            device=Device.CPU,
            tensor_parallel_size=1,
            model=None,
            vision_tower=VisionTower.REAL,
            environment_spec="python",
            extra_args=("--last",),
            extra_environment=(("COLOUR", "blue"),),
            start_timeout_s=start_timeout_s,
            drain_timeout_s=5.0,
            command=command,
        )
        python = Path(sys.executable)
        launched.append(LaunchedCommand(target, source_tree=tree, python=python, work_dir=tmp_path / "work", **options))
        return launched[-1]

    yield start
    for each in launched:
        each.stop()
    assert list(temp.iterdir()) == []
    assert [process.pid for process in psutil.process_iter() if _working_dir(process) == str(tree)] == []


def _working_dir(process):
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def test_a_server_starts_in_its_tree_drains_and_is_gone(launch, tmp_path):
    server = launch("serve").wait()
    port = int(server.base_url.rpartition(":")[2])
    assert running.get(port, "/up", timeout_s=5.0) == (200, b"hello")
    server.drain(5.0)
    assert [process.role for process in server.processes()] == ["server"]
    assert f"serving in {tmp_path / 'tree'} blue" in server.log_tail()
    report = server.report
    assert report.command == (sys.executable, f"{tmp_path / 'tree'}/server.py", "serve", str(port), "--last")
    assert (report.stand_ins, report.loaded_files, report.start_s > 0.0) == ((), (), True)
    server.park()
    assert psutil.Process(server.processes()[0].pid).status() == psutil.STATUS_STOPPED
    server.unpark()
    server.check_alive()


def test_workers_are_numbered_in_order_of_start_and_missed_when_one_dies(launch):
    server = launch("workers").wait()
    processes = server.processes()
    assert sorted(process.role for process in processes) == [ROLE_OTHER, "server", "worker-1", "worker-2"]
    workers = {process.role: process.pid for process in processes}
    started = [psutil.Process(workers[role]).create_time() for role in ("server", "worker-1", "worker-2")]
    assert started == sorted(started)
    os.kill(workers["worker-1"], signal.SIGKILL)
    while psutil.pid_exists(workers["worker-1"]) and psutil.Process(workers["worker-1"]).status() != "zombie":
        time.sleep(0.01)
    assert [process.role for process in server.processes() if process.pid == workers["worker-2"]] == ["worker-2"]
    with pytest.raises(UntestableError, match="the server's worker-1 process died"):
        server.check_alive()


def test_a_crash_at_start_tells_its_exception_and_last_lines(launch):
    with pytest.raises(UntestableError) as caught:
        launch("crash").wait()
    assert caught.value.reason.startswith("RuntimeError: no stock")
    assert "exited with code 1" in caught.value.reason
    assert caught.value.log_tail.splitlines()[-1] == "RuntimeError: no stock"


def test_a_server_that_never_answers_is_given_up(launch):
    with pytest.raises(UntestableError, match=r"did not answer /up within 0\.5 s"):
        launch("hang", start_timeout_s=0.5).wait()


def test_a_tree_without_the_source_root_cannot_be_tested(launch):
    with pytest.raises(UntestableError, match="no folder lib in"):
        launch("serve", source_root="lib")


def test_a_program_that_is_not_there_is_named(launch):
    with pytest.raises(PerfguardError, match="cannot start /none/node"):
        launch("serve", line=("/none/node",))


def test_a_strategy_is_refused(launch):
    with pytest.raises(UsageError, match="strategy local can only be put into SGLang's servers"):
        launch("serve", strategy=Strategy.LOCAL)


def test_only_the_three_names_are_filled_in():
    spec = CommandSpec(line=("{python}", "-m", "{x}", '{"a": {port}}', "{tree}/{port}"))
    line = command_line(spec, python=Path("/p"), port=7, tree=Path("/t{port}"))
    assert line == ("/p", "-m", "{x}", '{"a": 7}', "/t{port}/7")
