"""A small GitHub runner: it runs the jobs of a workflow file and the steps of the composite action as bash scripts.

What a runner sets is set (GITHUB_* variables and files, RUNNER_*), expressions are evaluated, and the actions of
others (artifacts, caches) are played by copying folders. A step without a part here is written down and does nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"
WORKFLOWS = ROOT / ".github" / "workflows"
REPOSITORY = "ada/shop"
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_STATUS = re.compile(r"\b(always|cancelled|failure|success)\(")
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+)|(?P<sign>\|\||&&|==|!=|[!(),])|(?P<name>[A-Za-z_][\w.-]*))"
)


def read(path):
    """Read a YAML file; `on` is a key like any other."""
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # noqa: S506 - it makes texts only


@dataclass
class Run:
    """What a job left behind: its steps' outcomes and outputs, what it printed, and the actions of others it called."""

    steps: dict = field(default_factory=dict)
    printed: str = ""
    called: list = field(default_factory=list)
    ran: list = field(default_factory=list)
    failed: bool = False


class Runner:
    """A machine of one job: a workspace, a temporary folder, and where artifacts and caches are kept."""

    def __init__(self, root, *, store, environment=None):
        self.workspace = root / "workspace"
        self.temp = root / "temp"
        self.summary = root / "summary.md"
        self._output = root / "output"
        self.store = store
        for folder in (self.workspace, self.temp, store):
            folder.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "HOME": str(root),
            "PYTHONPATH": str(ROOT),
            "PERFGUARD_CACHE_DIR": str(root / "cache"),
            "PERFGUARD_RUNS_DIR": str(root / "runs"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "NO_COLOR": "1",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_WORKSPACE": str(self.workspace),
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_SERVER_URL": "file:///nowhere",
            "GITHUB_RUN_ID": "7",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_OUTPUT": str(self._output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_ENV": str(root / "env"),
            "GITHUB_PATH": str(root / "path"),
            "RUNNER_TEMP": str(self.temp),
            "RUNNER_OS": "Linux",
            "RUNNER_ENVIRONMENT": "self-hosted",
            **(environment or {}),
        }

    def program(self, path, script):
        """Put an executable at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def install(self, script=f'#!/bin/sh\nexec "{sys.executable}" -m perfguard.cli.main "$@"\n'):
        """Have perfguard installed already, where the action puts it."""
        self.program(self.temp / "perfguard" / "bin" / "perfguard", script)

    def job(self, workflow, job, *, skip=(), **context):
        """Run a job of a workflow file; `skip` are names of steps that are left out."""
        return self._steps(read(workflow)["jobs"][job]["steps"], self._context(context), Run(), skip)

    def action(self, given, *, skip=("Install perfguard",), **context):
        """Run the composite action with these inputs."""
        return self._action(given, self._context(context), Run(), skip)

    def _context(self, given):
        return {"github": {"token": "the-token", "run_id": "7", "run_attempt": "1"}, "inputs": {}, "vars": {}, **given}

    def _action(self, given, context, run, skip):
        action = read(ACTION)
        unknown = set(given) - set(action["inputs"])
        assert not unknown, f"the action has no input {unknown}"
        inputs = {name: interpolate(each["default"], context, self, run) for name, each in action["inputs"].items()}
        inner = Run(printed=run.printed, called=run.called, ran=run.ran)
        done = self._steps(action["runs"]["steps"], {**context, "inputs": {**inputs, **given}}, inner, skip)
        run.printed, run.failed = done.printed, run.failed or done.failed
        run.steps.update(done.steps)
        return run

    def _steps(self, steps, context, run, skip):
        for step in steps:
            name = step.get("name", step.get("uses"))
            wanted = step.get("if", "")
            wanted = wanted.strip().removeprefix("${{").removesuffix("}}")
            is_due = not run.failed if not _STATUS.search(wanted) else True
            is_due = is_due and (not wanted or bool(evaluate(wanted, context, self, run)))
            outcome, outputs = "skipped", {}
            if is_due and name not in skip:
                outcome, outputs = self._step(step, name, context, run, skip)
                run.failed = run.failed or outcome == "failure"
            if "id" in step:
                run.steps[step["id"]] = {"outcome": outcome, "outputs": outputs}
        return run

    def _step(self, step, name, context, run, skip):
        if "run" in step:
            environment = {key: interpolate(value, context, self, run) for key, value in step.get("env", {}).items()}
            return self._bash(step["run"], environment, name, run)
        given = {key: interpolate(value, context, self, run) for key, value in step.get("with", {}).items()}
        if step["uses"] == "./":
            inner = self._action(given, context, Run(printed=run.printed, called=run.called, ran=run.ran), skip)
            run.printed = inner.printed
            return ("failure" if inner.failed else "success"), {}
        action = step["uses"].partition("@")[0]
        run.called.append((action, given))
        play = getattr(self, "_" + re.sub(r"\W", "_", action), None)
        return (play(given) if play else "success"), {}

    def bash(self, script, environment=None):
        """Run a script as a step is run."""
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.workspace,
            env={**self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )

    def _bash(self, script, environment, name, run):
        self._output.write_text("")
        done = self.bash(script, environment)
        run.printed += done.stdout
        run.ran.append((name, done.returncode))
        lines = (line.partition("=") for line in self._output.read_text().splitlines())
        return ("failure" if done.returncode else "success"), {key: value for key, _, value in lines}

    def _actions_upload_artifact(self, given):
        target = self.store / given["name"]
        shutil.rmtree(target, ignore_errors=True)
        lines = given["path"].split()
        left_out = [self.workspace / line[1:] for line in lines if line.startswith("!")]
        for line in lines:
            if not line.startswith("!"):
                _copy(self.workspace / line, target, left_out)
        return "success"

    def _actions_download_artifact(self, given):
        source = self.store / given["name"]
        if not source.is_dir():
            return "failure"
        shutil.copytree(source, self.workspace / given["path"], dirs_exist_ok=True)
        return "success"

    def _actions_cache_save(self, given):
        for path in self.workspace.glob(given["path"]):
            kept = self.store / "cache" / path.relative_to(self.workspace)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept)
        return "success"

    def _actions_cache_restore(self, _given):
        kept = self.store / "cache"
        if kept.is_dir():
            shutil.copytree(kept, self.workspace, dirs_exist_ok=True)
        return "success"


def _copy(source, target, left_out):
    """Put files into an artifact as the runner does: hidden ones stay behind, and names begin at the folder."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    for path in files:
        inside = path.relative_to(source.parent if source.is_file() else source)
        if any(part.startswith(".") for part in inside.parts) or any(path.is_relative_to(each) for each in left_out):
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / inside)


