from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from revisions_support import Recorder, make_wheel

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.revisions import environments
from perfguard.revisions.environments import EnvironmentManager, site_packages
from perfguard.revisions.installers import ask_interpreter
from perfguard.revisions.specs import EnvironmentSpec, InstallStep, bundled_specs, load_spec

_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"

# Makes environments in milliseconds; logs its arguments; `UV_FAKE` says how to behave on the second install.
_FAKE_UV = f"""#!/bin/sh
echo "$*" >> "$UV_LOG"
if [ "$1" = venv ]; then
  for last; do :; done
  mkdir -p "$last/bin" "$last/lib/python{_MINOR}/site-packages"
  ln -s {sys.executable} "$last/bin/python"
  exit 0
fi
case "$UV_FAKE$*" in
  full*--no-deps*) echo "Resolving"; echo "error: failed to write: No space left on device (os error 28)"; exit 2;;
  broken*--no-deps*) echo "Resolving"; echo "error: no version of second found"; exit 1;;
  slow*--no-deps*) echo "installing"; touch "$UV_LOG.waiting"; sleep 1.5; echo done >> "$UV_LOG";;
esac
python=$(echo "$*" | sed 's/.*--python \\([^ ]*\\).*/\\1/')
for last; do :; done
info="$(dirname "$(dirname "$python")")/lib/python{_MINOR}/site-packages/$last-1.0.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\\nName: %s\\nVersion: 1.0\\n' "$last" > "$info/METADATA"
echo "Installed $last"
"""

_PROGRAM = """
import sys
from pathlib import Path
from perfguard.model.progress import Silent
from perfguard.revisions.environments import EnvironmentManager
from perfguard.revisions.specs import load_spec
EnvironmentManager(Path(sys.argv[1]), installer="uv").ensure(load_spec(sys.argv[2]), python=None, progress=Silent())
"""

_SPEC_TEXT = """
name = "demo"
summary = "two packages"
requires_python = ">=3.10"
expected_size_bytes = 1000
expected_time_s = 3
[[steps]]
packages = ["first"]
[[steps]]
no_deps = true
packages = ["second"]
"""


@pytest.fixture
def spec_file(tmp_path):
    file = tmp_path / "demo.toml"
    file.write_text(_SPEC_TEXT)
    return file


@pytest.fixture
def spec(spec_file):
    return load_spec(str(spec_file))


