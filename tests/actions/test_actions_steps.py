"""Every `run:` step of the workflows and of the action, run as a runner would: exit codes, files, branch, issues."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "report"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "revisions"))

import sample_nights
from revisions_support import GitRepo
from runner import ACTION, REPOSITORY, ROOT, WORKFLOWS, Runner, read

from perfguard.model.night import AlertState, NightVerdict
from perfguard.store.nights import NightStore

SERVER = "https://hub.example.org"
BRANCH = "perfguard-state"
FAKE_GH = ROOT / "tests" / "unit" / "store" / "fake_gh.py"
COMMIT = "a" * 40
NIGHTLY, PR, CI = (WORKFLOWS / f"{name}.yml" for name in ("nightly", "pr", "ci"))
QUIET_NIGHT = f"""#!/bin/bash
if [ "$1" = nightly ]; then exit 0; fi
exec "{sys.executable}" -m perfguard.cli.main "$@"
"""
# Which test runs a step; a new step needs one.
RUN_BY = {
    ("action.yml", "Install perfguard"): "test_perfguard_is_installed_into_a_folder_of_its_own",
    ("action.yml", "Let the profiler read the servers"): "test_only_a_machine_of_github_is_set_up_for_the_profiler",
    ("action.yml", "Fetch the state"): "test_a_first_night_in_one_job",
    ("action.yml", "Measure the night"): "test_a_first_night_in_one_job",
    ("action.yml", "Make the site"): "test_a_first_night_in_one_job",
    ("action.yml", "Keep the state"): "test_a_first_night_in_one_job",
    ("action.yml", "Keep the issues"): "test_a_regression_in_the_jobs_of_the_workflow",
    ("action.yml", "Compare"): "test_a_pull_request_is_compared_with_where_it_began",
    ("action.yml", "Say how it ended"): "test_the_job_ends_as_perfguard_did",
    ("pr.yml", "Find where the pull request began"): "test_a_pull_request_is_compared_with_where_it_began",
    ("ci.yml", "The README's test command"): "test_ci_runs_the_command_of_the_readme",
}


class World:
    """A repository on a server that keeps the state's branch, its issues, and a server's clone to guard."""

    def __init__(self, root):
        self.root = root
        self.hub = root / "hub" / f"{REPOSITORY}.git"
        self.hub.parent.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", str(self.hub))
        self._git_config = root / "gitconfig"
        self._git_config.write_text(f'[url "file://{root}/hub/"]\n\tinsteadOf = {SERVER}/\n')
        self._issues = root / "gh.json"
        self._issues.write_text(json.dumps({"calls": [], "issues": [], "labels": [], "fail": {}}))
        self.clone = GitRepo(root / "clone")
        self.clone.commit("First", speed="1\n")

    def git(self, *arguments):
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    def runner(self, name, **environment):
        made = Runner(
            self.root / name,
            store=self.root / "artifacts",
            environment={
                "GITHUB_SERVER_URL": SERVER,
                "GIT_CONFIG_GLOBAL": str(self._git_config),
                "FAKE_GH": str(self._issues),
                **environment,
            },
        )
        made.program(made.workspace.parent / "bin" / "gh", f'#!/bin/sh\nexec "{sys.executable}" "{FAKE_GH}" "$@"\n')
        return made

    @property
    def issues(self):
        return json.loads(self._issues.read_text())["issues"]

    @property
    def kept(self):
        return self.git("-C", str(self.hub), "ls-tree", "-r", "--name-only", BRANCH).split()


@pytest.fixture
def world(tmp_path, monkeypatch):
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, os.devnull)
    return World(tmp_path)


def slow_night(world, root):
    """A perfguard whose `nightly` keeps a night that found a regression, as a real one would after an hour."""
    made = NightStore(root / "made")
    made.prepare()
    night = sample_nights.night(
        1, NightVerdict.REGRESSION, -9, alerts=(sample_nights.alert(COMMIT, AlertState.OPEN, 1, 1),),
        report="runs/n1-bisect/report.html",
    )  # fmt: skip
    path = made.add_night(night)
    return f"""#!/bin/bash
