"""actionlint (with shellcheck), zizmor and shellcheck have nothing to say about what a runner is given."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig

import pytest
import yaml
from runner import ACTION, ROOT, WORKFLOWS, read

TOOLS = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"


def tool(name):
    """Find a linter of the extra `dev`: it must be there in CI, where these tests are the point."""
    found = shutil.which(name, path=TOOLS)
    if found is None:
        message = f"{name} is missing: python -m pip install -e '.[dev]'"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(message)
        pytest.skip(message)
    return found


def said(*words, folder=ROOT, text=None):
    done = subprocess.run(
        words,
        cwd=folder,
        input=text,
        env={**os.environ, "PATH": TOOLS, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_actionlint_finds_nothing():
    tool("shellcheck")
    code, text = said(tool("actionlint"), *map(str, sorted(WORKFLOWS.glob("*.yml"))))
    assert (code, text) == (0, "")


def test_zizmor_finds_nothing():
    code, text = said(tool("zizmor"), "--offline", "--no-progress", "--persona=pedantic", ".")
    assert code == 0, text
    assert "No findings to report" in text


def test_shellcheck_finds_nothing():
    checker = tool("shellcheck")
    assert said(checker, ".github/state.sh", ".ci/run") == (0, "")
    for step in read(ACTION)["runs"]["steps"]:
        if "run" in step:
            assert said(checker, "--shell=bash", "-", text=step["run"]) == (0, ""), step["name"]


def snippets():
    """The workflows and the steps that docs/github.md shows, with a hash where it says HASH."""
    text = (ROOT / "docs" / "github.md").read_text().replace("@HASH", "@" + "a" * 40)
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


def test_ten_lines_are_a_workflow_without_findings(tmp_path):
    first = snippets()[0]
    assert len(first.splitlines()) == 10
    path = tmp_path / ".github" / "workflows" / "perfguard.yml"
    path.parent.mkdir(parents=True)
    path.write_text(first)
    assert said(tool("actionlint"), str(path), folder=tmp_path) == (0, "")
    code, text = said(tool("zizmor"), "--offline", "--no-progress", ".", folder=tmp_path)
    assert code == 0, text


def test_the_docs_give_inputs_that_the_action_has():
    shown = 0
    for text in snippets():
        document = yaml.safe_load(text)
        jobs = document["jobs"].values() if "jobs" in document else [document]
        for step in (step for job in jobs for step in job["steps"]):
            if step["uses"].startswith("OWNER/perfguard@"):
                shown += 1
                assert set(step["with"]) <= set(read(ACTION)["inputs"])
    assert shown == 3


def test_the_linters_do_find_what_is_wrong(tmp_path):
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "bad.yml").write_text(
        "name: bad\non: pull_request_target\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n"
        "      - run: echo ${{ github.event.pull_request.title }}\n"
    )
    code, text = said(tool("actionlint"), str(workflows / "bad.yml"), folder=tmp_path)
    assert code == 1
    assert "untrusted" in text
    code, text = said(tool("zizmor"), "--offline", "--no-progress", ".", folder=tmp_path)
    assert code != 0
    assert "template-injection" in text
