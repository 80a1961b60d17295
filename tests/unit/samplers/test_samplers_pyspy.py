"""py-spy on real children with known functions, and on executables that fail in its ways."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from perfguard.evidence.stacks import parse_folded
from perfguard.model.errors import PerfguardError
from perfguard.samplers import pyspy
from perfguard.samplers.pyspy import PySpySampler, check_attach, find_py_spy

PROGRAM = """\
import threading
def inner_spin():
    while True:
        sum(range(2000))
def outer_spin():
    inner_spin()
def doze():
    threading.Event().wait()
threading.Thread(target=doze, name="dozing; thread", daemon=True).start()
print("up", flush=True)
outer_spin()
"""
# What py-spy 0.4 prints; its backtrace is cut short.
DENIED = """\
Permission Denied: Try running again with elevated permissions by going 'sudo env "PATH=$PATH" !!'
Error: Failed to get process executable name. Check that the process is running.

Caused by:
    0: Permission denied (os error 13)

Stack backtrace:
   0: <E as anyhow::context::ext::StdError>::ext_context
"""
BEGAN = "py-spy> Sampling process 100 times a second for 1000000 seconds. Press Control-C to exit."

needs_ptrace = pytest.mark.skipif(check_attach() is not None, reason="py-spy may not attach here")


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "known_program.py"
    path.write_text(PROGRAM)
    started = []

    def start() -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def fake(tmp_path: Path, script: str) -> Path:
    """Make an executable that stands for py-spy; `out` is its --output and `pid` its --pid."""
    path = tmp_path / "fake-py-spy"
    head = """
    import signal, sys, time
    out = sys.argv[sys.argv.index("--output") + 1]
    pid = sys.argv[sys.argv.index("--pid") + 1]
    """
    path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(head) + textwrap.dedent(script))
    path.chmod(0o755)
    return path


def sampler(tmp_path: Path, *processes: tuple[int, str], executable: Path | None = None, nonblocking: bool = True):
    return PySpySampler(
        processes, rate_hz=100, nonblocking=nonblocking, work_dir=tmp_path / "work", executable=executable
    )


@needs_ptrace
@pytest.mark.parametrize("nonblocking", [True, False])
def test_the_busy_function_is_found_with_its_file_and_line(program, tmp_path, nonblocking):
    process = program()
    with sampler(tmp_path, (process.pid, "rank-0"), nonblocking=nonblocking) as running:
        running.start()
        time.sleep(1.0)
        (profile,) = running.stop()
    assert (profile.role, profile.pid, profile.rate_hz) == ("rank-0", process.pid, 100)
    assert 0.9 < profile.duration_s < 3.0
    assert profile.samples == sum(int(line.rsplit(" ", 1)[1]) for line in profile.text.splitlines())
    assert profile.lost < profile.samples
    file = re.escape(str(tmp_path / "known_program.py"))
    busy = re.findall(
        rf"^thread \(\d+\): MainThread;<module> \({file}:11\);outer_spin \({file}:6\);inner_spin \({file}:4\) (\d+)$",
        profile.text,
        re.MULTILINE,
    )
    # A hundred on an idle machine.
    assert 20 < sum(map(int, busy)) <= 165
    # Blocking mode takes some threads that it has just stopped for running ones.
    assert not nonblocking or "doze" not in profile.text


@needs_ptrace
def test_each_process_has_its_own_profile_in_order(program, tmp_path):
    first, second = program(), program()
    with sampler(tmp_path, (second.pid, "rank-1"), (first.pid, "rank-0")) as running:
        running.start()
        time.sleep(0.5)
        profiles = running.stop()
    assert [(profile.pid, profile.role) for profile in profiles] == [(second.pid, "rank-1"), (first.pid, "rank-0")]
    assert all(profile.samples > 5 and profile.warnings == () for profile in profiles)


@needs_ptrace
def test_start_returns_once_samples_are_taken(program, tmp_path):
    process = program()
    with sampler(tmp_path, (process.pid, "rank-0")) as running:
        running.start()
        assert "Sampling process" in (tmp_path / "work" / f"py-spy-{process.pid}.log").read_text()
        running.stop()


@needs_ptrace
def test_a_process_that_dies_while_sampled_keeps_its_samples_and_warns(program, tmp_path):
    process = program()
    with sampler(tmp_path, (process.pid, "rank-0")) as running:
        began = time.monotonic()
        running.start()
        time.sleep(0.5)
        process.kill()
        process.wait()
        log = tmp_path / "work" / f"py-spy-{process.pid}.log"
        deadline = time.monotonic() + 5
        while "Samples:" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        (profile,) = running.stop()
    assert profile.samples > 5
    assert "inner_spin" in profile.text
    assert profile.warnings == (f"process {process.pid} ended while it was sampled",)
    assert 0.4 < profile.duration_s < time.monotonic() - began - 0.5


@needs_ptrace
def test_a_process_that_is_gone_is_a_warning_and_spares_the_others(program, tmp_path):
    gone, alive = program(), program()
    gone.kill()
    gone.wait()
    with sampler(tmp_path, (gone.pid, "rank-0"), (alive.pid, "rank-1")) as running:
        running.start()
        time.sleep(0.3)
        lost, kept = running.stop()
    assert (lost.text, lost.samples, lost.duration_s) == ("", 0, 0.0)
    (warning,) = lost.warnings
    assert warning.startswith("py-spy did not begin: Failed to")
    assert kept.samples > 0


def test_a_denial_names_the_process_and_what_mends_it(program, tmp_path):
    process = program()
    denied = fake(tmp_path, f"sys.stderr.write({DENIED!r}); sys.exit(1)")
    with pytest.raises(PerfguardError, match=rf"py-spy may not read process {process.pid} \(rank-0\): ") as caught:
        sampler(tmp_path, (process.pid, "rank-0"), executable=denied).start()
    assert caught.value.hint is not None
    assert "profiling.enabled = false" in caught.value.hint


def test_a_denial_of_one_process_ends_the_other_recorders(program, tmp_path):
    allowed, forbidden = program(), program()
    half = fake(
        tmp_path,
        f"""
        if pid == "{forbidden.pid}":
            time.sleep(0.3); sys.stderr.write({DENIED!r}); sys.exit(1)
        open(out + ".pid", "w").write(str(__import__("os").getpid()))
        print({BEGAN!r}, flush=True); time.sleep(600)
        """,
    )
    with pytest.raises(PerfguardError, match=str(forbidden.pid)):
        sampler(tmp_path, (allowed.pid, "rank-0"), (forbidden.pid, "rank-1"), executable=half).start()
    recorder = int((tmp_path / "work" / f"py-spy-{allowed.pid}.raw.pid").read_text())
    assert not Path(f"/proc/{recorder}").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_real_denial_is_recognised(program, tmp_path):
    process = program()
    executable = tmp_path / "as-nobody"
    executable.write_text(
        f"#!{sys.executable}\nimport os, sys\nos.setgid(65534); os.setuid(65534)\n"
        f"os.execv({str(find_py_spy())!r}, ['py-spy', *sys.argv[1:]])\n"
    )
    executable.chmod(0o755)
    with pytest.raises(PerfguardError, match="may not read process"):
        sampler(tmp_path, (process.pid, "rank-0"), executable=executable).start()


def test_lost_samples_and_falling_behind_are_read_from_its_words(program, tmp_path):
    talkative = fake(
        tmp_path,
        f"""
        def end(*_):
            open(out, "w").write("thread (1): A;f (/x.py:1) 30\\nthread (1): A;g; h (/x.py:2) 11\\n")
            for late in ("1.02s", "2.50s"):
                print("py-spy> " + late + " behind in sampling, results may be inaccurate.")
            print("py-spy> Wrote raw flamegraph data to 'x'. Samples: 41 Errors: 7", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGINT, end)
        print({BEGAN!r}, flush=True)
        time.sleep(600)
        """,
    )
    with sampler(tmp_path, (program().pid, "rank-0"), executable=talkative) as running:
        running.start()
        (profile,) = running.stop()
    assert (profile.samples, profile.lost) == (41, 7)
    assert profile.warnings == ("2.50s behind in sampling, results may be inaccurate. (said 2 times)",)


def test_its_own_cpu_is_told_from_when_it_samples(program, tmp_path):
    burning = fake(
        tmp_path,
        f"""
        import os
        def burn(seconds):
            end_s = time.process_time() + seconds
            while time.process_time() < end_s: pass
        def end(*_):
            print("py-spy> Wrote raw flamegraph data to 'x'. Samples: 1 Errors: 0", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGINT, end)
        burn(0.4)
        print({BEGAN!r}, flush=True)
        while not os.path.exists(out + ".go"): time.sleep(0.05)
        burn(0.2)
        open(out, "w").write("thread (1): A;f (/x.py:1) 1\\n")
        time.sleep(600)
        """,
    )
    process = program()
    with sampler(tmp_path, (process.pid, "rank-0"), executable=burning) as running:
        running.start()
        written = tmp_path / "work" / f"py-spy-{process.pid}.raw"
        Path(f"{written}.go").touch()
        while not (written.exists() and written.stat().st_size):
            time.sleep(0.01)
        (profile,) = running.stop()
    assert profile.sampler_cpu_s == pytest.approx(0.2, abs=0.06)  # the kernel tells it in hundredths of a second


def test_torn_stacks_are_lost_and_spoil_no_other(program, tmp_path):
    whole = ["thread (1): A;f (/x.py:1) 30\n", "thread (1): A;\x85odd\r (/x.py:2) 2\n"]
    torn = ["thread (1): A;{% for m in x %}\n{{ (assistant\n 7\n or 3 (/x.py:3) 1\n", "thread (1): A;cut off (/x"]
    tearing = fake(
        tmp_path,
        f"""
        def end(*_):
            open(out, "w", newline="").write({"".join([whole[0], torn[0], whole[1], torn[1]])!r})
            print("py-spy> Wrote raw flamegraph data to 'x'. Samples: 33 Errors: 4", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGINT, end)
        print({BEGAN!r}, flush=True)
        time.sleep(600)
        """,
    )
    with sampler(tmp_path, (program().pid, "rank-0"), executable=tearing) as running:
        running.start()
        (profile,) = running.stop()
    assert (profile.samples, profile.lost) == (32, 6)
    assert profile.text == "".join(whole)
    assert sum(stack.samples for stack in parse_folded(profile.text)) == 32


def test_a_recorder_that_dies_is_a_warning_with_its_last_words(program, tmp_path):
    dying = fake(
        tmp_path,
        f"""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print({BEGAN!r}, flush=True)
        time.sleep(0.2)
        print("Error: no room left")
        sys.exit(3)
        """,
    )
    with sampler(tmp_path, (program().pid, "rank-0"), executable=dying) as running:
        running.start()
        (profile,) = running.stop()
    assert profile.warnings == ("py-spy died (exit status 3): no room left",)
    assert profile.text == ""


def test_a_recorder_that_never_begins_or_never_ends_is_killed(program, tmp_path, monkeypatch):
    monkeypatch.setattr(pyspy, "_BEGIN_TIMEOUT_S", 0.3)
    monkeypatch.setattr(pyspy, "_FLUSH_TIMEOUT_S", 0.3)
    mute, deaf = program(), program()
    stuck = fake(
        tmp_path,
        f"""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if pid == "{deaf.pid}": print({BEGAN!r}, flush=True)
        time.sleep(600)
        """,
    )
    with sampler(tmp_path, (deaf.pid, "rank-1"), (mute.pid, "rank-0"), executable=stuck) as running:
        running.start()
        ignored, silent = running.stop()
    assert silent.warnings == ("py-spy did not begin within 0 s",)
    assert ignored.warnings[0].startswith("py-spy did not write its samples within 0 s")
    assert all(profile.text == "" for profile in (ignored, silent))


@needs_ptrace
def test_an_earlier_recording_never_passes_for_a_new_one(program, tmp_path):
    process = program()
    with sampler(tmp_path, (process.pid, "rank-0")) as running:
        running.start()
        time.sleep(0.3)
        assert running.stop()[0].text
    failing = fake(tmp_path, "print('Error: not today'); sys.exit(1)")
    with sampler(tmp_path, (process.pid, "rank-0"), executable=failing) as running:
        running.start()
        (profile,) = running.stop()
    assert profile.text == ""
    assert profile.warnings == ("py-spy did not begin: not today",)


@needs_ptrace
def test_leaving_the_context_ends_the_recorders(program, tmp_path):
    process = program()
    with sampler(tmp_path, (process.pid, "rank-0")) as running:
        running.start()
        (recorder,) = children("py-spy")
    assert not Path(f"/proc/{recorder}").exists()
    assert running.stop() == ()


@needs_ptrace
def test_recorders_die_with_a_killed_parent(program, tmp_path):
    process = program()
    script = f"""