if [ "$1" != nightly ]; then exec "{sys.executable}" -m perfguard.cli.main "$@"; fi
printf '%s\\n' "$@" > "{root}/arguments"
for word in "$@"; do
  case "$word" in --state=*) state="${{word#*=}}" ;; --output=*) output="${{word#*=}}" ;; esac
done
mkdir -p "$state/nights" "$state/runs/n1-bisect" "$output"
cp "{path}" "$state/nights/"
echo "<p>the report</p>" > "$state/runs/n1-bisect/report.html"
echo "::error title=perfguard::It is slower." > "$output/annotations.txt"
echo "::error::said by a subject"
exit 1
"""


def test_a_first_night_in_one_job(world):
    runner = world.runner("one")
    runner.install()
    run = runner.action({"repo": str(world.clone.path), "branch": "main"})
    assert run.ran[-1] == ("Say how it ended", 0)
    assert not run.failed
    assert "No regression" in run.printed
    (night,) = world.kept
    assert night.startswith("nights/")
    assert "## ● First" in runner.summary.read_text()
    folder = runner.workspace / "perfguard-night"
    assert (folder / "output" / "summary.md").is_file()
    assert (folder / "site" / "index.html").is_file()
    assert (world.root / "artifacts" / "perfguard-night" / night.replace("nights", "state/nights")).is_file()
    assert world.issues == []
    assert run.steps["night"]["outputs"] == {"exit-code": "0"}

    # The next night, on a fresh machine, knows the first.
    again = world.runner("two")
    again.install()
    assert not again.action({"repo": str(world.clone.path), "branch": "main"}).failed
    assert len(world.kept) == 2
    assert "is the baseline" in again.summary.read_text()


def test_a_regression_in_the_jobs_of_the_workflow(world, tmp_path):
    measuring = world.runner("measure")
    measuring.install(slow_night(world, tmp_path))
    inputs = {"repo": str(world.clone.path), "branch": "main", "max-trials": "40"}
    run = measuring.job(NIGHTLY, "measure", skip=("Install perfguard",), inputs=inputs)
    assert run.failed
    assert run.ran[-1] == ("Say how it ended", 1)
    given = (tmp_path / "arguments").read_text().split("\n")
    assert f"--repo={world.clone.path}" in given
    assert "--max-trials=40" in given
    assert "--scenario=mm-small-images" in given
    # What perfguard prints is no command of the workflow; what it annotates is one.
    commands = [line for line in run.printed.splitlines() if line.startswith("::")]
    mask, pause, quiet, resume, *rest = commands
    assert mask.startswith("::add-mask::")
    assert pause == f"::stop-commands::{resume.strip(':')}"
    assert quiet == "::error::said by a subject"
    assert rest[0] == "::error title=perfguard::It is slower."
    assert world.git("-C", str(world.hub), "branch").split() == []  # this job pushes nothing
    assert world.issues == []
    artifact = world.root / "artifacts" / "perfguard-night"
    assert (artifact / "site" / "reports" / "n1.html").is_file()
    assert not (artifact / "state" / "runs").exists()

    publishing = world.runner("publish")
    publishing.install()
    done = publishing.job(
        NIGHTLY, "publish", skip=("Install perfguard",), vars={"PERFGUARD_SITE_URL": "https://s.example.org"}
    )
    assert not done.failed
    assert [name for name, _ in done.ran] == ["Fetch the state", "Keep the state", "Keep the issues"]
    assert world.kept == ["nights/n1.json"]
    (issue,) = world.issues
    assert issue["title"] == f"perfguard: Slower since {COMMIT[:12]}"
    assert "(https://s.example.org/reports/n1.html)" in issue["body"]

    # Run again, it opens nothing twice.
    repeated = world.runner("publish-again")
    repeated.install()
    assert not repeated.job(NIGHTLY, "publish", skip=("Install perfguard",)).failed
    assert len(world.issues) == 1


@pytest.mark.slow
def test_reports_of_older_nights_stay_on_the_site_until_they_are_old(world, tmp_path):
    first = world.runner("first")
    first.install(slow_night(world, tmp_path))
    first.action({"mode": "night", "repo": str(world.clone.path)})
    second = world.runner("second")
    second.install(
        f'#!/bin/bash\nif [ "$1" = nightly ]; then exit 0; fi\nexec "{sys.executable}" -m perfguard.cli.main "$@"\n'
    )
    second.action({"mode": "measure", "repo": str(world.clone.path)})
    assert (second.workspace / "perfguard-night" / "site" / "reports" / "n1.html").is_file()
    cached = next((world.root / "artifacts" / "cache").rglob("report.html"))
    os.utime(cached, (0, 0))
    third = world.runner("third")
    third.install(QUIET_NIGHT)
    third.action({"mode": "measure", "repo": str(world.clone.path)})
    assert (third.workspace / "perfguard-night" / "site" / "index.html").is_file()
    assert not (third.workspace / "perfguard-night" / "site" / "reports").exists()


def test_a_repository_that_cannot_be_fetched_fails_and_runs_nothing(world):
    repo, branch = "--help$(touch pwned)`touch pwned`", '-x"; touch pwned; "'
    runner = world.runner("one")
    runner.install()
    run = runner.action({"repo": repo, "branch": branch, "mode": "measure"})
    assert run.failed
    assert run.ran[-1] == ("Say how it ended", 125)
    assert "could not be told" in run.printed
    assert not list(world.root.rglob("pwned"))


def test_a_state_that_cannot_be_fetched_stops_the_night(world):
    runner = world.runner("one", GITHUB_SERVER_URL="file:///nowhere")
    runner.install()
    run = runner.action({"repo": str(world.clone.path)})
    assert run.failed
    assert [name for name, _ in run.ran] == ["Let the profiler read the servers", "Fetch the state"]


def test_the_job_ends_as_perfguard_did(world):
    for code, said in ((0, "No regression"), (1, "A regression"), (125, "could not be told"), (130, "exit code 130")):
        runner = world.runner(f"code-{code}")
        runner.install(f'#!/bin/sh\n[ "$1" = nightly ] && exit {code}\nmkdir -p perfguard-night/site\nexit 0\n')
        run = runner.action({"mode": "measure"})
        assert run.ran[-1] == ("Say how it ended", code)
        assert said in run.printed


def test_only_a_machine_of_github_is_set_up_for_the_profiler(world):
    for kind, calls in (
        ("self-hosted", ""),
        ("github-hosted", "-n sysctl --quiet --write kernel.yama.ptrace_scope=0\n"),
    ):
        runner = world.runner(kind, RUNNER_ENVIRONMENT=kind)
        told = runner.workspace.parent / "sudo"
        told.write_text("")
        runner.program(runner.workspace.parent / "bin" / "sudo", f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{told}"\n')
        runner.install("#!/bin/sh\nmkdir -p perfguard-night/state/runs\nexit 0\n")
        runner.action({"mode": "measure"})
        assert told.read_text() == calls


def test_a_pull_request_is_compared_with_where_it_began(world, tmp_path):
    runner = world.runner("pr")
    runner.workspace.rmdir()
    repo = GitRepo(runner.workspace)
    repo.commit("Base", **{"perfguard.toml": "name = 'x'\n"})
    began = repo.git("rev-parse", "HEAD")
    repo.git("checkout", "-q", "-b", "change")
    repo.commit("Head", speed="2\n")
    head = repo.git("rev-parse", "HEAD")
    repo.git("checkout", "-q", "main")
    repo.commit("Later on the base", other="3\n")
    base = repo.git("rev-parse", "HEAD")
    repo.git("checkout", "-q", "change")
    told = tmp_path / "told"
    runner.install(f"""#!/bin/bash
