"""Finds the running processes that a user means, by id with all children, or by a pattern of their names."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import psutil

from perfguard.model.errors import UsageError
from perfguard.report.clean import clean_text

_PYTHON = re.compile(r"python[\d.]*t?")
_TAKES_VALUE = {"-W", "-X", "--check-hash-based-pycs"}
_MAX_TITLE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveProcess:
    """A running process and its title, fit to show: what it calls itself, or the program or module that it runs."""

    pid: int
    title: str


def find_by_pid(pid: int) -> tuple[LiveProcess, ...]:
    """Return a process and everything below it.

    Raises:
        UsageError: there is no such process.
    """
    try:
        root = psutil.Process(pid)
        members = [root, *root.children(recursive=True)]
    except (psutil.NoSuchProcess, ValueError) as error:
        raise UsageError(f"there is no process {pid}", hint="`pgrep -af python` lists Python's") from error
    live = [found for member in members if (found := _live(member)) is not None]
    if not live:
        raise UsageError(f"process {pid} has ended and waits to be reaped", hint="`pgrep -af python` lists Python's")
    return tuple(live)


def find_by_name(pattern: str) -> tuple[LiveProcess, ...]:
    """Return the processes whose title, or the part of it behind `::`, or whose command matches a shell pattern.

    This process and those above it never match.

    Raises:
        UsageError: none matches.
    """
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        live = None if process.pid in mine else _live(process)
        if live is None:
            continue
        try:
            names = (live.title, live.title.rpartition("::")[2], process.name())
        except psutil.Error:  # it ended since it was listed
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            found.append(live)
    if not found:
        raise UsageError(
            f"no process is called {pattern!r}", hint="`pgrep -af python` lists Python's; quote the pattern"
        )
    return tuple(sorted(found, key=lambda live: live.pid))


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended; one that only waits to be reaped has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def title_of(command: Sequence[str], name: str) -> str:
    """Tell from a command line, and the kernel's name of the process, what it should be called."""
    words = [word for word in command if word]
    if not words:
        return name
    first = words[0]
    program = PurePosixPath(first).name
    if _PYTHON.fullmatch(program) and len(words) > 1:
        return _python_title(words[1:]) or program
    # A process that renamed itself has its title in one piece, `sglang::scheduler_TP0` or `nginx: worker process`.
    return first if "::" in first or ": " in first else program


def _python_title(arguments: Sequence[str]) -> str:
    """Name what Python runs: `-m module` by the module, a script by its file."""
    skip = False
    for index, argument in enumerate(arguments):
        if skip:
            skip = False
        elif argument == "-m" and index + 1 < len(arguments):
            return arguments[index + 1]
        elif argument == "-c":
            return "python -c"
        elif not argument.startswith("-"):
            return PurePosixPath(argument).name
        else:
            skip = argument in _TAKES_VALUE
    return ""


def _live(process: psutil.Process) -> LiveProcess | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        title = title_of(process.cmdline(), process.name())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        title = "?"
    return LiveProcess(pid=process.pid, title=clean_text(title)[:_MAX_TITLE])
