"""The nightly guard over made repositories: every commit holds its own speed, and measuring reads it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
sys.path.insert(0, str(Path(__file__).parents[1] / "revisions"))

import sample_results
from revisions_support import GitRepo

from perfguard.cli.main import run_cli
from perfguard.model.errors import OutOfTimeError, PerfguardError
from perfguard.model.night import AlertKind, AlertState, MachineFingerprint, NightVerdict
from perfguard.model.progress import Silent
from perfguard.model.result import BisectVerdict, CompareVerdict, Culprit, Direction
from perfguard.report.night_text import marker, marker_in
from perfguard.revisions.repository import Repository
from perfguard.store import RunStore
from perfguard.store import nights as nights_store
from perfguard.store.nights import NightStore
from perfguard.workflows import night_runs
from perfguard.workflows import nightly as nightly_module
from perfguard.workflows.places import cache_dir

SMALLEST = 0.05


class Lab:
    """A repository, a state folder, and a machine that measures without noise."""

    def __init__(self, root):
        self.repo = GitRepo(root / "clone")
        self.state = root / "state"
        self.output = root / "out"
        self.compared = []
        self.searched = []
        self.fail = None
        self.url = str(self.repo.path)
        self.bisect_verdict = None
        self.cut_short = None
        self.asked = []

    def commit(self, subject, speed):
        self.repo.commit(subject, speed=f"{speed}\n", log=f"{subject}\n")
        return self.repo.git("rev-parse", "HEAD")

    def night(self, *arguments):
        """Run a night; gives its exit code and its record."""
        code = run_cli([
            "nightly", "--repo", self.url, "--state", str(self.state), "--output", str(self.output), "-q", *arguments
        ])  # fmt: skip
        return code, NightStore(self.state).read().nights[-1]

    def accept(self, commit, reason="known"):
        return run_cli(["accept", commit, "--reason", reason, "--state", str(self.state)])

    def _speed(self, commit):
        return float(self.repo.git("show", f"{commit}:speed"))

    def compare(self, request, baseline, candidate, _progress):
        self.compared.append((baseline, candidate))
        if self.fail is not None:
            raise self.fail
        self._run(request)
        repository = Repository.open(request.repo, cache_dir=cache_dir(), progress=Silent())
        verdict, ratio = self._judge(baseline, candidate)
        base = sample_results.compare_result()
        low, high = repository.resolve(baseline), repository.resolve(candidate)
        return replace(
            base,
            baseline=low,
            candidate=high,
            verdict=verdict,
            sentence=f"{high.label} is {verdict.value} against {low.label}.",
            effects=(replace(base.effects[0], ratio=ratio, low=0.98 * ratio, high=1.02 * ratio), *base.effects[1:]),
        )

    def bisect(self, request, good, bad, direction, _progress):
        self.searched.append((good, bad, direction))
        self._run(request)
        if self.cut_short is not None:
            raise self.cut_short
        history = Repository.open(request.repo, cache_dir=cache_dir(), progress=Silent()).between(good, bad)
        wanted = CompareVerdict.SLOWER if direction is Direction.REGRESSION else CompareVerdict.FASTER
        found = None
        if self._judge(good, bad)[0] is wanted:
            pairs = zip(history.revisions, history.revisions[1:], strict=False)
            found = next(new for old, new in pairs if self._judge(old.commit, new.commit)[0] is wanted)
        verdict = self.bisect_verdict or (BisectVerdict.NO_CHANGE if found is None else BisectVerdict.CULPRIT)
        is_found = verdict is BisectVerdict.CULPRIT
        return replace(
            sample_results.bisect_result(),
            direction=direction,
            good=history.revisions[0],
            bad=history.revisions[-1],
            verdict=verdict,
            sentence=f"{found.label} did it." if is_found else "No commit did it.",
            culprit=Culprit(revision=found, posterior=0.99, hunks=()) if is_found else None,
            credible_set=(),
        )

    def _run(self, request):
        """Leave a run's folder, as a real measurement does."""
        self.asked.append(request)
        with RunStore.open(request.run_dir) if request.resume else RunStore.create(request.run_dir, {}):
            pass

    def _judge(self, baseline, candidate):
        ratio = self._speed(candidate) / self._speed(baseline)
        if ratio < 1 - SMALLEST:
            return CompareVerdict.SLOWER, ratio
        return (CompareVerdict.FASTER if ratio > 1 + SMALLEST else CompareVerdict.NO_CHANGE), ratio


