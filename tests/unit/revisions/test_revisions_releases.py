from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from revisions_support import Recorder, make_wheel

from perfguard.model.errors import PerfguardError, UnknownRevisionError, UsageError
from perfguard.model.revision import HistoryKind
from perfguard.revisions import releases, wheels
from perfguard.revisions.releases import is_version, named_releases, release_history

_VERSIONS = ("0.9", "1.0", "1.0.post1", "1.1rc1", "1.1", "1.10")
_FAST_PIP = """#!/bin/sh
for last; do :; done
if [ "$1" = index ]; then
  echo "{\\"versions\\": [$(cd INDEX && ls *.whl | sed 's/pgdemo-\\([^-]*\\)-.*/"\\1"/' | paste -sd,)]}"
else
  while [ "$1" != --dest ]; do shift; done
  cp "INDEX/pgdemo-${last#*==}-py3-none-any.whl" "$2"
fi
"""

_PROGRAM = """
import sys
from pathlib import Path
from perfguard.model.progress import Silent
from perfguard.revisions import wheels
from perfguard.revisions.releases import release_history
wheels._PIP = (sys.argv[2],)
print("ready", flush=True)
release_history("pgdemo", "1.0", "1.10", cache_dir=Path(sys.argv[1]), progress=Silent())
"""


def _files(version):
    return {"pgdemo/__init__.py": f"VERSION = {version!r}\n", "pgdemo/fixed.py": "X = 1\n"}


@pytest.fixture
def pip_index(local_index):
    """The releases in a directory that the real pip takes for its index."""
    for version in _VERSIONS:
        make_wheel(local_index, version, _files(version))
    return local_index


@pytest.fixture
def index(pip_index, tmp_path, monkeypatch):
    """The same, asked through a stand-in that answers as pip does, in a hundredth of pip's time."""
    program = tmp_path / "fast_pip"
    program.write_text(_FAST_PIP.replace("INDEX", str(pip_index)))
    program.chmod(0o755)
    monkeypatch.setattr(wheels, "_PIP", (str(program),))
    return pip_index


def _history(cache_dir, recorder, good="1.0", bad="1.10"):
    return release_history("pgdemo", good, bad, cache_dir=cache_dir, progress=recorder)


def _labels(history, good, bad):
    return [revision.label for revision in history.between(good, bad).revisions]


@pytest.mark.usefixtures("pip_index")
def test_releases_become_revisions_in_version_order(cache_dir, recorder):
    history = _history(cache_dir, recorder)
    assert (history.kind, history.origin) == (HistoryKind.RELEASES, "pgdemo")
    assert _labels(history, "1.0", "1.10") == ["1.0", "1.0.post1", "1.1", "1.10"]
    revision = history.resolve("v1.1.0")
    assert (revision.label, revision.subject, revision.author) == ("1.1", "pgdemo 1.1", "pgdemo")
    assert history.resolve(revision.commit) == revision


@pytest.mark.usefixtures("index")
def test_pre_releases_count_where_an_end_is_one(cache_dir, recorder):
    assert _labels(_history(cache_dir, recorder, "1.1rc1", "1.10"), "1.1rc1", "1.10") == ["1.1rc1", "1.1", "1.10"]


@pytest.mark.usefixtures("index")
def test_a_release_is_checked_out_with_its_metadata_and_diffed(cache_dir, recorder):
    history = _history(cache_dir, recorder)
    tree = history.worktree(history.resolve("1.1"))
    assert (tree / "pgdemo/__init__.py").read_text() == "VERSION = '1.1'\n"
    assert (tree / "pgdemo-1.1.dist-info/METADATA").is_file()
    hunks = {hunk.path: hunk.text for hunk in history.hunks(history.resolve("1.1"))}
    assert hunks["pgdemo/__init__.py"] == "-VERSION = '1.0.post1'\n+VERSION = '1.1'"
    assert "pgdemo/fixed.py" not in hunks


@pytest.mark.usefixtures("index")
def test_the_same_wheels_give_the_same_hashes(tmp_path, recorder):
    found = [_history(tmp_path / cache, recorder).resolve("1.10").commit for cache in ("a", "b")]
    assert found[0] == found[1]


@pytest.mark.usefixtures("pip_index")
def test_a_second_call_downloads_nothing_and_works_without_the_index(cache_dir, recorder, monkeypatch):
    commit = _history(cache_dir, recorder).resolve("1.10").commit
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for wheel in cache_dir.rglob("*.whl"):
        wheel.unlink()
    again = Recorder()
    assert _history(cache_dir, again).resolve("1.10").commit == commit
    assert not any("downloading" in step for step in again.steps)
    assert any("using the list of releases of the last time" in line for line in again.said)
    with pytest.raises(PerfguardError, match=r"cannot download pgdemo 0\.9"):
        _history(cache_dir, again, "0.9", "1.10")


