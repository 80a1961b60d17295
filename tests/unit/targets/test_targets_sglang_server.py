"""The server's whole life, on a small stand-in that behaves, crashes, hangs or lies on order."""

from __future__ import annotations

import os
import signal
import socket
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from perfguard.model.errors import PerfguardError, UntestableError
from perfguard.model.scenario import Device, Strategy, TargetKind, TargetSpec, VisionTower
from perfguard.targets.server_records import read_stand_ins
from perfguard.targets.sglang_server import start_server

# Takes the server's arguments; its behaviour is ordered by FAKE, its state kept in FAKE_STATE.
FAKE_SERVER = """
import os, signal, subprocess, sys, tempfile, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
order, state = os.environ["FAKE"], os.environ["FAKE_STATE"]
port = int(next(a for a in sys.argv if a.startswith("--port=")).removeprefix("--port="))
if order == "hang": time.sleep(600)
if order == "lie": print("I never listen", flush=True); time.sleep(600)
if order == "import-error": from sglang.srt.utils import gone
if order == "oom": os.kill(os.getpid(), signal.SIGKILL)
if order == "address-taken" or (order == "address-taken-once" and not os.path.exists(state)):
    open(state, "w").close()
    sys.exit("OSError: [Errno 98] Address already in use")
tempfile.NamedTemporaryFile(delete=False)
def worker(title):
    return subprocess.Popen([title, "-S", "-c", "import time; time.sleep(600)"], executable=sys.executable)
workers = [worker(t) for t in ("sglang::scheduler_TP1", "sglang::scheduler_TP0", "sglang::detokenizer", "helper")]
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        missing = self.path == "/get_load" and order == "no-load-endpoint"
        self.send_response(404 if missing else 200)
        self.end_headers()
        if self.path == "/get_load" and not missing:
            left = int(open(state).read()) if os.path.exists(state) else 0
            if left and order == "drains": open(state, "w").write(str(left - 1))
            self.wfile.write(b'[{"dp_rank": 0, "num_reqs": %d, "num_waiting_reqs": 0}]' % left)
try:
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
finally:
    for w in workers: w.kill()
"""


@pytest.fixture
def tree(tmp_path):
    package = tmp_path / "tree" / "python" / "sglang"
    (package / "srt").mkdir(parents=True)
    for module in (package, package / "srt"):
        (module / "__init__.py").touch()
    (package / "srt" / "utils.py").touch()
    (package / "version.py").write_text('__version__ = "0.0.1"\n')
    (package / "launch_server.py").write_text(textwrap.dedent(FAKE_SERVER))
    return tmp_path / "tree"


@pytest.fixture
def serve(tree, tmp_path):
    def start(order, *, start_timeout_s=20.0, **options):
        target = TargetSpec(
            kind=TargetKind.SGLANG_SERVER,
            device=Device.CPU,
            tensor_parallel_size=2,
            model=None,
            vision_tower=VisionTower.REAL,
            environment_spec="cpu",
            extra_args=(),
            extra_environment=(("FAKE", order), ("FAKE_STATE", str(tmp_path / "state"))),
            start_timeout_s=start_timeout_s,
            drain_timeout_s=5.0,
        )
        return start_server(
            target,
            source_tree=tree,
            python=Path(sys.executable),
            work_dir=tmp_path / "work",
            model_path=tmp_path / "model",
            **options,
        )

    return start


@pytest.fixture(autouse=True)
def _nothing_survives(tmp_path, monkeypatch):
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    yield
    assert list(temp.iterdir()) == []
    assert [p.info for p in psutil.process_iter(["pid", "cmdline"]) if str(temp) in _working_dir(p)] == []