@pytest.fixture
def lab(tmp_path, monkeypatch):
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, os.devnull)
    monkeypatch.setenv("PERFGUARD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    made = Lab(tmp_path)
    monkeypatch.setattr(night_runs, "compare", made.compare)
    monkeypatch.setattr(night_runs, "bisect", made.bisect)
    monkeypatch.setattr(night_runs, "write_report", lambda _result, path: path.write_text("page"))
    before = signal.getsignal(signal.SIGTERM)
    yield made
    signal.signal(signal.SIGTERM, before)


def told(night):
    return [(alert.commit, alert.state) for alert in night.alerts]


def test_the_first_night_is_trusted_and_the_same_head_is_nothing_new(lab):
    head = lab.commit("start", 100)
    code, night = lab.night()
    assert (code, night.verdict, night.head.commit, night.trusted.commit) == (0, NightVerdict.FIRST, head, head)
    code, night = lab.night()
    assert (code, night.verdict, night.number) == (0, NightVerdict.CLEAN, 2)
    assert "Nothing new" in night.sentence
    assert lab.compared == []


def test_a_clean_head_is_the_next_baseline(lab):
    heads = [lab.commit("start", 100)]
    lab.night()
    for speed in (99, 98):
        heads.append(lab.commit(f"to {speed}", speed))
        code, night = lab.night()
        assert (code, night.verdict) == (0, NightVerdict.CLEAN)
        assert (lab.state / night.report).read_text() == "page"
        assert night.trials > 0
    assert lab.compared == [(heads[0], heads[1]), (heads[1], heads[2])]
    assert lab.searched == []


def test_a_regression_is_opened_once_over_three_nights_and_closed(lab, capsys):
    base = lab.commit("start", 100)
    lab.night()
    lab.commit("harmless", 100)
    culprit = lab.commit("slow", 80)
    lab.commit("after it", 80)
    code, night = lab.night()
    assert (code, night.verdict, night.culprit.revision.commit) == (1, NightVerdict.REGRESSION, culprit)
    assert told(night) == [(culprit, AlertState.OPEN)]
    assert (lab.output / "summary.md").read_text().startswith("## ▲ Regression")
    assert (lab.output / "annotations.txt").read_text().startswith("::error ")
    issue = (lab.output / "issue-1.md").read_text()
    assert marker_in(issue) == marker(night.alerts[0].id)
    assert f"\n# perfguard: Slower since {culprit[:12]}\n" in issue
    first = night.night
    lab.commit("docs", 80)
    for searches in (2, 2):  # the second of these nights has the same head: there is nothing to search
        code, night = lab.night()
        assert (code, told(night)) == (1, [(culprit, AlertState.UPDATED)])
        assert (night.baseline.commit, night.culprit.revision.commit) == (base, culprit)
        assert night.alerts[0].first_night == first
        assert night.alerts[0].last_night == night.night
        assert len(lab.searched) == searches
    fixed = lab.commit("mend", 100)
    code, night = lab.night()
    assert (code, night.verdict, told(night)) == (0, NightVerdict.CLEAN, [(culprit, AlertState.CLOSED)])
    assert night.trusted.commit == fixed
    assert (lab.output / "annotations.txt").read_text() == ""
    lab.commit("more docs", 100)
    assert lab.night()[1].alerts == ()
    assert {compared for compared, _ in lab.compared} == {base, fixed}
    capsys.readouterr()


def test_a_second_regression_is_found_behind_one_that_stands(lab):
    lab.commit("start", 100)
    lab.night()
    first = lab.commit("slow", 80)
    lab.night()
    second = lab.commit("slower still", 60)
    code, night = lab.night()
    assert (code, told(night)) == (1, [(second, AlertState.OPEN), (first, AlertState.UPDATED)])
    assert lab.searched[-1] == (first, second, Direction.REGRESSION)


def test_an_accepted_change_is_the_new_baseline(lab, capsys):
    lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("slow, but right", 80)
    lab.night()
    assert lab.accept(culprit[:10], "correctness first") == 0
    lab.commit("docs", 80)
    code, night = lab.night()
    assert (code, night.verdict, night.baseline.commit) == (0, NightVerdict.CLEAN, culprit)
    assert told(night) == [(culprit, AlertState.ACCEPTED)]
    assert "correctness first" in night.alerts[0].sentence
    lab.commit("more docs", 80)
    assert lab.night()[1].alerts == ()  # told once
    later = lab.commit("slow again", 60)
    assert told(lab.night()[1]) == [(later, AlertState.OPEN)]
    capsys.readouterr()
    for commit, reason in (("0" * 10, "x"), ("main", "x"), (culprit, " ")):
        assert lab.accept(commit, reason) == 129
        assert "perfguard: " in capsys.readouterr().err


def test_an_improvement_moves_the_baseline_and_needs_nobody(lab):
    lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("fast", 130)
    head = lab.commit("docs", 130)
    code, night = lab.night()
    assert (code, night.verdict, night.trusted.commit) == (0, NightVerdict.IMPROVEMENT, head)
    assert [(each.kind, each.commit, each.state) for each in night.alerts] == [
        (AlertKind.IMPROVEMENT, culprit, AlertState.ACCEPTED)
    ]
    lost = lab.commit("back to slow", 100)
    assert told(lab.night()[1]) == [(lost, AlertState.OPEN)]


def test_a_change_without_a_commit_is_raised_once_and_named_later(lab):
    base = lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("slow", 80)
    lab.bisect_verdict = BisectVerdict.UNKNOWN
    code, night = lab.night()
    assert (code, told(night)) == (1, [(culprit, AlertState.OPEN)])  # the head's
    assert night.alerts[0].id.startswith(f"step-after-{base}")
    assert night.reason == "No commit did it."
    lab.commit("docs", 80)
    assert told(lab.night()[1]) == [(culprit, AlertState.UPDATED)]
    lab.bisect_verdict = None
    code, night = lab.night()
    assert (code, [each.state for each in night.alerts]) == (1, [AlertState.OPEN, AlertState.CLOSED])
    assert night.alerts[0].id.startswith(f"step-{culprit}")


@pytest.mark.parametrize("speed", [80, 130])
def test_measurements_that_disagree_are_unknown(lab, speed):
    lab.commit("start", 100)
    lab.night()
    lab.commit("another speed?", speed)
    lab.bisect_verdict = BisectVerdict.NO_CHANGE
    code, night = lab.night()
    assert (code, night.verdict, night.alerts) == (125, NightVerdict.UNKNOWN, ())
    assert "the next did not" in night.reason


def test_a_night_that_cannot_be_fetched_or_measured_is_never_green(lab):
    start = lab.commit("start", 100)
    lab.url = lab.repo.path.as_uri()
    assert lab.night()[0] == 0
    away = lab.repo.path.with_name("away")
    lab.repo.path.rename(away)
    code, night = lab.night()
    assert (code, night.verdict, night.head) == (125, NightVerdict.FAILED, None)
    assert "cannot fetch" in night.reason
    assert (lab.output / "annotations.txt").read_text().startswith("::warning ")
    away.rename(lab.repo.path)
    lab.commit("next", 100)
    lab.fail = PerfguardError("the environment cannot be built", hint="free some space")
    code, night = lab.night()
    assert (code, night.verdict) == (125, NightVerdict.FAILED)
    assert night.reason == "the environment cannot be built; free some space"
    lab.fail = None
    code, night = lab.night()
    assert (code, night.verdict, night.baseline.commit) == (0, NightVerdict.CLEAN, start)
    code, night = lab.night("--branch", "mian")
    assert (code, night.verdict) == (125, NightVerdict.FAILED)
    assert "mian" in night.reason


def test_a_force_push_is_compared_all_the_same(lab):
    root = lab.commit("start", 100)
    old = lab.commit("old", 100)
    lab.night()
    lab.repo.git("reset", "--hard", "--quiet", root)
    culprit = lab.commit("rewritten", 80)
    code, night = lab.night()
    assert (code, night.baseline.commit, told(night)) == (1, old, [(culprit, AlertState.OPEN)])
    assert lab.searched == [(root, culprit, Direction.REGRESSION)]
    assert any("does not descend" in note for note in night.notes)
    lab.repo.git("reset", "--hard", "--quiet", root)
    other = lab.commit("rewritten again", 70)
    code, night = lab.night()  # the alert's commit is gone from the branch, and another one is to blame
    assert (code, told(night)) == (1, [(other, AlertState.OPEN), (culprit, AlertState.CLOSED)])
    lab.repo.git("checkout", "--quiet", "--orphan", "anew")
    lab.repo.git("branch", "--quiet", "-D", "main")
    lab.commit("another root", 70)
    lab.repo.git("branch", "-m", "main")
    code, night = lab.night()
    assert (code, night.verdict) == (1, NightVerdict.REGRESSION)
    assert "no common history" in night.reason


def test_a_head_older_than_the_baseline_names_no_commit(lab):
    root = lab.commit("start", 80)
    lab.commit("fast", 100)
    lab.night()
    lab.repo.git("reset", "--hard", "--quiet", root)
    code, night = lab.night()
    assert (code, told(night), lab.searched) == (1, [(root, AlertState.OPEN)], [])
    assert "older than" in night.reason


def test_a_baseline_that_is_gone_is_unknown_until_a_head_is_accepted(lab):
    lab.commit("start", 100)
    lab.night()
    shutil.rmtree(lab.repo.path)
    lab.repo = GitRepo(lab.repo.path)
    head = lab.commit("another history", 100)
    code, night = lab.night()
    assert (code, night.verdict) == (125, NightVerdict.UNKNOWN)
    assert f"perfguard accept {head}" in night.reason
    assert lab.accept(head) == 0
    assert lab.night()[0] == 0


def test_damaged_nights_are_no_first_night(lab):
    lab.commit("start", 100)
    lab.night()
    (path,) = (lab.state / "nights").iterdir()
    path.write_bytes(path.read_bytes()[:99])
    code, night = lab.night()
    assert (code, night.verdict) == (125, NightVerdict.UNKNOWN)
    assert any("quarantine" in note for note in night.notes)
    assert "damaged" in night.reason


def test_branches_and_scenarios_are_series_of_their_own(lab):
    lab.commit("start", 100)
    lab.night()
    assert lab.night("--scenario", "text-only")[1].verdict is NightVerdict.FIRST
    lab.repo.git("branch", "other")
    assert lab.night("--branch", "other")[1].verdict is NightVerdict.FIRST
    assert lab.night()[1].verdict is NightVerdict.CLEAN


def test_a_newer_state_folder_stops_with_one_line(lab, capsys):
    lab.commit("start", 100)
    lab.night()
    (path,) = (lab.state / "nights").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    code = run_cli(["nightly", "--repo", lab.url, "--state", str(lab.state)])
    assert code == 129
    assert "newer perfguard" in capsys.readouterr().err


def test_what_a_job_sees(lab, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    (tmp_path / "step.md").write_text("before\n")
    lab.commit("start", 100)
    lab.night()
    lab.commit("slow", 80)
    capsys.readouterr()
    code, night = lab.night("--json")
    document = json.loads(capsys.readouterr().out)
    assert (code, document["verdict"], document["night"]) == (1, "regression", night.night)
    assert document["alerts"][0]["state"] == "open"
    steps = (tmp_path / "step.md").read_text()
    assert steps.startswith("before\n## ● First")
    assert "## ▲ Regression" in steps
    lab.accept(night.culprit.revision.commit, "=known")
    capsys.readouterr()
    assert run_cli(["history", "--state", str(lab.state), "--csv", "all.csv"]) == 0
    shown = capsys.readouterr().out
    assert "regression" in shown
    assert "=known" in shown
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [row["verdict"] for row in rows] == ["first", "regression"]
    assert float(rows[1]["ratio"]) == pytest.approx(0.8)
    assert run_cli(["history", "--state", str(lab.state), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [len(document[key]) for key in ("nights", "acceptances", "problems")] == [2, 1, 0]


def crept(lab):
    """Six nights, each 1% slower than the one before: the last is 6% slower than the first."""
    heads = [lab.commit("start", 100)]
    lab.night()
    nights = []
    for speed in (99, 98, 97, 96, 95, 94):
        heads.append(lab.commit(f"to {speed}", speed))
        nights.append(lab.night())
    return heads, nights


def test_creep_is_measured_beside_the_anchor_raised_once_and_closed(lab):
    heads, nights = crept(lab)
    assert [code for code, _ in nights] == [0, 0, 0, 0, 0, 1]
    assert all(night.alerts == () for _, night in nights[:-1])
    raised = nights[-1][1]
    assert [(alert.kind, alert.state, alert.commit) for alert in raised.alerts] == [
        (AlertKind.CREEP, AlertState.OPEN, heads[-1])
    ]
    assert lab.compared[-1] == (heads[0], heads[-1])  # not before it was measured
    assert (raised.anchor.anchor.commit, raised.anchor.verdict) == (heads[0], CompareVerdict.SLOWER)
    assert raised.alerts[0].effect.ratio == pytest.approx(0.94)
    assert "Crept slower over 6 nights" in raised.sentence
    assert lab.searched == []
    assert (lab.output / "annotations.txt").read_text().startswith("::error ")
    lab.commit("docs", 94)
    code, night = lab.night()
    assert (code, told(night)) == (1, [(heads[-1], AlertState.UPDATED)])
    lab.commit("half mended", 97)
    code, night = lab.night()
    assert (code, night.verdict, told(night)) == (0, NightVerdict.CLEAN, [(heads[-1], AlertState.CLOSED)])


def test_a_step_behind_creep_that_stands_is_raised_too(lab):
    heads, _ = crept(lab)
    step = lab.commit("slow", 80)
    code, night = lab.night()
    assert (code, told(night)) == (1, [(step, AlertState.OPEN)])
    assert lab.searched == [(heads[-2], step, Direction.REGRESSION)]
    lab.commit("mended", 94)
    code, night = lab.night()
    assert (code, told(night)) == (1, [(step, AlertState.CLOSED), (heads[-1], AlertState.UPDATED)])


def test_creep_that_was_accepted_begins_anew(lab):
    heads, _ = crept(lab)
    assert lab.accept(heads[-1]) == 0
    lab.commit("docs", 94)
    code, night = lab.night()
    assert (code, told(night), night.anchor) == (0, [(heads[-1], AlertState.ACCEPTED)], None)


def test_faster_heads_end_creep(lab):
    heads, _ = crept(lab)
    lab.commit("fast", 120)
    code, night = lab.night()
    assert (code, night.verdict) == (0, NightVerdict.IMPROVEMENT)
    assert (heads[-1], AlertState.CLOSED) in told(night)


def test_an_anchor_that_cannot_be_measured_is_told_and_stops_nothing(lab, monkeypatch):
    measure = lab.compare

    def failing(request, baseline, candidate, progress):
        if request.run_dir.name.endswith("-anchor"):
            raise PerfguardError("the anchor does not start")
        return measure(request, baseline, candidate, progress)

    with monkeypatch.context() as patched:
        patched.setattr(night_runs, "compare", failing)
        _, nights = crept(lab)
    assert [night.verdict for _, night in nights] == [NightVerdict.CLEAN] * 6
    assert any("the anchor does not start" in note for note in nights[-1][1].notes)
    lab.commit("docs", 94)
    assert lab.night()[0] == 1  # now it was measured
    monkeypatch.setattr(night_runs, "compare", failing)
    lab.commit("more docs", 94)
    code, night = lab.night()  # creep that is known is never green because it could not be measured
    assert (code, night.verdict, night.reason) == (125, NightVerdict.UNKNOWN, "the anchor does not start")


def test_another_machine_raises_nothing_and_is_remarked(lab, monkeypatch):
    lab.commit("start", 100)
    lab.night()
    other = MachineFingerprint(key="other", described="an old machine")
    monkeypatch.setattr(nightly_module, "fingerprint", lambda: other)
    lab.commit("docs", 100)
    code, night = lab.night()
    assert (code, night.verdict, night.alerts) == (0, NightVerdict.CLEAN, ())
    assert any("an old machine" in note for note in night.notes)
    lab.commit("more docs", 100)
    assert lab.night()[1].notes == ()


def test_a_search_that_runs_out_of_time_goes_on_before_the_next_head(lab, capsys):
    base = lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("slow", 80)
    bad = lab.commit("docs", 80)
    lab.cut_short = OutOfTimeError("the time that was given is over after 9 trials")
    code, night = lab.night("--budget", "2h")
    assert (code, night.verdict) == (1, NightVerdict.REGRESSION)
    assert "searching, continued next night" in night.reason
    assert (night.pending.good, night.pending.bad, told(night)) == (base, bad, [(bad, AlertState.OPEN)])
    assert lab.asked[-1].until is not None
    compared = len(lab.compared)
    lab.commit("more docs", 80)
    code, night = lab.night("--budget", "2h")  # nor is it done on this night
    assert (code, night.verdict, told(night)) == (1, NightVerdict.UNFINISHED, [(bad, AlertState.UPDATED)])
    assert (night.pending.good, night.pending.bad, len(lab.compared)) == (base, bad, compared)
    assert (lab.asked[-1].resume, lab.asked[-1].run_dir) == (True, lab.asked[-2].run_dir)
    lab.cut_short = None
    second = lab.commit("slower still", 60)
    code, night = lab.night()
    assert lab.searched[-2:] == [(base, bad, Direction.REGRESSION), (bad, second, Direction.REGRESSION)]
    assert code == 1
    assert told(night) == [(bad, AlertState.CLOSED), (second, AlertState.OPEN), (culprit, AlertState.OPEN)]
    assert night.pending is None
    assert list((lab.state / "begun").iterdir()) == []
    capsys.readouterr()


def test_a_search_whose_change_is_gone_when_it_is_done_raises_nothing(lab):
    lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("slow", 80)
    lab.cut_short = OutOfTimeError("over")
    lab.night()
    lab.cut_short = None
    lab.commit("mended", 100)
    code, night = lab.night()
    assert (code, night.verdict) == (0, NightVerdict.CLEAN)
    assert {state for _, state in told(night)} == {AlertState.CLOSED}
    assert culprit in {commit for commit, _ in told(night)}


def test_a_search_of_what_was_accepted_since_is_ended(lab):
    lab.commit("start", 100)
    lab.night()
    head = lab.commit("slow", 80)
    lab.cut_short = OutOfTimeError("over")
    lab.night()
    assert lab.accept(head) == 0
    lab.commit("docs", 80)
    searches = len(lab.searched)
    code, night = lab.night()
    assert (code, told(night), len(lab.searched)) == (0, [(head, AlertState.ACCEPTED)], searches)
    assert night.pending is None


def test_a_search_for_a_gain_goes_on_too(lab):
    lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("fast", 130)
    lab.commit("docs", 130)
    lab.cut_short = OutOfTimeError("over")
    code, night = lab.night()
    assert (code, night.verdict, night.alerts) == (0, NightVerdict.IMPROVEMENT, ())
    lab.cut_short = None
    lab.commit("more docs", 130)
    code, night = lab.night()
    assert (code, night.verdict) == (0, NightVerdict.CLEAN)
    assert [(alert.kind, alert.commit, alert.state) for alert in night.alerts] == [
        (AlertKind.IMPROVEMENT, culprit, AlertState.ACCEPTED)
    ]


@pytest.mark.parametrize("lost", ["nothing", "runs", "begun", "machine"])
def test_a_night_that_was_killed_is_continued(lab, monkeypatch, capsys, lost):
    base = lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("slow", 80)
    lab.cut_short = KeyboardInterrupt()
    assert lab.night()[0] == 130
    assert len(NightStore(lab.state).read().nights) == 1
    lab.cut_short = None
    if lost in {"runs", "begun"}:
        shutil.rmtree(lab.state / lost)
    if lost == "machine":
        other = MachineFingerprint(key="other", described="another machine")
        monkeypatch.setattr(nightly_module, "fingerprint", lambda: other)
    lab.commit("docs", 80)
    code, night = lab.night()
    assert (code, told(night)) == (1, [(culprit, AlertState.OPEN)])
    assert night.culprit.revision.commit == culprit
    resumed = [request.resume for request in lab.asked[2:]]
    assert resumed[0] is (lost == "nothing")
    if lost in {"nothing", "machine"}:
        assert lab.searched[-2] == (base, culprit, Direction.REGRESSION)
    assert list((lab.state / "begun").iterdir()) == []
    capsys.readouterr()


def test_a_comparison_that_was_killed_goes_on_where_the_head_is_the_same(lab, monkeypatch, capsys):
    lab.commit("start", 100)
    lab.night()
    lab.commit("docs", 100)
    measure = lab.compare

    def killed(*arguments):
        measure(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(night_runs, "compare", killed)
        assert lab.night()[0] == 130
    code, night = lab.night()
    assert (code, lab.asked[-1].resume, lab.asked[-1].run_dir) == (0, True, lab.asked[-2].run_dir)
    assert any("went on with" in note for note in night.notes)
    capsys.readouterr()


def test_a_run_that_cannot_be_continued_is_begun_anew(lab, monkeypatch, capsys):
    lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("slow", 80)
    lab.cut_short = KeyboardInterrupt()
    lab.night()
    lab.cut_short = None
    search = lab.bisect

    def changed(request, *arguments):
        if request.resume:
            raise PerfguardError("the run has another scenario")
        return search(request, *arguments)

    monkeypatch.setattr(night_runs, "bisect", changed)
    code, night = lab.night()
    assert (code, told(night)) == (1, [(culprit, AlertState.OPEN)])
    assert any("another scenario" in note for note in night.notes)
    capsys.readouterr()


def test_a_night_that_runs_out_of_time_before_it_can_tell_is_not_green(lab):
    lab.commit("start", 100)
    lab.night()
    lab.commit("docs", 100)
    lab.fail = OutOfTimeError("over")
    code, night = lab.night("--budget", "1s")
    assert (code, night.verdict, night.alerts) == (125, NightVerdict.UNFINISHED, ())
    assert "budget ended" in night.sentence


@pytest.mark.parametrize("budget", ["2", "-1h", "0h", "h", "1d", "1e9h"])
def test_a_budget_that_is_no_time_is_one_line(lab, capsys, budget):
    assert run_cli(["nightly", "--repo", lab.url, "--state", str(lab.state), f"--budget={budget}"]) == 129
    assert f"--budget {budget} is no time" in capsys.readouterr().err


class SteppingClock:
    """A clock that is an hour earlier at every look."""

    def __init__(self):
        self.time = datetime(2026, 3, 1, 2, tzinfo=timezone.utc)

    def now(self, _zone):
        self.time -= timedelta(hours=1)
        return self.time


def test_a_clock_that_goes_back_keeps_the_nights_in_their_order(lab, monkeypatch, capsys):
    clock = SteppingClock()
    monkeypatch.setattr(nightly_module, "datetime", clock)
    monkeypatch.setattr(nights_store, "datetime", clock)
    start = lab.commit("start", 100)
    lab.night()
    culprit = lab.commit("slow", 80)
    lab.night()
    lab.commit("mended", 100)
    code, night = lab.night()
    nights = NightStore(lab.state).read().nights
    assert [each.number for each in nights] == [1, 2, 3]
    assert nights[0].started_at > nights[1].started_at > nights[2].started_at
    assert [each.night for each in nights] == sorted((each.night for each in nights), reverse=True)
    assert (code, told(night), night.baseline.commit) == (0, [(culprit, AlertState.CLOSED)], start)
    assert lab.accept(culprit) == 0  # said by a clock that is earlier still
    lab.commit("slow again", 80)
    assert lab.night()[1].baseline.commit == culprit
    assert run_cli(["history", "--state", str(lab.state)]) == 0
    capsys.readouterr()
