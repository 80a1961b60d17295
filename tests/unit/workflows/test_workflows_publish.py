"""Publishing through a `gh` that keeps its issues in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

import sample_nights

from perfguard.cli.main import run_cli
from perfguard.model.night import AlertState, NightVerdict
from perfguard.store.nights import NightStore

FAKE = Path(__file__).parents[1] / "store" / "fake_gh.py"
OPEN, UPDATED, CLOSED, ACCEPTED = AlertState.OPEN, AlertState.UPDATED, AlertState.CLOSED, AlertState.ACCEPTED


class Forge:
    """A repository on GitHub, as far as `gh` shows it, and a state folder to publish."""

    def __init__(self, root, monkeypatch):
        self.store = NightStore(root / "state")
        self.store.prepare()
        self._file = root / "gh.json"
        self._write({"calls": [], "issues": [], "labels": ["bug"], "fail": {}})
        program = root / "bin" / "gh"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        monkeypatch.setenv("FAKE_GH", str(self._file))
        monkeypatch.setenv("GH_TOKEN", "a-token-of-a-test")
        monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)

    def _write(self, state):
        self._file.write_text(json.dumps(state))

    @property
    def kept(self):
        return json.loads(self._file.read_text())

    def change(self, **changed):
        self._write({**self.kept, **changed})

    def night(self, number, *alerts, verdict=NightVerdict.REGRESSION, **changed):
        self.store.add_night(sample_nights.night(number, verdict, -9, alerts=alerts, **changed))

    def publish(self, *arguments):
        self.change(calls=[])
        return run_cli(["publish", "--state", str(self.store.root), "--github", "ada/shop", *arguments])

    @property
    def verbs(self):
        return [" ".join(call[:2]) for call in self.kept["calls"]]


@pytest.fixture
def forge(tmp_path, monkeypatch):
    return Forge(tmp_path, monkeypatch)


def alert(letter, state, first, last, **changed):
    return sample_nights.alert(letter * 40, state, first, last, **changed)


def test_an_issue_is_opened_once_updated_and_closed(forge, capsys):
    forge.night(1, alert("a", OPEN, 1, 1))
    assert forge.publish() == 0
    assert "opened #1: perfguard: Slower since aaaaaaaaaaaa" in capsys.readouterr().out
    assert forge.verbs == ["issue list", "label list", "label create", "issue create"]
    (opened,) = forge.kept["issues"]
    assert opened["labels"] == ["perfguard"]
    assert opened["body"].startswith("<!-- perfguard-alert: ")

    assert forge.publish() == 0  # the same again
    assert forge.verbs == ["issue list"]
    assert "nothing to do" in capsys.readouterr().out

    forge.night(2, alert("a", UPDATED, 1, 2, sentence="It is still slower."), alert("b", OPEN, 2, 2))
    assert forge.publish() == 0
    assert forge.verbs == ["issue list", "issue edit", "label list", "issue create"]
    assert "still slower" in forge.kept["issues"][0]["body"]
    assert len(forge.kept["issues"]) == 2

    forge.night(3, alert("a", ACCEPTED, 1, 3, sentence="It was accepted."), verdict=NightVerdict.CLEAN)
    assert forge.publish() == 0
    first, second = forge.kept["issues"]
    assert (first["state"], second["state"]) == ("CLOSED", "OPEN")
    assert "It was accepted" in first["comments"][0]
    assert "State: accepted" in first["body"]
    assert forge.publish() == 0
    assert forge.verbs == ["issue list"]


@pytest.mark.parametrize("verb", ["issue view", "issue comment", "issue edit", "issue close"])
def test_a_close_that_is_cut_short_is_mended_by_the_next_run(forge, capsys, verb):
    forge.night(1, alert("a", OPEN, 1, 1))
    forge.publish()
    forge.night(2, alert("a", CLOSED, 1, 2), verdict=NightVerdict.CLEAN)
    forge.change(fail={verb: 1})
    assert forge.publish() == 128
    said = capsys.readouterr().err
    assert f"`{verb}` failed for ada/shop: HTTP 502".replace("`", "`gh ", 1) in said
    assert forge.publish() == 0
    (issue,) = forge.kept["issues"]
    assert (issue["state"], len(issue["comments"])) == ("CLOSED", 1)
    assert "State: closed" in issue["body"]
    assert forge.publish() == 0
    assert forge.verbs == ["issue list"]


@pytest.mark.parametrize("verb", ["issue list", "label list", "label create", "issue create"])
def test_an_opening_that_failed_is_mended_by_the_next_run(forge, verb):
    forge.night(1, alert("a", OPEN, 1, 1))
    forge.change(fail={verb: 1})
    assert forge.publish() == 128
    assert forge.kept["issues"] == []
    assert forge.publish() == 0
    assert len(forge.kept["issues"]) == 1


@pytest.mark.parametrize("verb", ["issue comment", "issue reopen", "issue edit"])
def test_a_reopening_that_is_cut_short_is_mended(forge, verb):
    forge.night(1, alert("a", OPEN, 1, 1))
    forge.publish()
    forge.night(2, alert("a", CLOSED, 1, 2), verdict=NightVerdict.CLEAN)
    forge.publish()
    forge.night(3, alert("a", OPEN, 1, 3))
    forge.change(fail={verb: 1})
    assert forge.publish() == 128
    assert forge.publish() == 0
    (issue,) = forge.kept["issues"]
    assert (issue["state"], len(issue["comments"])) == ("OPEN", 2)
    assert "Raised again" in issue["comments"][1]
    assert "State: open" in issue["body"]


def test_what_a_night_could_not_publish_is_published_later(forge):
    forge.night(1, alert("a", OPEN, 1, 1))
    forge.publish()
    forge.night(2, alert("a", CLOSED, 1, 2), alert("b", OPEN, 2, 2))
    forge.night(3, verdict=NightVerdict.FAILED)  # names no alert
    assert forge.publish() == 0
    assert [each["state"] for each in forge.kept["issues"]] == ["CLOSED", "OPEN"]


def test_an_issue_that_a_person_closed_stays_closed_until_the_alert_is_raised_anew(forge):
    forge.night(1, alert("a", OPEN, 1, 1))
    forge.publish()
    forge.change(issues=[{**forge.kept["issues"][0], "state": "CLOSED"}])
    forge.night(2, alert("a", UPDATED, 1, 2))
    assert forge.publish() == 0
    assert forge.verbs == ["issue list"]
    forge.night(3, alert("a", CLOSED, 1, 3))
    forge.night(4, alert("a", OPEN, 1, 4))
    assert forge.publish() == 0
    (issue,) = forge.kept["issues"]
    assert issue["state"] == "OPEN"


def test_a_strangers_issue_with_the_marker_is_not_taken_for_ours(forge):
    forge.night(1, alert("a", OPEN, 1, 1))
    forge.publish()
    strangers = {**forge.kept["issues"][0], "labels": []}
    forge.change(issues=[strangers])
    assert forge.publish() == 0
    assert [each["labels"] for each in forge.kept["issues"]] == [[], ["perfguard"]]


def test_issues_link_the_report_on_the_site_or_the_run(forge):
    forge.night(1, alert("a", OPEN, 1, 1), report="runs/n1-compare/report.html")
    forge.night(2, alert("b", OPEN, 2, 2))
    assert forge.publish("--site", "https://ada.example.org/guard/", "--run-url", "https://example.org/run/5") == 0
    first, second = forge.kept["issues"]
    assert "(https://ada.example.org/guard/reports/n1.html)" in first["body"]
    assert "(https://example.org/run/5)" in second["body"]


def test_a_dry_run_says_and_does_nothing(forge, capsys):
    forge.night(1, alert("a", OPEN, 1, 1))
    assert forge.publish("--dry-run") == 0
    assert "would open: perfguard: Slower since" in capsys.readouterr().out
    assert forge.verbs == ["issue list"]


def test_no_gh_no_token_and_no_repository_are_one_clear_line(forge, capsys, monkeypatch, tmp_path):
    forge.night(1, alert("a", OPEN, 1, 1))
    monkeypatch.delenv("GH_TOKEN")
    assert forge.publish() == 128
    assert "gh auth login" in capsys.readouterr().err
    assert run_cli(["publish", "--state", str(forge.store.root)]) == 129
    assert "--github" in capsys.readouterr().err
    assert run_cli(["publish", "--state", str(forge.store.root), "--github", "--web"]) == 129
    assert forge.publish("--site", "javascript:alert(1)") == 129
    monkeypatch.setenv("PATH", str(tmp_path))
    capsys.readouterr()
    assert forge.publish() == 128
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "perfguard: there is no `gh` on the PATH"
    assert len(rest) == 1


def test_an_answer_that_is_no_json_is_told(forge, capsys, tmp_path):
    forge.night(1, alert("a", OPEN, 1, 1))
    (tmp_path / "bin" / "gh").write_text("#!/bin/sh\necho welcome\n")
    assert forge.publish() == 128
    assert "answered something else" in capsys.readouterr().err
