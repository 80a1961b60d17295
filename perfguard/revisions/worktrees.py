"""Checked out trees of commits, in perfguard's cache.

A tree lies in `<root>/<commit>/tree`, beside the index it was checked out with and a marker. It is made under a
temporary name and renamed when it is whole, so a tree that has its name is complete, whenever perfguard was killed.
The trees are plain directories: no `.git` in them, and no entry in any repository's `worktrees`.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError
from perfguard.revisions.cachefiles import (
    TEMPORARY_PREFIX,
    cache_errors,
    disk_full,
    locked,
    remove_leftovers,
    remove_tree,
    says_disk_full,
    write_whole,
)
from perfguard.revisions.gitcommand import Git, GitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perfguard.model.progress import Progress

_MARKER = "complete.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worktrees:
    """The checked out trees of one store, under `root`."""

    store: Git
    root: Path
    progress: Progress

    def checked_out(self, commit: str, *, label: str) -> Path:
        """The tree of `commit`: the one that is there if it is whole and unchanged, else a new one.

        Files beside the tracked ones (`__pycache__`) are left alone.

        Raises:
            PerfguardError: the disk is full, or file contents that a partial clone lacks cannot be fetched.
        """
        place = self.root / commit
        with cache_errors(self.root), locked(self._lock, progress=self.progress):
            remove_leftovers(self.root)
            if not self._is_intact(place, commit):
                remove_tree(place)
                self.progress.step(f"checking out {label}")
                self._check_out(commit, place, label=label)
        return place / "tree"

    @contextlib.contextmanager
    def scratch(self, commit: str, *, label: str) -> Iterator[tuple[Git, Path]]:
        """A tree of `commit` that may be changed: git with an index of its own in it, and its path; gone afterwards.

        Raises:
            PerfguardError: the disk is full, or file contents that a partial clone lacks cannot be fetched.
        """
        with (
            cache_errors(self.root),
            locked(self._lock, progress=self.progress),
            tempfile.TemporaryDirectory(dir=self.root, prefix=TEMPORARY_PREFIX, ignore_cleanup_errors=True) as scratch,
        ):
            draft = Path(scratch) / "draft"
            self._fill(draft, commit, label=label)
            yield self._git_in(draft), draft / "tree"

    def remove_all(self) -> None:
        """Remove every tree."""
        with cache_errors(self.root), locked(self._lock, progress=self.progress):
            remove_leftovers(self.root)
            for place in self.root.iterdir():
                if place.is_dir():
                    remove_tree(place)

    @property
    def _lock(self) -> Path:
        return self.root / "lock"

    def _is_intact(self, place: Path, commit: str) -> bool:
        try:
            marker = json.loads((place / _MARKER).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False
        if marker != {"commit": commit} or not (place / "index").exists():
            return False
        # Compares every tracked file with the index: by size and time first, by content only where these differ.
        return self._git_in(place).attempt("diff", "--quiet", "--no-ext-diff").status == 0

    def _check_out(self, commit: str, place: Path, *, label: str) -> None:
        with tempfile.TemporaryDirectory(dir=self.root, prefix=TEMPORARY_PREFIX, ignore_cleanup_errors=True) as scratch:
            draft = Path(scratch) / "draft"
            self._fill(draft, commit, label=label)
            write_whole(draft / _MARKER, json.dumps({"commit": commit}))
            draft.rename(place)

    def _fill(self, draft: Path, commit: str, *, label: str) -> None:
        (draft / "tree").mkdir(parents=True)
        try:
            # `read-tree -u` fetches what a partial clone lacks in one go; `archive` would fetch file by file.
            self._git_in(draft).run("read-tree", "-u", "--reset", commit)
        except GitError as error:
            raise self._cannot_check_out(error, label) from error

    def _git_in(self, place: Path) -> Git:
        return Git(
            where=("-C", str(place / "tree"), *self.store.where),
            environment={"GIT_INDEX_FILE": str(place / "index"), "GIT_WORK_TREE": str(place / "tree")},
        )

    def _cannot_check_out(self, error: GitError, label: str) -> PerfguardError:
        if says_disk_full(error.output):
            return disk_full(self.root)
        if "promisor" in error.output or "Could not read from remote" in error.output:
            return PerfguardError(
                f"cannot check out {label}: the clone is partial and its remote cannot be fetched: {error.message}",
                hint="check the network, or pass a full clone",
            )
        return PerfguardError(f"cannot check out {label}: {error.message}")
