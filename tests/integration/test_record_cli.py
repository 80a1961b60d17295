"""`perfguard record` on live processes: its document, its table, its exit codes."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
import zlib

import pytest

from perfguard.cli.main import run_cli
from perfguard.model.gpu import CardLoad, GpuResult
from perfguard.samplers.gpu import GpuSampler
from perfguard.samplers.pyspy import check_attach
from perfguard.workflows import record as record_workflow

SERVER = """
import threading, time
def hot_loop():
    while True:
        for _ in range(1000): pass
for name in ("first", "second"):
    threading.Thread(target=hot_loop, daemon=True, name=name).start()
print("up", flush=True)
time.sleep(120)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SERVER!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(120)
"""
needs_ptrace = pytest.mark.skipif(check_attach() is not None, reason="py-spy may not attach here")


@pytest.fixture
def start():
    children = []

    def run(*command):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        children.append(child)
        return child, child.stdout.readline().strip()

    yield run
    for child in children:
        subprocess.run(["kill", "--", f"-{child.pid}"], check=False, capture_output=True)
        child.communicate()


def record(tmp_path, *arguments):
    return run_cli(["record", "--duration", "1.5", "--output", str(tmp_path / "out"), *arguments])


@needs_ptrace
def test_the_document_tells_of_the_process_and_its_children(start, tmp_path, capsys):
    parent, child_pid = start(sys.executable, "-c", PARENT)
    assert record(tmp_path, "--pid", str(parent.pid), "--json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert json.loads((tmp_path / "out" / "record.json").read_text()) == document
    assert [process["pid"] for process in document["processes"]] == [parent.pid, int(child_pid)]
    assert "recording" in printed.err
    idle, busy = document["processes"]
    (sleeper,) = idle["threads"]
    assert (sleeper["gil_wait_frac"], sleeper["gil_hold_frac"]) == (0.0, 0.0)
    assert sleeper["off_cpu_frac"] > 0.95
    assert busy["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert busy["role"] == "python -c"
    spinners = [thread for thread in busy["threads"] if thread["tid"] != busy["pid"]]
    assert len(spinners) == 2
    for thread in spinners:
        parts = ("running_frac", "run_delay_frac", "gil_wait_frac", "off_cpu_frac")
        assert sum(thread[part] for part in parts) == pytest.approx(1.0)
        assert thread["off_cpu_frac"] < 0.05
        assert thread["top_frames"][0]["frame"].startswith("hot_loop (<string>")
        assert thread["working_frac"] + thread["polling_frac"] == pytest.approx(thread["running_frac"])
    assert sum(thread["gil_hold_frac"] for thread in spinners) > 0.8
    assert "hot_loop" in (tmp_path / "out" / busy["stacks"]).read_text()
    assert (idle["gil_frames"], idle["gil_frames_unknown"], idle["gil_wait_stacks"]) == ([], "", None)
    (hot,) = [frame for frame in busy["gil_frames"] if frame["frame"] == "hot_loop (<string>)"]
    assert hot["hold_s"] > 1.0
    assert "hot_loop (<string>:5)" in (tmp_path / "out" / busy["gil_hold_stacks"]).read_text()
    if hot["wait_s"] > 0.1:
        assert hot["held_meanwhile"][0]["frame"] == "hot_loop (<string>)"
        assert sum(held["wait_frac"] for held in hot["held_meanwhile"]) == pytest.approx(1.0)
    if max(thread["gil_wait_low_frac"] for thread in spinners) >= 0.2:  # two starved cores hide the waiting
        assert ["gil_contended", busy["pid"]] in [[found["rule"], found["pid"]] for found in document["findings"]]


def test_a_process_that_is_not_python_is_said_to_be_none(start, tmp_path, capsys):
    child, _ = start("sh", "-c", "echo up; exec sleep 60")
    assert record(tmp_path, "--pid", str(child.pid), "-q") == 0
    printed = capsys.readouterr()
    assert "GIL: cannot tell: not a CPython process" in printed.out
    assert "Findings: none" in printed.out
    assert printed.err == ""
    document = json.loads((tmp_path / "out" / "record.json").read_text())
    (thread,) = document["processes"][0]["threads"]
    assert thread["gil_wait_frac"] is None
    assert "not a CPython process" in thread["gil_unknown"]
    assert thread["off_cpu_frac"] > 0.9


@needs_ptrace
def test_memory_that_grows_is_told_and_found(start, tmp_path, capsys):
    grower = "import time; keep = []; print('up', flush=True)\nwhile 1: keep.append(b'x' * 2**20); time.sleep(0.05)"
    child, _ = start(sys.executable, "-c", grower)
    assert record(tmp_path, "--pid", str(child.pid), "-q") == 0
    document = json.loads((tmp_path / "out" / "record.json").read_text())
    (process,) = document["processes"]
    assert 5.0 < process["memory"]["bytes_per_s"] / 2**20 < 21.0
    assert ["memory_growth", child.pid] in [[found["rule"], found["pid"]] for found in document["findings"]]
    assert "MiB of it shared memory, +" in capsys.readouterr().out


@needs_ptrace
def test_bytes_through_its_sockets_are_told(start, tmp_path, capsys):
    talker = """