printf '%s\\n' "$@" > {told}
echo '## ▲ Slower' > perfguard-night/comment.md
mkdir -p perfguard-night/run && echo report > perfguard-night/run/report.html
exit 1
""")
    event = {"event": {"pull_request": {"head": {"sha": head}, "base": {"sha": base}, "number": "3"}}}
    run = runner.job(PR, "compare", skip=("Install perfguard",), github={"token": "t", **event})
    assert told.read_text().split() == [
        "compare", "--repo=.", "--scenario=perfguard.toml", "--run-dir=perfguard-night/run",
        "--markdown=perfguard-night/comment.md", "--", began, head,
    ]  # fmt: skip
    assert run.failed
    assert run.ran[-1] == ("Say how it ended", 1)
    assert runner.summary.read_text() == "## ▲ Slower\n"
    kept = world.root / "artifacts" / "perfguard-compare"
    assert {path.name for path in kept.rglob("*")} == {"comment.md", "report.html"}

    (runner.workspace / "perfguard.toml").unlink()
    without = runner.job(PR, "compare", skip=("Install perfguard",), github={"token": "t", **event})
    assert not without.failed
    assert "There is no perfguard.toml" in without.printed
    assert [name for name, _ in without.ran] == ["Find where the pull request began"]


def test_what_cannot_be_compared_is_red(world):
    runner = world.runner("pr")
    runner.install()
    run = runner.action({"mode": "compare", "repo": str(world.clone.path), "base": "nothing", "head": "--such"})
    assert run.failed
    assert run.ran[-1] == ("Say how it ended", 129)


def test_ci_runs_the_command_of_the_readme(world):
    runner = world.runner("ci")
    runner.program(runner.workspace / ".ci" / "run", "#!/bin/sh\npwd > ran\nexit 3\n")
    run = runner.job(CI, "test")
    assert run.ran == [("The README's test command", 3)]
    assert run.failed
    assert (runner.workspace / "ran").read_text().strip() == str(runner.workspace)


@pytest.mark.slow
def test_perfguard_is_installed_into_a_folder_of_its_own(world, tmp_path):
    # A package of the same name without dependencies: perfguard's own take a minute.
    package = tmp_path / "action"
    (package / "perfguard").mkdir(parents=True)
    (package / "perfguard" / "__init__.py").write_text("def main():\n    print('installed')\n")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "perfguard"\nversion = "1"\nscripts = { perfguard = "perfguard:main" }\n'
    )
    runner = world.runner("install", GITHUB_ACTION_PATH=str(package), PYTHONPATH="")
    others = {step["name"] for step in read(ACTION)["runs"]["steps"]} - {"Install perfguard"}
    run = runner.action({}, skip=others)
    assert run.ran == [("Install perfguard", 0)], run.printed
    said = runner.bash('"$RUNNER_TEMP/perfguard/bin/perfguard"')
    assert (said.returncode, said.stdout) == (0, "installed\n")


def run_steps():
    files = {ACTION.name: read(ACTION)["runs"]["steps"]}
    for path in sorted(WORKFLOWS.glob("*.yml")):
        files[path.name] = [step for job in read(path)["jobs"].values() for step in job["steps"]]
    return [(name, step) for name, steps in files.items() for step in steps if "run" in step]


def test_every_run_step_has_its_test():
    assert {(name, step["name"]) for name, step in run_steps()} == set(RUN_BY)
    assert set(RUN_BY.values()) <= set(globals())


def test_no_expression_stands_in_a_script():
    for name, step in run_steps():
        assert "${{" not in step["run"], (name, step["name"])


def test_every_action_of_others_is_pinned_by_its_hash_with_its_version():
    used = []
    for path in (ACTION, *WORKFLOWS.glob("*.yml")):
        used += re.findall(r"^ +(?:- )?uses: (.*)", path.read_text(), re.MULTILINE)
    for each in used:
        assert each == "./" or re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each
    # One hash an action, wherever it is used.
    assert len({each.partition("@")[0].split("/")[1] for each in used if "@" in each}) == len(
        {each.partition("@")[2] for each in used if "@" in each}
    )


def test_a_job_that_runs_foreign_code_can_write_nothing():
    nightly, pr = read(NIGHTLY), read(PR)
    assert nightly["permissions"] == {}
    assert nightly["jobs"]["measure"]["permissions"] == {"contents": "read"}
    assert nightly["jobs"]["publish"]["permissions"] == {"contents": "write", "issues": "write"}
    assert pr["permissions"] == {"contents": "read"}
    assert list(pr["on"]) == ["pull_request"]
    assert "secrets" not in PR.read_text() + NIGHTLY.read_text() + ACTION.read_text()
    for path in (NIGHTLY, PR, CI):
        for job in read(path)["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] == "false"