@pytest.fixture
def uv_log(tmp_path, monkeypatch):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "uv").write_text(_FAKE_UV)
    (binaries / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setenv("UV_LOG", str(tmp_path / "uv.log"))
    return tmp_path / "uv.log"


@pytest.fixture
def manager(cache_dir, uv_log):
    return EnvironmentManager(cache_dir, installer="uv")


def test_pip_makes_an_environment_that_imports_what_was_asked_for(local_index, cache_dir, recorder):
    make_wheel(local_index, "1.0", {"pgdemo/__init__.py": "VALUE = 42\n"})
    demo = EnvironmentSpec(
        name="tiny",
        summary="one package",
        requires_python=">=3.10",
        expected_size_bytes=30_000_000,
        expected_time_s=5,
        steps=(InstallStep(packages=("pgdemo",)),),
    )
    manager = EnvironmentManager(cache_dir)
    made = manager.ensure(demo, python=None, progress=recorder)
    ran = subprocess.run([made.python, "-c", "import pgdemo; print(pgdemo.VALUE)"], capture_output=True, check=True)
    assert ran.stdout == b"42\n"
    assert ("pgdemo", "1.0") in made.packages
    assert (site_packages(made) / "pgdemo/__init__.py").is_file()
    assert made.size_bytes > 1_000_000
    assert any("pgdemo" in step for step in recorder.steps)
    assert "0.0 GB" in recorder.said[0]
    failing = EnvironmentSpec(
        name="failing",
        summary="a package that does not exist",
        requires_python=">=3.10",
        expected_size_bytes=30_000_000,
        expected_time_s=5,
        steps=(InstallStep(packages=("pgdemo",)), InstallStep(packages=("pg-nothing",))),
    )
    with pytest.raises(
        PerfguardError, match=r"(?s)step 2 of 2 .* pip said last:.*No matching distribution.*pg-nothing"
    ):
        manager.ensure(failing, python=None, progress=recorder)
    assert not manager.path(failing).exists()


def test_uv_runs_the_steps_in_order(manager, spec, recorder, uv_log):
    made = manager.ensure(spec, python=None, progress=recorder)
    calls = uv_log.read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["venv", "pip", "pip"]
    assert calls[1].endswith(f"--python {made.python} first")
    assert calls[2].endswith(f"--python {made.python} --no-deps second")
    assert made.packages == (("first", "1.0"), ("second", "1.0"))
    assert (made.path, made.name) == (manager.path(spec), "demo")
    assert made.key == made.path.name


def test_an_environment_is_made_once_and_listed(manager, spec, recorder, uv_log):
    assert manager.list() == ()
    made = manager.ensure(spec, python=None, progress=recorder)
    calls = uv_log.read_text()
    assert manager.ensure(spec, python=None, progress=recorder) == made
    assert manager.list() == (made,)
    assert uv_log.read_text() == calls


def test_size_time_and_note_are_told_before_the_start(manager, spec_file, recorder):
    noted = load_spec(str(_with(spec_file, "expected_time_s = 3", 'expected_time_s = 240\nnote = "mind the gap"')))
    manager.ensure(noted, python=None, progress=recorder)
    assert "about 4 min" in recorder.said[0]
    assert recorder.said[1] == "mind the gap"


def _with(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def test_the_key_follows_what_is_installed_and_nothing_else(manager, spec, spec_file):
    same = load_spec(str(_with(spec_file, "two packages", "2 packages")))
    other = load_spec(str(_with(spec_file, '"second"', '"second==2"')))
    dependencies = load_spec(str(_with(spec_file, "no_deps = true\n", "")))
    assert manager.path(same) == manager.path(spec)
    assert len({manager.path(spec), manager.path(other), manager.path(dependencies)}) == 3
    assert manager.path(spec).name.startswith(f"demo-py{_MINOR}-")


def test_a_failing_step_is_named_and_leaves_nothing(manager, spec, recorder, monkeypatch):
    monkeypatch.setenv("UV_FAKE", "broken")
    with pytest.raises(PerfguardError, match=r"(?s)step 2 of 2 .*no version of second found"):
        manager.ensure(spec, python=None, progress=recorder)
    assert manager.list() == ()
    assert not manager.path(spec).exists()


def test_a_disk_that_fills_up_is_said(manager, spec, recorder, monkeypatch):
    monkeypatch.setenv("UV_FAKE", "full")
    with pytest.raises(PerfguardError, match="no space left on the disk"):
        manager.ensure(spec, python=None, progress=recorder)


def test_too_little_space_is_said_before_anything_starts(manager, spec, recorder, monkeypatch, uv_log):
    monkeypatch.setattr(environments.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_299))
    with pytest.raises(PerfguardError, match="of disk is free"):
        manager.ensure(spec, python=None, progress=recorder)
    assert not uv_log.exists()
    monkeypatch.setattr(environments.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_300))
    manager.ensure(spec, python=None, progress=recorder)


def test_a_python_that_does_not_fit_is_refused(manager, spec_file, recorder):
    future = load_spec(str(_with(spec_file, ">=3.10", ">=4")))
    with pytest.raises(UsageError, match=r"needs Python >=4; .* is 3\."):
        manager.ensure(future, python=None, progress=recorder)


@pytest.mark.parametrize(
    ("python", "message"), [("/no/such/python", "there is no Python"), ("true", "does not answer")]
)
def test_what_is_no_python_is_refused(manager, spec, recorder, python, message):
    with pytest.raises(UsageError, match=message):
        manager.ensure(spec, python=python, progress=recorder)


def test_the_asked_python_is_perfguards_own_by_default():
    asked = ask_interpreter(None)
    assert asked.minor == _MINOR
    assert asked == ask_interpreter(sys.executable)


def test_what_has_no_manifest_is_wiped(manager, spec, recorder):
    half_made = manager.path(spec)
    (half_made / "lib").mkdir(parents=True)
    (half_made / "lib/stray").write_text("half")
    assert manager.list() == ()
    made = manager.ensure(spec, python=None, progress=recorder)
    assert made.path == half_made
    assert not (half_made / "lib/stray").exists()


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"packages": [1]}'])
def test_a_damaged_manifest_means_half_made(manager, spec, recorder, manifest):
    made = manager.ensure(spec, python=None, progress=recorder)
    (made.path / "perfguard-environment.json").write_text(manifest)
    assert manager.list() == ()
    assert manager.ensure(spec, python=None, progress=recorder).packages == made.packages