import socket, threading, time
listener = socket.create_server(("127.0.0.1", 0))
sender = socket.create_connection(listener.getsockname())
receiver, _ = listener.accept()
def receive():
    while receiver.recv(1 << 20): pass
threading.Thread(target=receive, daemon=True).start()
print("up", flush=True)
while True: sender.sendall(bytes(1 << 20)); time.sleep(0.05)
"""
    child, _ = start(sys.executable, "-c", talker)
    assert record(tmp_path, "--pid", str(child.pid), "-q") == 0
    (process,) = json.loads((tmp_path / "out" / "record.json").read_text())["processes"]
    tcp = process["tcp"]
    assert (tcp["connections"], tcp["unknown"]) == (2, "")
    assert tcp["sent_bytes"] == pytest.approx(tcp["received_bytes"], abs=2 << 20)
    assert 1 < tcp["sent_bytes"] / 2**20 / tcp["duration_s"] < 20.5
    assert f"TCP: {tcp['sent_bytes'] / 2**20 / tcp['duration_s']:.2f} MiB/s sent, " in capsys.readouterr().out


@needs_ptrace
def test_the_table_fits_into_eighty_columns_with_every_number(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    child, _ = start(sys.executable, "-c", SERVER)
    page = tmp_path / "page.html"
    assert record(tmp_path, "--pid", str(child.pid), "-q", "--report", str(page)) == 0
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "record.json").read_text())
    threads = document["processes"][0]["threads"]
    for thread in threads[:2]:
        (row,) = [line for line in printed.splitlines() if line.split()[:1] == [str(thread["tid"])] and ":" not in line]
        numbers = [f"{thread[part]:.1%}" for part in ("running_frac", "gil_hold_frac", "gil_wait_frac", "off_cpu_frac")]
        assert set(numbers) <= set(row.split())
        assert thread["name"].split()[0] in row
    assert "of its samples in hot_loop (<string>" in printed
    assert "not shown, since they did nothing: 1 of 3" in printed
    assert re.search(r"holds the GIL \d\.\d\d s in hot_loop \(<string>\)", printed)
    packed = re.search(r'id="flame-data">([^<]*)<', page.read_text()).group(1)
    flame = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert [layer["unit"]["name"] for layer in flame["layers"]] == ["ms holding the GIL", "ms waiting for the GIL"]
    spinning = [role for role in flame["roles"] if any(any(side) for side in role["layers"]["hold"]["self"])]
    assert len(spinning) >= 2
    held_ms = sum(sum(role["layers"]["hold"]["self"][0]) for role in spinning)
    assert 0.7 < held_ms / 1000 / document["duration_s"] < 1.1


def test_a_process_that_ends_while_it_is_recorded_ends_the_recording(start, tmp_path):
    child, _ = start(sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
    began_s = time.monotonic()
    killer = subprocess.Popen(["sh", "-c", f"sleep 3; kill -9 {child.pid}"])
    # Nobody reaps it before the end of this test: a process that waits to be reaped has ended, too.
    arguments = ["record", "--duration", "60", "--stack-rate", "0", "-q", "--output", str(tmp_path)]
    assert run_cli([*arguments, "--pid", str(child.pid)]) == 0
    killer.wait()
    assert time.monotonic() - began_s < 30
    process = json.loads((tmp_path / "record.json").read_text())["processes"][0]
    assert process["ended"]
    assert process["threads"][0]["looks"] > 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pid", "4194305"], "there is no process 4194305"),
        (["--name", "no-such-process-*"], "no process is called 'no-such-process-*'"),
        ([], "nothing to record"),
        (["--pid", "1", "--name", "x"], "exclude each other"),
        (["--pid", "1", "--duration", "0"], "--duration"),
        (["--pid", "0"], "--pid"),
    ],
)
def test_wrong_usage_is_one_line_and_129(arguments, said, capsys):
    assert run_cli(["record", *arguments]) == 129
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) <= 2


def test_a_name_finds_the_processes_that_bear_it(start, tmp_path, capsys):
    code = "import time; print('up', flush=True); time.sleep(60)"
    child, _ = start("bash", "-c", f"exec -a 'pgtest::scheduler_TP0' {sys.executable} -c \"{code}\"")
    assert record(tmp_path, "--name", "scheduler_TP*", "--stack-rate", "0", "--json", "-q") == 0
    (process,) = json.loads(capsys.readouterr().out)["processes"]
    assert process["pid"] == child.pid
    assert process["role"] == "pgtest::scheduler_TP0"


def test_a_process_that_may_not_be_read_is_125_with_a_mend(start, tmp_path, capsys, monkeypatch):
    child, _ = start(sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")

    def refuse(_pid):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(record_workflow, "ProcessMemory", refuse)
    assert record(tmp_path, "--pid", str(child.pid), "-q") == 125
    printed = capsys.readouterr().err
    assert "may not be read" in printed
    assert "mend: " in printed
    assert "scenario" not in printed


def test_cards_are_told_beside_the_machine(start, tmp_path, capsys, monkeypatch):
    card = CardLoad(
        index=0,
        name="Card",
        readings=15,
        busy_frac=0.25,
        memory_used_bytes=3 * 2**30,
        memory_total_bytes=80 * 2**30,
        power_w=250.0,
        pcie_sent_bytes_per_s=2.0 * 2**20,
        pcie_received_bytes_per_s=2.0**20,
        nvlink_sent_bytes_per_s=None,
        nvlink_received_bytes_per_s=None,
    )

    class Cards(GpuSampler):
        def stop(self):
            super().stop()
            return GpuResult(duration_s=1.5, cards=(card,))

    monkeypatch.setattr(record_workflow, "GpuSampler", Cards)
    child, _ = start(sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
    assert record(tmp_path, "--pid", str(child.pid), "--stack-rate", "0", "-q") == 0
    machine = json.loads((tmp_path / "out" / "record.json").read_text())["machine"]
    assert machine["cards"][0]["busy_frac"] == 0.25
    assert "card 0 Card: 25% busy; 3.0 of 80.0 GiB taken; 250 W; PCIe 2.0 MiB/s sent, 1.0 received" in (
        capsys.readouterr().out
    )


def test_a_machine_without_cards_says_why(start, tmp_path, monkeypatch):
    class Cards(GpuSampler):
        def stop(self):
            super().stop()
            return GpuResult(duration_s=1.5, cards=(), unknown="the driver knows of no card")

    monkeypatch.setattr(record_workflow, "GpuSampler", Cards)
    child, _ = start(sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
    assert record(tmp_path, "--duration", "0.5", "--pid", str(child.pid), "--stack-rate", "0", "-q") == 0
    machine = json.loads((tmp_path / "out" / "record.json").read_text())["machine"]
    assert (machine["cards"], machine["cards_unknown"]) == ([], "the driver knows of no card")
