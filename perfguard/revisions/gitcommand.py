"""Runs git through GitPython, always with the same guards: no hooks, no LFS, no prompts, no lazy writes."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

# GitPython otherwise refuses to be imported where git is missing; we say so ourselves when git is first needed.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import git
from git.exc import GitCommandNotFound

from perfguard.model.errors import PerfguardError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Nothing that the repository or the user's configuration names may run, and what is checked out is what was committed.
_GUARDS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.quotePath=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "filter.lfs.process=",
    "filter.lfs.smudge=",
    "filter.lfs.clean=",
    "filter.lfs.required=false",
    "log.showSignature=false",
    "diff.suppressBlankEmpty=false",
    "diff.orderFile=/dev/null",
)

_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
}

# Reading a partial clone must not make git fetch what is missing INTO that clone. Older gits do not know
# GIT_NO_LAZY_FETCH, but no git fetches over a protocol that is not allowed.
READ_ONLY = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}

# What a surrounding git (a hook, an alias) sets for itself and what would point our commands at its repository.
_INHERITED = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_CONFIG",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
)


class GitError(PerfguardError):
    """git ended with an error; `output` is what it wrote to stderr."""

    def __init__(self, message: str, *, output: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.output = output


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one git command ended."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text, without the last newline."""
        return self.stdout.decode("utf-8", "replace").rstrip("\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """git at one place: `where` are the global options that name it (`-C PATH`, `--git-dir=PATH`)."""

    where: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def reading(cls, path: Path) -> Git:
        """Git in a repository that is not ours: it is discovered from `path`, and nothing is ever fetched into it."""
        return cls(where=("-C", str(path)), environment=READ_ONLY)

    @classmethod
    def in_store(cls, git_dir: Path) -> Git:
        """Git in one of perfguard's own bare repositories."""
        return cls(where=(f"--git-dir={git_dir}",))

    def attempt(
        self, *arguments: str, environment: Mapping[str, str] | None = None, stdin: BinaryIO | None = None
    ) -> Outcome:
        """Run `git ARGUMENTS`, whatever its exit status.

        Raises:
            PerfguardError: git is not installed.
        """
        guards = itertools.chain.from_iterable(("-c", guard) for guard in _GUARDS)
        ours = {**_ENVIRONMENT, **self.environment, **(environment or {})}
        command = [*_without_inherited(ours), "git", *self.where, *guards, *arguments]
        try:
            status, stdout, stderr = git.Git().execute(
                command,
                istream=stdin,
                env=ours,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
            )
        except GitCommandNotFound as error:
            raise PerfguardError("git was not found", hint="install git 2.31 or newer") from error
        return Outcome(status=status, stdout=stdout, stderr=stderr)

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, stdin: BinaryIO | None = None
    ) -> Outcome:
        """Run `git ARGUMENTS`, which must end well.

        Raises:
            GitError: git ended with an error.
            PerfguardError: git is not installed.
        """
        outcome = self.attempt(*arguments, environment=environment, stdin=stdin)
        if outcome.status != 0:
            verb = next(word for word in arguments if not word.startswith("-"))
            raise GitError(f"git {verb} failed: {last_line(outcome.stderr)}", output=outcome.stderr)
        return outcome

    def text(self, *arguments: str) -> str:
        """Standard output of `run(ARGUMENTS)` as text, without the last newline."""
        return self.run(*arguments).text


def last_line(output: str) -> str:
    """The line of git's stderr that says why: the first `fatal:` or `error:`, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return (telling or lines[-1:] or ["no message"])[0]


def _without_inherited(ours: Mapping[str, str]) -> list[str]:
    """The `env -u` that hides a surrounding git from ours; GitPython can add to an environment, not take away."""
    present = [name for name in _INHERITED if name in os.environ and name not in ours]
    return ["env", *itertools.chain.from_iterable(("-u", name) for name in present)] if present else []