def _working_dir(process):
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def test_a_server_lives_and_is_gone_afterwards(serve):
    with serve("") as server:
        port = int(server.base_url.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        roles = {process.role: process.pid for process in server.processes()}
        assert set(roles) == {"tokenizer", "rank-0", "rank-1", "detokenizer", "other"}
        server.check_alive()
        server.drain(5)
        report = server.report
        assert report.start_s > 0
        assert "--tp-size=2" in report.command
        assert ("sglang", "0.0.1") in report.packages
    assert not any(psutil.pid_exists(pid) for pid in roles.values())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_the_server_is_gone_after_an_error_in_the_body_too(serve):
    pids = []

    def run():
        with serve("") as server:
            pids.extend(process.pid for process in server.processes())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_server_that_does_not_import_is_untestable_at_once_and_says_why(serve):
    begin = time.monotonic()
    with pytest.raises(UntestableError) as caught, serve("import-error", start_timeout_s=60):
        pass
    assert time.monotonic() - begin < 10
    assert caught.value.reason.startswith("ImportError: cannot import name 'gone' from 'sglang.srt.utils'")
    assert caught.value.reason.endswith("(sglang/launch_server.py:8) (server exited with code 1 during start)")
    assert "Traceback" in caught.value.log_tail


def test_a_server_killed_from_outside_hints_at_memory(serve):
    with (
        pytest.raises(UntestableError, match=r"no exception in the log \(server was ended by SIGKILL") as caught,
        serve("oom"),
    ):
        pass
    assert "memory" in str(caught.value.hint)


def test_a_server_that_hangs_is_untestable_after_its_time(serve):
    with (
        pytest.raises(UntestableError, match=r"did not answer /health within 0\.5 s"),
        serve("hang", start_timeout_s=0.5),
    ):
        pass


def test_a_named_port_that_is_taken_is_refused_before_anything_starts(serve, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PerfguardError, match=f"port {port} on 127.0.0.1 is taken") as caught, serve("", port=port):
            pass
    assert caught.value.hint
    assert not isinstance(caught.value, UntestableError)
    assert not (tmp_path / "work" / "server.log").exists()


def test_a_race_for_a_free_port_is_tried_once_more(serve, tmp_path):
    with serve("address-taken-once") as server:
        server.check_alive()
    assert (tmp_path / "state").exists()


def test_a_second_lost_race_is_untestable(serve):
    with pytest.raises(UntestableError, match="Address already in use"), serve("address-taken"):
        pass


def test_another_program_that_answers_in_the_servers_place_is_not_believed(serve, monkeypatch):
    class Impostor(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    impostor = HTTPServer(("127.0.0.1", 0), Impostor)
    threading.Thread(target=impostor.serve_forever, daemon=True).start()
    monkeypatch.setattr("perfguard.targets.running.free_port", lambda: impostor.server_port)
    try:
        with pytest.raises(UntestableError, match="did not answer"), serve("lie", start_timeout_s=1.5):
            pass
    finally:
        impostor.shutdown()
        impostor.server_close()


def check_for_a_while(server):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        server.check_alive()
        time.sleep(0.01)


def test_a_rank_that_dies_is_noticed(serve):
    with serve("") as server:
        rank = next(process.pid for process in server.processes() if process.role == "rank-1")
        os.kill(rank, signal.SIGKILL)
        with pytest.raises(UntestableError, match="rank-1 process died"):
            check_for_a_while(server)


def test_a_helper_that_ends_is_no_failure(serve):
    with serve("") as server:
        os.kill(next(process.pid for process in server.processes() if process.role == "other"), signal.SIGKILL)
        time.sleep(0.2)
        server.check_alive()


def test_a_server_that_dies_under_load_is_noticed(serve):
    with serve("") as server:
        os.kill(server.processes()[0].pid, signal.SIGTERM)
        with pytest.raises(UntestableError, match="server was ended by SIGTERM while it ran"):
            check_for_a_while(server)


def test_drain_waits_for_the_last_request(serve, tmp_path):
    with serve("drains") as server:
        (tmp_path / "state").write_text("3")
        server.drain(5)
        assert (tmp_path / "state").read_text() == "0"


def test_a_server_that_does_not_drain_is_untestable(serve, tmp_path):
    with serve("stuck") as server:
        (tmp_path / "state").write_text("2")
        with pytest.raises(UntestableError, match=r"did not drain within 0.5 s: 2 requests still run"):
            server.drain(0.5)


def test_a_revision_without_the_load_endpoint_drains(serve):
    with serve("no-load-endpoint") as server:
        server.drain(5)


def test_stand_ins_are_listed_once_with_the_kernels_that_were_called(tmp_path):
    line = '{"pid": 1, "replaced": "sgl_kernel", "detail": "names resolve"}\n'
    (tmp_path / "1.jsonl").write_text(line + '{"pid": 1, "shm": "psm_1", "inode": 3}\n')
    (tmp_path / "2.jsonl").write_text(line + '{"pid": 2, "called": "sgl_kernel.rmsnorm"}\n')
    (tmp_path / "3.jsonl").write_text('{"pid": 3, "computed": "sgl_kernel.silu_and_mul"}\n')
    assert read_stand_ins(tmp_path) == (
        "sgl_kernel.rmsnorm: called, and raised, because it is a stand-in",
        "sgl_kernel.silu_and_mul: called, and computed in plain torch by the stand-in",
        "sgl_kernel: names resolve",
    )


def test_a_strategy_that_nothing_put_in_is_untestable(serve):
    with (
        pytest.raises(UntestableError, match="strategy local was not put in: the revision has no module"),
        serve("behave", strategy=Strategy.LOCAL),
    ):
        pass