def test_an_index_that_never_answered_is_a_clear_error(cache_dir, recorder, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(PerfguardError, match="pip cannot reach its package index"):
        _history(cache_dir, recorder)


def test_a_version_that_the_index_dropped_is_still_there(index, cache_dir, recorder):
    before = _history(cache_dir, recorder).resolve("1.0").commit
    (index / "pgdemo-1.0-py3-none-any.whl").unlink()
    assert _history(cache_dir, recorder).resolve("1.0").commit == before
    assert any("no longer lists" in line for line in recorder.said)


def test_a_release_for_another_python_is_downloaded(local_index, cache_dir, recorder):
    make_wheel(local_index, "1.0", _files("1.0"))
    make_wheel(local_index, "1.10", _files("1.10"), requires_python="<3")
    assert _labels(_history(cache_dir, recorder), "1.0", "1.10") == ["1.0", "1.10"]


@pytest.mark.usefixtures("index")
def test_unknown_versions_bring_near_ones(cache_dir, recorder):
    with pytest.raises(UnknownRevisionError, match=r"pgdemo has no release 1\.0\.post7") as caught:
        _history(cache_dir, recorder, "1.0.post7", "1.10")
    assert "1.0.post1" in caught.value.hint
    with pytest.raises(UnknownRevisionError, match="is not a version"):
        _history(cache_dir, recorder, "main", "1.10")
    with pytest.raises(UnknownRevisionError, match=r"has no release 0\.9"):
        _history(cache_dir, recorder).resolve("0.9")


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("good", "bad", "message"), [("1.1", "1.0", "swap them"), ("1.1", "1.1.0", "the same release")]
)
def test_ends_must_be_in_order(cache_dir, recorder, good, bad, message):
    with pytest.raises(UsageError, match=message):
        _history(cache_dir, recorder, good, bad)


@pytest.mark.usefixtures("pip_index")
@pytest.mark.parametrize(("package", "message"), [("pg-nothing", "cannot list"), ("--help", "not a package name")])
def test_unknown_packages(cache_dir, recorder, package, message):
    with pytest.raises(UsageError, match=message):
        release_history(package, "1.0", "1.1", cache_dir=cache_dir, progress=recorder)


def test_a_source_only_release_is_a_clear_error(pip_index, cache_dir, recorder):
    (pip_index / "pgdemo-1.1-py3-none-any.whl").unlink()
    (pip_index / "pgdemo-1.1.tar.gz").write_bytes(b"")
    with pytest.raises(PerfguardError, match=r"cannot download pgdemo 1\.1: it has no wheel"):
        _history(cache_dir, recorder, "1.1", "1.10")


