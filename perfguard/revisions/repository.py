"""Revisions of a git repository: names, ranges, checked out trees and diffs, without ever touching the user's clone."""

from __future__ import annotations

import difflib
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError, UnknownRevisionError, UsageError
from perfguard.model.revision import HistoryKind, Hunk, Revision, RevisionChange, RevisionRange
from perfguard.revisions.cachefiles import cache_errors
from perfguard.revisions.patches import parse_changes, parse_patch
from perfguard.revisions.reverts import Revert, as_revision, revert
from perfguard.revisions.stores import borrow_clone, inspect_clone, is_url, mirror_url, without_credentials
from perfguard.revisions.worktrees import Worktrees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.progress import Progress
    from perfguard.revisions.gitcommand import Git

_FIELDS = ("%H", "%h", "%s", "%an", "%cI")
_FORMAT = "--format=" + "%x00".join(_FIELDS)


class Repository:
    """A history whose revisions can be named, listed, checked out and compared.

    `kind` says what a revision is, `origin` where the history comes from (a path, a URL without credentials, or a
    package's name).
    """

    def __init__(
        self,
        *,
        kind: HistoryKind,
        origin: str,
        store: Git,
        names: Git,
        cache_dir: Path,
        progress: Progress,
        clone_path: Path | None = None,
    ) -> None:
        """Put a history together; use `Repository.open` or `release_history`.

        Args:
            kind: what a revision is.
            origin: where the history comes from, as shown to people.
            store: perfguard's own bare repository; everything is read from it.
            names: where refs are resolved: the user's clone, or the store itself.
            cache_dir: perfguard's cache.
            progress: where progress goes.
            clone_path: the user's clone, for hints that name a command.
        """
        self.kind = kind
        self.origin = origin
        self._store = store
        self._names = names
        self._clone_path = clone_path
        self._progress = progress
        store_dir = Path(store.text("rev-parse", "--absolute-git-dir"))
        self._shallow_file = store_dir / "shallow"
        self._worktrees = Worktrees(
            store=store, root=cache_dir.absolute() / "worktrees" / store_dir.stem, progress=progress
        )

    @classmethod
    def open(cls, location: str, *, cache_dir: Path, progress: Progress, fresh: bool = False) -> Repository:
        """Open the repository at `location`: a local clone (work tree, bare, or its `.git`) or a URL.

        A local clone is only read: a store in `cache_dir` borrows its objects. A URL is cloned into `cache_dir` once,
        without file contents, and fetched again on every later call. Where a later fetch fails, what was fetched
        before is used, unless it has to be `fresh`.

        Raises:
            UsageError: `location` is not a repository, or git refuses to read it.
            PerfguardError: the URL cannot be fetched, git is missing, or the cache cannot be written.
        """
        cache_dir = cache_dir.absolute()
        if is_url(location):
            with cache_errors(cache_dir):
                store = mirror_url(location, cache_dir=cache_dir, progress=progress, fresh=fresh)
            origin = without_credentials(location)
            return cls(
                kind=HistoryKind.COMMITS,
                origin=origin,
                store=store,
                names=store,
                cache_dir=cache_dir,
                progress=progress,
            )
        clone = inspect_clone(location)
        with cache_errors(cache_dir):
            store = borrow_clone(clone, cache_dir=cache_dir, progress=progress)
        if clone.has_uncommitted_changes():
            progress.say(f"{clone.root} has uncommitted changes; they are not measured, only commits are")
        return cls(
            kind=HistoryKind.COMMITS,
            origin=str(clone.root),
            store=store,
            names=clone.git,
            cache_dir=cache_dir,
            progress=progress,
            clone_path=clone.root,
        )

    def resolve(self, ref: str) -> Revision:
        """The revision that `ref` names: a tag, a branch, a short hash, `HEAD~3`, or anything else git can name.

        Raises:
            UnknownRevisionError: nothing, or more than one commit, has that name; the hint lists near names.
        """
        found = self._names.attempt("rev-parse", "--verify", ref) if ref and not ref.startswith("-") else None
        commit = self._names.attempt("rev-parse", "--verify", f"{found.text}^{{commit}}") if found else None
        if commit is not None and commit.status == 0:
            return self._revisions("--max-count=1", commit.text)[0]
        if found is not None and "is ambiguous" in found.stderr:
            raise UnknownRevisionError(f"{ref} names more than one commit in {self.origin}", hint="give more digits")
        raise UnknownRevisionError(f"{ref!r} names no commit in {self.origin}", hint=self._how_to_find(ref))

    def between(self, good: str, bad: str) -> RevisionRange:
        """The revisions from `good` to `bad`, both included, oldest first.

        They are `good`, then the commits of `bad`'s first-parent chain that `good` does not contain: what landed on
        the main line since, a merge counting as one revision. Where `good` lies on that chain this is the chain between
        the two. Where `good` came in through a merge, the list starts with `good` itself and goes on where the main
        line left `good`'s history, so that nothing that `bad` has and `good` has not can hide outside of it.

        Raises:
            UnknownRevisionError: an end is unknown.
            UsageError: both ends are one commit, `good` is no ancestor of `bad`, or a shallow clone lacks the history
                between them.
        """
        first, last = self.resolve(good), self.resolve(bad)
        if first.commit == last.commit:
            raise UsageError(
                f"{good} and {bad} are the same revision, {first.label}", hint="pass two different revisions"
            )
        self._check_ancestry(first, last)
        chain = self._revisions("--first-parent", "--reverse", last.commit, f"^{first.commit}")
        oldest_parent = self._first_parent(chain[0].commit)
        if oldest_parent is None and self._is_cut(chain[0].commit):
            raise self._cut_history(f"the main line before {chain[0].label} is missing")
        if oldest_parent != first.commit:
            self._progress.say(
                f"{first.label} came into the main line of {last.label} through a merge; "
                f"the range goes on from {chain[0].label}, the first main-line commit that {first.label} lacks"
            )
        return RevisionRange(kind=self.kind, origin=self.origin, revisions=(first, *chain))

    def common_ancestor(self, one: Revision, other: Revision) -> Revision | None:
        """Where the histories of two revisions parted, None where they have nothing in common.

        It is `one` itself where `other` descends from it.
        """
        base = self._store.attempt("merge-base", one.commit, other.commit)
        return self._revisions("--max-count=1", base.text)[0] if base.status == 0 else None

    def worktree(self, revision: Revision) -> Path:
        """The path of a checked out tree of `revision`, in perfguard's cache.

        A tree that is there is used again if its tracked files are as committed; else it is made anew.

        Raises:
            PerfguardError: the disk is full, or file contents that a partial clone lacks cannot be fetched.
        """
        return self._worktrees.checked_out(revision.commit, label=revision.label)

    def hunks(self, revision: Revision) -> tuple[Hunk, ...]:
        """The hunks of `revision`'s diff against its first parent, three lines of context around each change.

        Raises:
            UsageError: the parent is missing from a shallow clone.
        """
        parent = self._first_parent(revision.commit)
        if parent is None and self._is_cut(revision.commit):
            raise self._cut_history(f"the parent of {revision.label} is missing")
        base = parent or self._store.text("hash-object", "-t", "tree", "--stdin")  # no input: the empty tree
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--find-renames", "--unified=3", "--no-relative")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--diff-algorithm=myers")
        return parse_patch(self._store.text("diff", "--patch", *options, *prefixes, base, revision.commit, "--"))

    def changes(self, revisions: Sequence[Revision]) -> tuple[RevisionChange, ...]:
        """What each of `revisions` changed against the one before it in the list; the first one's is empty.

        One git process reads them all: 1,000 commits take seconds.
        """
        pairs = "".join(f"{new.commit} {old.commit}\n" for old, new in itertools.pairwise(revisions))
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--unified=3", "--no-relative")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--diff-algorithm=myers")
        with tempfile.TemporaryFile() as stdin:
            stdin.write(pairs.encode())
            stdin.seek(0)
            read = self._store.run(
                "diff-tree", "--stdin", "-r", "--always", "--raw", "--patch", *options, *prefixes, stdin=stdin
            )
        return (RevisionChange(paths=frozenset(), hunks=()), *parse_changes(read.text, len(revisions) - 1))

    def revert(self, culprit: Revision, *, on: Revision) -> tuple[Revert, Revision | None]:
        """Revert `culprit` on `on`, a later revision; what that came to, and the revision to measure if it is clean.

        Raises:
            UsageError: the parent is missing from a shallow clone.
            PerfguardError: the disk is full, or file contents that a partial clone lacks cannot be fetched.
        """
        parent = self._first_parent(culprit.commit)
        if parent is None:
            raise self._cut_history(f"the parent of {culprit.label} is missing")
        done = revert(self._store, self._worktrees, culprit=culprit, parent=parent, on=on)
        if not done.commit:
            return done, None
        return done, as_revision(self._revisions("--max-count=1", done.commit)[0], culprit=culprit, on=on)

    def remove_worktrees(self) -> None:
        """Remove every checked out tree of this repository from perfguard's cache."""
        self._worktrees.remove_all()

    def _label(self, commit: str, short_hash: str) -> str:  # noqa: ARG002 - a release history has labels of its own
        """What people call `commit`."""
        return short_hash

    def _known_names(self) -> list[str]:
        """Branches and tags, for the near names of an unknown one."""
        return self._names.text(
            "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes"
        ).splitlines()

    def _revisions(self, *arguments: str) -> tuple[Revision, ...]:
        listed = self._store.text("log", "--no-color", "--no-decorate", "--encoding=UTF-8", _FORMAT, *arguments, "--")
        return tuple(self._revision(line) for line in listed.split("\n") if line)

    def _revision(self, line: str) -> Revision:
        commit, short_hash, subject, author, committed_at = line.split("\0")
        return Revision(
            commit=commit,
            label=self._label(commit, short_hash),
            subject=subject,
            author=author,
            committed_at=committed_at,
        )

    def _check_ancestry(self, good: Revision, bad: Revision) -> None:
        if self._is_ancestor(good, bad):
            return
        if self._is_ancestor(bad, good):
            raise UsageError(
                f"BAD {bad.label} is an ancestor of GOOD {good.label}; swap them",
                hint="GOOD is the older, faster revision",
            )
        if self._shallow_file.exists():
            raise self._cut_history(f"the history between {good.label} and {bad.label} is missing")
        common = self.common_ancestor(good, bad)
        if common is None:
            raise UsageError(
                f"GOOD {good.label} and BAD {bad.label} have no common history",
                hint="check both names and the repository",
            )
        raise UsageError(
            f"GOOD {good.label} is not an ancestor of BAD {bad.label}; they parted at {common.label}",
            hint=f"use their common ancestor as GOOD: {common.commit} ({common.subject})",
        )

    def _is_ancestor(self, older: Revision, newer: Revision) -> bool:
        status = self._store.attempt("merge-base", "--is-ancestor", older.commit, newer.commit).status
        if status not in (0, 1):
            raise PerfguardError(f"git cannot walk from {newer.label} back to {older.label} in {self.origin}")
        return status == 0

    def _first_parent(self, commit: str) -> str | None:
        parents = self._store.text("log", "--max-count=1", "--format=%P", commit, "--").split()
        return parents[0] if parents else None

    def _is_cut(self, commit: str) -> bool:
        """Whether a shallow clone's history ends at `commit`, though the real one goes on."""
        return self._shallow_file.exists() and commit in self._shallow_file.read_text().split()

    def _cut_history(self, what: str) -> UsageError:
        return UsageError(f"the clone {self.origin} is shallow: {what}", hint=self._how_to_deepen())

    def _how_to_deepen(self) -> str:
        return f"fetch the rest: git -C {self._clone_path or self.origin} fetch --unshallow --tags"

    def _how_to_find(self, ref: str) -> str:
        if self._shallow_file.exists():
            return f"the clone is shallow; {self._how_to_deepen()}"
        near = difflib.get_close_matches(ref, self._known_names(), n=3)
        if near:
            return f"near names: {', '.join(near)}"
        if self._clone_path is not None:
            return f"if it is new, fetch it first: git -C {self._clone_path} fetch --tags"
        return "pass a branch, a tag or a commit hash"
