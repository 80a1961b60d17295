"""The state's branch: nothing that a night kept is lost, whoever pushes at the same time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".github" / "state.sh"
BRANCH = "perfguard-state"


class Hub:
    """A server with one repository, reached by its path."""

    def __init__(self, root):
        self.root = root
        self.repository = root / "hub" / "ada" / "shop.git"
        self.repository.parent.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", str(self.repository))

    def git(self, *arguments):
        quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        done = subprocess.run(
            ["git", *arguments], check=True, capture_output=True, text=True, env={**os.environ, **quiet}
        )
        return done.stdout

    def start(self, verb, state, **environment):
        return subprocess.Popen(
            ["bash", str(SCRIPT), verb, str(state), BRANCH],
            env={
                **os.environ,
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GITHUB_SERVER_URL": f"file://{self.root}/hub",
                "GITHUB_REPOSITORY": "ada/shop",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, verb, state, **environment):
        started = self.start(verb, state, **environment)
        said, _ = started.communicate(timeout=60)
        return started.returncode, said

    @property
    def kept(self):
        return set(self.git("-C", str(self.repository), "ls-tree", "-r", "--name-only", BRANCH).split())

    @property
    def commits(self):
        return int(self.git("-C", str(self.repository), "rev-list", "--count", BRANCH))


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def put(state, *names, text="{}"):
    for name in names:
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return state


def test_the_first_night_makes_the_branch_and_the_next_finds_it(hub, tmp_path):
    state = tmp_path / "a"
    assert hub.call("fetch", state)[0] == 0
    assert sorted(path.name for path in state.iterdir()) == ["acceptances", "nights", "quarantine"]
    put(state, "nights/n1.json", "nights/.n2.json.tmp", "runs/n1-compare/report.html")
    assert hub.call("keep", state)[0] == 0
    assert hub.kept == {"nights/n1.json"}  # no run, and nothing that is being written
    assert hub.call("fetch", tmp_path / "b")[0] == 0
    assert (tmp_path / "b" / "nights" / "n1.json").read_text() == "{}"


def test_nothing_new_makes_no_commit(hub, tmp_path):
    state = put(tmp_path / "a", "nights/n1.json")
    hub.call("keep", state)
    code, said = hub.call("keep", state)
    assert (code, hub.commits) == (0, 1)
    assert "holds everything already" in said


def test_what_is_in_the_branch_is_never_written_over(hub, tmp_path):
    hub.call("keep", put(tmp_path / "a", "nights/n1.json", text="whole"))
    hub.call("keep", put(tmp_path / "b", "nights/n1.json", text="torn"))
    hub.call("fetch", tmp_path / "c")
    assert (tmp_path / "c" / "nights" / "n1.json").read_text() == "whole"


def test_nights_that_end_at_once_are_all_kept(hub, tmp_path):
    states = [put(tmp_path / f"s{number}", f"nights/n{number}.json") for number in range(4)]
    started = [hub.start("keep", state) for state in states]
    assert [(each.communicate(timeout=120), each.returncode)[1] for each in started] == [0] * 4
    assert hub.kept == {f"nights/n{number}.json" for number in range(4)}


def test_a_file_that_was_set_aside_does_not_come_back(hub, tmp_path):
    hub.call("keep", put(tmp_path / "a", "nights/n1.json", "nights/n2.json"))
    hub.call("fetch", tmp_path / "b")
    (tmp_path / "b" / "nights" / "n1.json").unlink()
    put(tmp_path / "b", "quarantine/n1.json.abc123")
    assert hub.call("keep", tmp_path / "b")[0] == 0
    assert hub.kept == {"nights/n2.json", "quarantine/n1.json.abc123"}


@pytest.mark.parametrize("verb", ["fetch", "keep"])
def test_a_server_that_does_not_answer_is_no_empty_state(hub, tmp_path, verb):
    hub.repository.rename(tmp_path / "gone")
    code, said = hub.call(verb, put(tmp_path / "a", "nights/n1.json"))
    assert code == 1
    assert "::error title=perfguard::The state cannot be fetched" in said


def test_a_branch_that_may_not_be_pushed_is_told(hub, tmp_path):
    hook = hub.repository / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sleep").symlink_to("/bin/true")
    code, said = hub.call("keep", put(tmp_path / "a", "nights/n1.json"), PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert code == 1
    assert "::error title=perfguard::The state could not be pushed" in said


def test_the_token_is_on_no_command_line(hub, tmp_path):
    calls = tmp_path / "calls"
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(
        f'#!/bin/bash\necho "$GIT_CONFIG_KEY_0 | $GIT_CONFIG_VALUE_0 | $*" >> {calls}\nexec /usr/bin/git "$@"\n'
    )
    git.chmod(0o755)
    state = put(tmp_path / "a", "nights/n1.json")
    code, said = hub.call("keep", state, TOKEN="geheim", PATH=f"{git.parent}:{os.environ['PATH']}")  # noqa: S106 - of a test
    assert code == 0
    sent = "eC1hY2Nlc3MtdG9rZW46Z2VoZWlt"  # x-access-token:geheim
    assert f"::add-mask::{sent}" in said
    for line in calls.read_text().splitlines():
        key, value, arguments = line.split(" | ", 2)
        assert key == f"http.file://{tmp_path}/hub/.extraheader"
        assert value == f"AUTHORIZATION: basic {sent}"
        assert sent not in arguments
        assert "geheim" not in arguments
