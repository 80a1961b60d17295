"""The command line as people and scripts meet it: help, exit codes, one clear line for each mistake."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "report"))

import sample_results

from perfguard.cli.main import run_cli
from perfguard.report.index_entry import write_entry
from perfguard.store import RunStore
from perfguard.workflows.scenarios import load_scenario

VERBS = (
    "bisect", "compare", "run", "study", "tune", "record", "analyze", "report", "load", "log", "nightly",
    "accept", "history", "site", "publish", "scenarios", "doctor", "env", "bundle",
)  # fmt: skip


@pytest.fixture
def perfguard(tmp_path):
    environment = {
        **os.environ,
        "PERFGUARD_CACHE_DIR": str(tmp_path / "cache"),
        "PERFGUARD_RUNS_DIR": str(tmp_path / "runs"),
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "perfguard.cli.main", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )

    return call


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in this process, in an empty folder: starting Python for each of many mistakes takes a second each."""
    monkeypatch.setenv("PERFGUARD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PERFGUARD_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def make_clone(path, commits=3):
    """Make a small repository, each commit a change of one file; returns the hashes."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(path), "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    path.mkdir()
    git("init", "-q", "-b", "main")
    hashes = []
    for number in range(commits):
        (path / "file.txt").write_text(str(number))
        git("add", ".")
        git("commit", "-q", "-m", f"change {number}")
        hashes.append(git("rev-parse", "HEAD"))
    return hashes


def test_help_names_every_verb(here, capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert run_cli(["--help"]) == 0
    listed = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb} " in listed
        assert run_cli([verb, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: perfguard {verb}")
    assert "125" in listed


def test_scenarios_as_json(perfguard):
    done = perfguard("scenarios", "--json")
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert {s["name"] for s in document["scenarios"]} >= {"mm-small-images", "text-only"}
    assert {(s["name"], s["target"]) for s in document["studies"]} >= {
        ("transport", "sglang-transport"),
        ("server", "sglang-server"),
    }


def test_scenarios_tell_open_loops_from_closed_ones(here, capsys):
    assert run_cli(["scenarios"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert " 96 " in lines["text-only"]
    assert "poisson, 60/s" in lines["mm-open-loop"]
    assert "448x252 video" in lines["mm-video"]


def test_scenarios_list_the_grids_of_studies(here, capsys):
    assert run_cli(["scenarios"]) == 0
    lines = capsys.readouterr().out.splitlines()
    grids = lines[next(place for place, line in enumerate(lines) if line.startswith("study")) :]
    assert any(line.startswith("transport (default)") and "1, 8, 32, 96" in line for line in grids)
    assert any(line.startswith("server ") for line in grids)


def test_env_is_empty_at_first(perfguard):
    assert json.loads(perfguard("env", "list", "--json").stdout)["environments"] == []
    done = perfguard("env", "remove", "sglang-cpu")
    assert done.returncode == 129
    assert "no managed environment" in done.stderr
    assert "sglang-cpu" in perfguard("env", "path").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bisect"], "Missing argument"),
        (["bisect", "a"], "Missing argument"),
        (["nosuch"], "No such command"),
        (["bisect", "a", "b", "--find", "luck"], "--find"),
        (["bisect", "a", "b", "--scenario", "mm-smal-images"], "mm-small-images"),
        (["bisect", "a", "b", "--port", "99999"], "--port 99999"),
        (["bisect", "a", "b", "--installer", "conda"], "conda"),
        (["bisect", "a", "b", "--device", "cuda"], "--model"),
        (["bisect", "a", "b", "--model", "/nonexistent"], "/nonexistent"),
        (["bisect", "a", "b", "--confidence", "2"], "limits.confidence"),
        (["bisect", "a", "b", "--resume"], "no run of"),
        (["bisect", "a", "b", "--repo", "/nonexistent"], "/nonexistent"),
        (["compare", "a", "b", "--repo", "."], "git repository"),
        (["bisect", "a", "b", "--markdown", "/nonexistent/a.md"], "--markdown /nonexistent/a.md: there is no folder"),
        (["compare", "a", "b", "--junit", "."], "--junit . is a folder"),
        (["run", "a", "--sarif", "."], "--sarif . is a folder"),
        (["analyze", "a", "--report", "."], "--report . is a folder"),
        (["record", "--pid", "1", "--report", "/nonexistent/a.html"], "there is no folder"),
        (["report"], "name a run's folder"),
        (["report", "."], "holds no run"),
        (["report", "--index", "/nonexistent"], "no folder /nonexistent"),
        (["report", ".", "--index", "."], "--index makes"),
        (["report", "--index", ".", "--sarif", "a"], "--index makes"),
        (["report", "--index", ".", "--exports", "a"], "--index makes"),
        (["log", "."], "holds no run"),
        (["log"], "Missing argument"),
        (["nightly", "--repo", "."], "--state"),
        (["nightly", "--repo", ".", "--state", "s", "--scenario", "mm-smal-images"], "mm-small-images"),
        (["nightly", "--repo", ".", "--state", "s", "--output", "/dev/null"], "--output /dev/null cannot be made"),
        (["accept", "abcdef1", "--reason", "known", "--state", "s"], "no state folder s"),
        (["accept", "abcdef1", "--state", "s"], "--reason"),
        (["history", "--state", "s"], "no state folder s"),
        (["history", "--state", ".", "--csv", "."], "--csv . is a folder"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_129(here, capsys, arguments, says):
    code = run_cli(arguments)
    said = capsys.readouterr()
    assert code == 129, said.err
    assert says in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_mistakes_in_a_clone(perfguard, tmp_path):
    first, _, last = make_clone(tmp_path / "clone")
    repo = ("--repo", tmp_path / "clone")
    cases = {
        ("bisect", "nosuch", last, *repo): "'nosuch' names no commit",
        ("bisect", "mian", last, *repo): "near names: main",
        ("bisect", last, last, *repo): "same revision",
        ("bisect", last, first, *repo): "swap them",
        ("compare", first, first, *repo): "same revision",
        ("run", first, first, *repo): "named twice",
    }
    for arguments, says in cases.items():
        done = perfguard(*arguments)
        assert done.returncode == 129, (arguments, done.stderr)
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_verbose_adds_the_traceback(perfguard):
    done = perfguard("bisect", "a", "b", "--resume", "-v")
    assert done.returncode == 129
    assert "Traceback" in done.stderr


def make_unfinished_run(path):
    """Make the folder of a comparison that was killed before its first trial."""
    settings = {
        "verb": "compare",
        "revisions": ["a" * 40, "b" * 40],
        "scenario": msgspec.to_builtins(load_scenario("mm-small-images")),
        "seed": 0,
        "request": {
            "command": "perfguard compare a b --run-dir 'my run'",
            "repo": "/nonexistent",
            "package": "sglang",
            "refs": ["a", "b"],
            "installer": "pip",
        },
    }
    RunStore.create(path, settings).close()


def test_the_log_of_a_run_is_a_shell_script(perfguard, tmp_path):
    make_unfinished_run(tmp_path / "my run")
    done = perfguard("log", "my run")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if not line.startswith("#")] == ["perfguard compare a b"]
    assert f"perfguard compare a b --resume --run-dir '{tmp_path}/my run'" in done.stdout


def test_a_report_whose_clone_is_gone_says_so(perfguard, tmp_path):
    make_unfinished_run(tmp_path / "run")
    done = perfguard("report", "run")
    assert done.returncode == 129
    assert "/nonexistent" in done.stderr
    assert not (tmp_path / "run" / "report.html").exists()


def test_profiles_become_a_page(perfguard, tmp_path):
    (tmp_path / "rank-0.raw").write_text("main (a.py:1);work (a.py:5) 90\nmain (a.py:1) 10\n")
    done = perfguard("analyze", "rank-0.raw", "--report", "page.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert "What the samples of rank-0.raw were doing" in page
    assert 'id="flame-data"' in page


def test_the_index_needs_finished_runs(perfguard, tmp_path):
    make_unfinished_run(tmp_path / "runs" / "one")
    done = perfguard("report", "--index", "runs")
    assert done.returncode == 129
    assert "holds no finished run" in done.stderr
    write_entry(sample_results.compare_result(), tmp_path / "runs" / "two" / "report.html")
    done = perfguard("report", "--index", "runs", "--output", "all.html")
    assert done.returncode == 0, done.stderr
    assert "Index of 1 runs" in done.stdout
    assert "left out: runs/one has no result yet" in done.stderr
    assert 'href="./runs/two/report.html"' in (tmp_path / "all.html").read_text()