import time
from pathlib import Path
from perfguard.samplers.pyspy import PySpySampler
s = PySpySampler([({process.pid}, "rank-0")], rate_hz=50, nonblocking=True, work_dir=Path({str(tmp_path)!r}))
s.start()
print("up", flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    (recorder,) = children("py-spy", parent=parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 5
    while alive(recorder) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(recorder)


def test_a_missing_executable_is_said_plainly(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PerfguardError, match="neither beside") as caught:
        find_py_spy()
    assert caught.value.hint == "install it: pip install py-spy"
    said = check_attach()
    assert said is not None
    assert "pip install py-spy" in said


def test_an_executable_on_the_path_is_found(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "py-spy").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "py-spy").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_py_spy() == tmp_path / "bin" / "py-spy"


def test_an_executable_that_cannot_run_is_an_error(program, tmp_path):
    broken = tmp_path / "py-spy"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    with pytest.raises(PerfguardError, match="cannot be started"):
        sampler(tmp_path, (program().pid, "rank-0"), executable=broken).start()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"import sys; sys.stderr.write({DENIED!r}); sys.exit(1)", "py-spy may not read other processes: "),
        ("import sys; print('Error: bad build'); sys.exit(1)", "py-spy cannot read a Python process: bad build"),
    ],
)
def test_doctor_hears_why_it_may_not_attach(tmp_path, script, words):
    path = tmp_path / "fake"
    path.write_text(f"#!{sys.executable}\n{script}\n")
    path.chmod(0o755)
    said = check_attach(path)
    assert said is not None
    assert said.startswith(words)


def children(name: str, parent: int | None = None) -> list[int]:
    parent = os.getpid() if parent is None else parent
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = text[text.rindex(")") + 2 :].split()
        if f"({name})" in text and int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