def interpolate(text, context, runner, run):
    """Fill in the expressions of a text."""
    return _EXPRESSION.sub(lambda match: _shown(evaluate(match[1], context, runner, run)), text)


def _shown(value):
    return {None: "", True: "true", False: "false"}[value] if value in (None, True, False) else str(value)


def evaluate(expression, context, runner, run):
    """Give the value of one expression of GitHub's language, as far as the files here use it."""
    tokens, place = [], 0
    expression = expression.strip()
    while place < len(expression):
        found = _TOKEN.match(expression, place)
        assert found, f"cannot read {expression[place:]!r}"
        tokens.append((found.lastgroup, found[found.lastgroup]))
        place = found.end()
    reader = _Reader(tokens, context, runner, run)
    value = reader.either()
    assert not reader.tokens, f"left over in {expression!r}: {reader.tokens}"
    return value


class _Reader:
    def __init__(self, tokens, context, runner, run):
        self.tokens = tokens
        self._context = context
        self._runner = runner
        self._run = run

    def _take(self, *signs):
        if self.tokens and self.tokens[0] in [("sign", sign) for sign in signs]:
            return self.tokens.pop(0)[1]
        return None

    def either(self):
        value = self._both()
        while self._take("||"):
            other = self._both()
            value = value or other
        return value

    def _both(self):
        value = self._compared()
        while self._take("&&"):
            other = self._compared()
            value = value and other
        return value

    def _compared(self):
        value = self._one()
        sign = self._take("==", "!=")
        if sign is None:
            return value
        other = self._one()
        # To GitHub, what is not there equals the empty text.
        return (("" if value is None else value) == ("" if other is None else other)) is (sign == "==")

    def _one(self):
        if self._take("!"):
            return not self._one()
        if self._take("("):
            value = self.either()
            assert self._take(")")
            return value
        kind, text = self.tokens.pop(0)
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            return int(text)
        assert kind == "name", text
        if self._take("("):
            arguments = []
            while not self._take(")"):
                arguments.append(self.either())
                self._take(",")
            return self._function(text, arguments)
        return self._path(text)

    def _function(self, name, arguments):
        values = {
            "always": lambda: True,
            "cancelled": lambda: False,
            "success": lambda: not self._run.failed,
            "failure": lambda: self._run.failed,
            "fromJSON": json.loads,
            "hashFiles": lambda pattern: "".join(map(str, sorted(self._runner.workspace.glob(pattern)))),
        }
        return values[name](*arguments)

    def _path(self, text):
        value = {**self._context, "steps": self._run.steps}
        for part in text.split("."):
            value = (value or {}).get(part)
        return value
