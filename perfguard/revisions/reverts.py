"""The revert of one commit on a later one: merged in a scratch tree of perfguard's cache, as `git revert` would do it.

A revert is a three-way merge whose base is the commit, and whose other side is the commit's parent. Where it is clean
it becomes a commit in perfguard's own store, always the same one for the same history, so that it can be checked out
and measured like any other. The user's clone is only read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perfguard.evidence.sourceindex import index_source
from perfguard.model.fix import RevertConflict
from perfguard.revisions.gitcommand import GitError, last_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from perfguard.model.revision import Revision
    from perfguard.revisions.gitcommand import Git
    from perfguard.revisions.worktrees import Worktrees

# However the user's git is set up, the same revert comes out, and its conflicts can be read.
_MERGE_SETTINGS = (
    "merge.renames=true",
    "merge.directoryRenames=false",
    "merge.conflictStyle=merge",
    "merge.renormalize=false",
    "merge.renameLimit=7000",
    "rerere.enabled=false",
)
_AUTHOR = "perfguard"
_CONFLICTS = 1
_BASE, _OURS, _THEIRS = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Revert:
    """What a revert came to: a `commit` in perfguard's store with its `patch`, or `conflicts`.

    All three are empty where nothing of the reverted commit is left to take back.
    """

    commit: str = ""
    patch: bytes = b""
    conflicts: tuple[RevertConflict, ...] = ()


def revert(store: Git, worktrees: Worktrees, *, culprit: Revision, parent: str, on: Revision) -> Revert:
    """Take back what `culprit` changed since `parent` from the tree of `on`, a later commit.

    Raises:
        PerfguardError: the disk is full, or file contents that a partial clone lacks cannot be fetched.
    """
    with worktrees.scratch(on.commit, label=on.label) as (git, tree):
        settings = [word for setting in _MERGE_SETTINGS for word in ("-c", setting)]
        # Plumbing that works alike in every git from 2.31 on: `merge-tree --write-tree` needs 2.38.
        merged = git.attempt(*settings, "merge-recursive", culprit.commit, "--", on.commit, parent)
        conflicts = tuple(_conflicts(git, tree)) if merged.status == _CONFLICTS else ()
        if conflicts:
            return Revert(conflicts=conflicts)
        if merged.status != 0:
            raise GitError(f"git cannot revert {culprit.label} on {on.label}: {last_line(merged.stderr)}")
        result = git.text("write-tree")
    if result == store.text("rev-parse", f"{on.commit}^{{tree}}"):
        return Revert()
    commit = _commit(store, result, culprit=culprit, on=on)
    options = ("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--find-renames")
    prefixes = ("--src-prefix=a/", "--dst-prefix=b/", "--no-relative", "--diff-algorithm=myers")
    patch = store.run("diff", "--patch", *options, *prefixes, on.commit, commit, "--").stdout
    return Revert(commit=commit, patch=patch)


def as_revision(read: Revision, *, culprit: Revision, on: Revision) -> Revision:
    """Name the commit of a revert as people say it: `BAD without CULPRIT`."""
    return replace(read, label=f"{on.label} without {culprit.label}")


def _commit(store: Git, tree: str, *, culprit: Revision, on: Revision) -> str:
    """Make the commit; nothing in it depends on when, where or by whom it is made."""
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", _AUTHOR), ("EMAIL", f"{_AUTHOR}@localhost"), ("DATE", on.committed_at))
    }
    message = f'Revert "{culprit.subject}"\n\nThis reverts commit {culprit.commit}.'
    made = store.run(
        "-c", "i18n.commitEncoding=UTF-8", "commit-tree", tree, "-p", on.commit, "-m", message, environment=who
    )
    return made.text


def _conflicts(git: Git, tree: Path) -> Iterator[RevertConflict]:
    stages: dict[bytes, dict[int, str]] = {}
    for entry in git.run("ls-files", "--unmerged", "-z").stdout.split(b"\0"):
        if entry:
            head, _, path = entry.partition(b"\t")
            _, blob, stage = head.split()
            stages.setdefault(path, {})[int(stage)] = blob.decode()
    for path, blobs in sorted(stages.items()):
        name = path.decode("utf-8", "replace")
        yield RevertConflict(path=name, reason=_reason(blobs), functions=_functions(git, tree / name, blobs))


def _reason(blobs: dict[int, str]) -> str:
    if _OURS not in blobs:
        return "removed or moved since"
    if _THEIRS not in blobs:
        return "added by the commit and changed since"
    if _BASE not in blobs:
        return "removed by the commit and added again since"
    return "the same lines were changed since"


def _functions(git: Git, merged: Path, blobs: dict[int, str]) -> tuple[str, ...]:
    """Name the functions of the later commit's file that hold the conflicts; empty where the file is no Python."""
    if len(blobs) < _THEIRS or merged.suffix != ".py":
        return ()
    index = index_source(git.run("cat-file", "blob", blobs[_OURS]).text)
    if index is None:
        return ()
    text = merged.read_text(encoding="utf-8", errors="replace")
    scopes = [index.scope_at(line) for line in _conflicting_lines(text)]
    return tuple(dict.fromkeys(scope.name for scope in scopes if scope is not None and scope.name))


def _conflicting_lines(merged: str) -> Iterator[int]:
    """Give the lines of our side (the first is 1) that lie in a conflict; where it has none there, the one before."""
    line = 0
    side = _BASE  # outside of a conflict both sides are one
    for text in merged.split("\n"):
        if text.startswith("<<<<<<< "):
            side, first = _OURS, line
        elif text == "=======" and side == _OURS:
            side = _THEIRS
            if line == first:
                yield line
        elif text.startswith(">>>>>>> ") and side == _THEIRS:
            side = _BASE
        elif side != _THEIRS:
            line += 1
            if side == _OURS:
                yield line