@pytest.mark.usefixtures("index")
def test_a_truncated_wheel_in_the_cache_is_downloaded_again(cache_dir, recorder):
    _history(cache_dir, recorder, "1.0", "1.1")
    wheel = next(cache_dir.rglob("pgdemo-1.1-*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:100])
    assert _history(cache_dir, recorder).resolve("1.1").label == "1.1"


@pytest.mark.usefixtures("index")
def test_a_corrupt_wheel_is_removed_and_said(cache_dir, recorder):
    _history(cache_dir, recorder, "1.0", "1.1")
    wheel = next(cache_dir.rglob("pgdemo-1.1-*.whl"))
    content = bytearray(wheel.read_bytes())
    content[60] ^= 0xFF  # inside the first file's data: its checksum no longer fits
    wheel.write_bytes(bytes(content))
    with pytest.raises(PerfguardError, match="was damaged and has been removed"):
        _history(cache_dir, recorder)
    assert _history(cache_dir, recorder).resolve("1.1").label == "1.1"


@pytest.mark.parametrize("path", ["../evil.py", "/etc/evil.py", "pgdemo/.git/config", "a//b.py", "pgdemo\\evil.py"])
def test_a_wheel_that_would_write_elsewhere_is_refused(index, cache_dir, recorder, path):
    make_wheel(index, "1.1", {path: "evil\n"})
    with pytest.raises(PerfguardError, match="unsafe path"):
        _history(cache_dir, recorder)


def test_files_of_a_data_directory_land_where_an_installer_puts_them(index, cache_dir, recorder):
    make_wheel(index, "1.1", {"pgdemo-1.1.data/purelib/pgdemo/moved.py": "", "pgdemo-1.1.data/scripts/run": ""})
    history = _history(cache_dir, recorder)
    tree = history.worktree(history.resolve("1.1"))
    assert (tree / "pgdemo/moved.py").is_file()
    assert not (tree / "scripts").exists()


def test_unusual_names_and_ignored_files_are_kept(index, cache_dir, recorder):
    names = {'pgdemo/a "b" ü.py': "1\n", "pgdemo/.gitignore": "*.log\n", "pgdemo/x.log": "kept\r\n"}
    make_wheel(index, "1.1", {**names, ".gitattributes": "*.py text eol=crlf\n"})
    history = _history(cache_dir, recorder)
    tree = history.worktree(history.resolve("1.1"))
    assert {name: (tree / name).exists() for name in names} == dict.fromkeys(names, True)
    assert (tree / "pgdemo/x.log").read_bytes() == b"kept\r\n"


@pytest.mark.usefixtures("index")
def test_a_damaged_history_is_made_again(cache_dir, recorder):
    commit = _history(cache_dir, recorder).resolve("1.10").commit
    for pack in cache_dir.rglob("*.pack"):
        pack.unlink()
    for manifest in cache_dir.rglob("histories/*.json"):
        manifest.write_text(manifest.read_text()[:40])
    assert _history(cache_dir, recorder).resolve("1.10").commit == commit


@pytest.mark.usefixtures("index")
def test_objects_that_vanished_are_noticed(cache_dir, recorder):
    commit = _history(cache_dir, recorder).resolve("1.10").commit
    for stored in (*cache_dir.rglob("*.pack"), *cache_dir.rglob("*.idx")):
        stored.unlink()
    for loose in cache_dir.glob("releases/pgdemo/pgdemo.git/objects/??/*"):
        loose.unlink()
    assert _history(cache_dir, recorder).resolve("1.10").commit == commit


@pytest.mark.usefixtures("index")
def test_kill_9_at_any_moment_is_repaired_by_the_next_call(cache_dir, tmp_path):
    commit = _history(tmp_path / "other", Recorder()).resolve("1.10").commit
    for delay_s in (0.0, 0.02, 0.04, 0.08, 0.12):
        command = [sys.executable, "-c", _PROGRAM, str(cache_dir), *wheels._PIP]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    store = cache_dir / "releases/pgdemo/pgdemo.git"
    if store.is_dir():
        (store / "refs/heads/latest-import.lock").write_text("")
    assert _history(cache_dir, Recorder()).resolve("1.10").commit == commit
    assert not list((cache_dir / "releases/pgdemo").glob(".tmp-*"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5.4", True),
        ("0.5.4.post2", True),
        ("v0.5.5", True),
        ("1.0rc1", True),
        ("main", False),
        ("HEAD~3", False),
        ("32438eba4", False),
        ("4096", False),
        ("12a4567", False),
        ("", False),
    ],
)
def test_tells_versions_from_commits(text, expected):
    assert is_version(text) is expected


def test_reads_both_of_pips_listings():
    plain = "pgdemo (1.10)\nAvailable versions: 1.10, 1.1, 1.0.post1, 1.0\n  INSTALLED: 1.0\n"
    listed = json.dumps({"name": "pgdemo", "versions": ["1.10", "1.1", "1.0.post1", "1.0", "not-a-version"]})
    expected = ["1.0", "1.0.post1", "1.1", "1.10"]
    assert [str(version) for version in wheels.parse_plain_list(plain)] == expected
    assert [str(version) for version in wheels.parse_json_list(listed)] == expected


@pytest.mark.usefixtures("pip_index")
def test_an_old_pip_without_json_is_asked_for_its_plain_list(monkeypatch, tmp_path):
    old_pip = tmp_path / "old_pip.py"
    old_pip.write_text(
        "import subprocess, sys\n"
        "if '--json' in sys.argv:\n"
        "    sys.stderr.write('no such option: --json\\n'); sys.exit(2)\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'pip', *sys.argv[1:]]))\n"
    )
    monkeypatch.setattr(wheels, "_PIP", (sys.executable, str(old_pip)))
    assert [str(version) for version in wheels.list_versions("pgdemo")] == list(_VERSIONS)


@pytest.mark.usefixtures("index")
def test_a_python_without_pip_is_said(cache_dir, recorder, monkeypatch, tmp_path):
    no_pip = tmp_path / "no_pip.py"
    no_pip.write_text("import sys; sys.exit('python: No module named pip')\n")
    monkeypatch.setattr(wheels, "_PIP", (sys.executable, str(no_pip)))
    with pytest.raises(PerfguardError, match="has no pip"):
        _history(cache_dir, recorder)


@pytest.mark.usefixtures("index")
def test_a_new_layout_makes_the_history_again(cache_dir, recorder, monkeypatch):
    _history(cache_dir, recorder)
    monkeypatch.setattr(releases, "_LAYOUT", releases._LAYOUT + 1)
    again = Recorder()
    _history(cache_dir, again)
    assert any(step.startswith("unpacking") for step in again.steps)


@pytest.mark.usefixtures("pip_index")
def test_named_releases_are_just_those_in_any_order(cache_dir, recorder):
    history = named_releases("pgdemo", ("1.10", "1.0"), cache_dir=cache_dir, progress=recorder)
    assert [history.resolve(version).label for version in ("1.0", "1.10")] == ["1.0", "1.10"]
    with pytest.raises(UnknownRevisionError):
        history.resolve("1.1")
    alone = named_releases("pgdemo", ("1.1",), cache_dir=cache_dir, progress=recorder)
    assert (alone.worktree(alone.resolve("1.1")) / "pgdemo").is_dir()
    with pytest.raises(UnknownRevisionError, match=r"no release 7\.7"):
        named_releases("pgdemo", ("7.7",), cache_dir=cache_dir, progress=recorder)
