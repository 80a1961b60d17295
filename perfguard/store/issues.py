"""The issues of a GitHub repository, kept through GitHub's own command line, `gh`.

The guard's issues carry a label, which only people with rights in the repository can give: an issue that a stranger
wrote with the guard's marker in it is not taken for one.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.issue import IssueAction, IssueStep, KnownIssue

LABEL = "perfguard"
_TIMEOUT_S = 120
_MOST_ISSUES = 5_000
_MOST_LABELS = 1_000
_REPOSITORY = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*/[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_Decoded = TypeVar("_Decoded")
_QUIET = {"GH_PROMPT_DISABLED": "1", "GH_NO_UPDATE_NOTIFIER": "1", "NO_COLOR": "1", "CLICOLOR": "0"}


class _Issue(msgspec.Struct, frozen=True):
    number: int
    state: str
    body: str


class _Label(msgspec.Struct, frozen=True):
    name: str


class _Comment(msgspec.Struct, frozen=True):
    body: str


class _Comments(msgspec.Struct, frozen=True):
    comments: list[_Comment]


class GitHubIssues:
    """The guard's issues in one repository."""

    def __init__(self, repository: str, *, label: str = LABEL) -> None:
        """Use `repository`, `OWNER/NAME`; nothing is asked yet.

        Raises:
            UsageError: it is not written so.
        """
        if _REPOSITORY.fullmatch(repository) is None:
            raise UsageError(f"{repository!r} is not a repository of GitHub", hint="write it as OWNER/NAME")
        self._repository = repository
        self._label = label

    def read(self) -> tuple[KnownIssue, ...]:
        """Give every issue that carries the label, open or closed.

        Raises:
            PerfguardError: `gh` is missing, has no token, or could not ask.
        """
        fields = ("--label", self._label, "--state", "all", "--limit", str(_MOST_ISSUES), "--json", "number,state,body")
        found = self._decode(self._gh("issue", "list", *fields), list[_Issue])
        if len(found) >= _MOST_ISSUES:
            raise PerfguardError(
                f"{self._repository} has {_MOST_ISSUES:,} issues or more labelled {self._label}: not all can be read",
                hint=f"take the label {self._label} off old ones that are closed",
            )
        return tuple(
            KnownIssue(number=each.number, is_open=each.state.upper() == "OPEN", body=each.body) for each in found
        )

    def do(self, step: IssueStep) -> int:
        """Take one step; gives the issue's number. What was done of a step that failed is not done again next time.

        The text, which says what an issue tells of, is written after the issue is open again, and before it is closed.

        Raises:
            PerfguardError: `gh` could not do it.
        """
        with tempfile.TemporaryDirectory(prefix="perfguard-issue-") as folder:
            text = Path(folder) / "text.md"
            if step.number is None:
                self._need_label()
                text.write_text(step.body, encoding="utf-8")
                written = ("--title", step.title, "--body-file", str(text), "--label", self._label)
                return _number_in(self._gh("issue", "create", *written))
            number = str(step.number)
            if step.comment and not self._has_comment(number, step.comment.partition("\n")[0]):
                text.write_text(step.comment, encoding="utf-8")
                self._gh("issue", "comment", number, "--body-file", str(text))
            if step.action is IssueAction.REOPEN:
                self._gh("issue", "reopen", number)
            if step.action is not IssueAction.DUPLICATE:
                text.write_text(step.body, encoding="utf-8")
                self._gh("issue", "edit", number, "--title", step.title, "--body-file", str(text))
            if step.action in {IssueAction.CLOSE, IssueAction.DUPLICATE}:
                why = "completed" if step.action is IssueAction.CLOSE else "not planned"
                self._gh("issue", "close", number, "--reason", why)
            return step.number

    def _need_label(self) -> None:
        found = self._decode(self._gh("label", "list", "--limit", str(_MOST_LABELS), "--json", "name"), list[_Label])
        if self._label.lower() not in {each.name.lower() for each in found}:
            self._gh("label", "create", self._label, "--description", "Kept by perfguard's nightly guard")

    def _has_comment(self, number: str, first_line: str) -> bool:
        shown = self._decode(self._gh("issue", "view", number, "--json", "comments"), _Comments)
        return any(each.body.partition("\n")[0].strip() == first_line for each in shown.comments)

    def _gh(self, group: str, verb: str, *arguments: str) -> str:
        words = ["gh", group, verb, *arguments, "--repo", self._repository]
        try:
            done = subprocess.run(
                words,
                env={**os.environ, **_QUIET},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise PerfguardError(
                "there is no `gh` on the PATH", hint="install GitHub's command line (cli.github.com)"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PerfguardError(
                f"`gh {group} {verb}` did not answer within {_TIMEOUT_S} s", hint="publish again: nothing is done twice"
            ) from error
        except OSError as error:
            raise PerfguardError(f"`gh` cannot be started: {error.strerror}") from error
        if done.returncode != 0:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            said = lines[0] if lines else f"exit code {done.returncode}"
            raise PerfguardError(
                f"`gh {group} {verb}` failed for {self._repository}: {said}",
                hint="give a token that may write issues in $GH_TOKEN, and publish again: nothing is done twice",
            )
        return done.stdout

    def _decode(self, text: str, kind: type[_Decoded]) -> _Decoded:
        try:
            return msgspec.json.decode(text.encode(), type=kind)
        except msgspec.MsgspecError as error:
            raise PerfguardError(f"`gh` answered something else than was asked for: {error}") from error


def _number_in(answer: str) -> int:
    """The number of the issue whose URL `gh issue create` printed."""
    found = re.search(r"/issues/(\d+)\s*$", answer)
    if found is None:
        raise PerfguardError(f"`gh issue create` did not say which issue it opened: {answer.strip()[:200]!r}")
    return int(found[1])