def test_an_environment_whose_python_is_gone_is_made_anew(manager, spec, recorder):
    made = manager.ensure(spec, python=None, progress=recorder)
    made.python.unlink()
    made.python.symlink_to("/no/such/python")
    assert manager.list() == ()
    assert os.access(manager.ensure(spec, python=None, progress=recorder).python, os.X_OK)


def test_remove_takes_a_key_or_a_name_and_leftovers_too(manager, spec, spec_file, recorder):
    first = manager.ensure(spec, python=None, progress=recorder)
    second = manager.ensure(load_spec(str(_with(spec_file, '"second"', '"third"'))), python=None, progress=recorder)
    leftover = first.path.with_name(f"demo-py{_MINOR}-0123456789ab")
    leftover.mkdir()
    assert manager.remove(first.key) == (first,)
    assert manager.list() == (second,)
    assert manager.remove("demo") == (second,)
    assert not leftover.exists()
    with pytest.raises(UsageError, match="there is no managed environment 'demo'"):
        manager.remove("demo")


def test_ctrl_c_stops_the_installer_and_removes_what_was_begun(manager, spec, uv_log, monkeypatch):
    class Interrupting(Recorder):
        def step(self, message):
            if message == "installing":
                raise KeyboardInterrupt

    monkeypatch.setenv("UV_FAKE", "slow")
    with pytest.raises(KeyboardInterrupt):
        manager.ensure(spec, python=None, progress=Interrupting())
    assert not manager.path(spec).exists()
    time.sleep(1.8)  # longer than the slow step: had it gone on, it would be done by now
    assert "done" not in uv_log.read_text().splitlines()


def test_kill_9_leaves_nothing_that_is_used_and_its_orphan_is_waited_for(
    manager, spec_file, uv_log, recorder, monkeypatch
):
    spec = load_spec(str(spec_file))
    cache_dir = manager.path(spec).parent.parent
    monkeypatch.setenv("UV_FAKE", "slow")
    child = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(cache_dir), str(spec_file)])
    waiting = Path(f"{uv_log}.waiting")
    deadline = time.monotonic() + 20
    while not waiting.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert manager.list() == ()
    monkeypatch.delenv("UV_FAKE")
    made = manager.ensure(spec, python=None, progress=recorder)
    assert any("waiting for another perfguard" in line for line in recorder.said)
    calls = uv_log.read_text().splitlines()
    assert calls.index("done") < max(number for number, call in enumerate(calls) if call.startswith("venv"))
    assert made.packages == (("first", "1.0"), ("second", "1.0"))


def test_two_perfguards_make_it_once(spec_file, cache_dir, uv_log, manager):
    command = [sys.executable, "-c", _PROGRAM, str(cache_dir), str(spec_file)]
    children = [subprocess.Popen(command) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert uv_log.read_text().count("venv ") == 1
    assert len(manager.list()) == 1


def test_a_missing_uv_is_said(cache_dir, spec, recorder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("uv") is None
    with pytest.raises(PerfguardError, match="uv was not found"):
        EnvironmentManager(cache_dir, installer="uv").ensure(spec, python=None, progress=recorder)


def test_the_bundled_spec_pins_what_the_shims_need():
    (bundled,) = bundled_specs()
    assert bundled == load_spec("sglang-cpu")
    assert "torch==2.13.0" in bundled.steps[0].packages
    assert [step.no_deps for step in bundled.steps] == [False, True]
    assert bundled.allows_python("3.10.0")
    assert bundled.allows_python("3.12.9")
    assert not bundled.allows_python("3.13.0")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("no_deps", "no_dep", "unknown key 'no_dep'"),
        ("summary", "sumary", "unknown key 'sumary'"),
        ('name = "demo"', "", "name"),
        ('name = "demo"', 'name = "../demo"', "plain name"),
        ('"first"', '"--index-url=x"', "is an option"),
        (">=3.10", "about 3", "Invalid specifier"),
        ("[[steps]]", "[[steps", "not a valid environment spec"),
        ("expected_time_s = 3", 'expected_time_s = "long"', "expected_time_s"),
    ],
)
def test_a_wrong_spec_is_refused(spec_file, old, new, message):
    with pytest.raises(UsageError, match=message):
        load_spec(str(_with(spec_file, old, new)))


def test_an_unknown_spec_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no environment spec 'nothing'") as caught:
        load_spec("nothing")
    assert "sglang-cpu" in caught.value.hint
    with pytest.raises(UsageError, match="cannot read"):
        load_spec(str(tmp_path / "nothing.toml"))
