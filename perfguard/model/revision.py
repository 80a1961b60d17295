"""Revisions of a repository, and of a package's releases."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class HistoryKind(str, Enum):
    """Where revisions come from."""

    COMMITS = "commits"
    RELEASES = "releases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One commit of a repository, or one release of a package.

    `commit` is the full hash; `label` what people call it (a short hash, or a version); `committed_at`
    an ISO 8601 time.
    """

    commit: str
    label: str
    subject: str
    author: str
    committed_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRange:
    """Revisions in first-parent order, `revisions[0]` the good end and `revisions[-1]` the bad end."""

    kind: HistoryKind
    origin: str
    revisions: tuple[Revision, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunk:
    """One hunk of a commit's diff: where it lies in the new file, and its text lines (` `, `+`, `-` first)."""

    path: str
    old_start: int
    old_lines: int
    new_start: int
    new_lines: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionChange:
    """What a revision changed against the one before it: paths (both names of a moved file), and hunks of text."""

    paths: frozenset[str]
    hunks: tuple[Hunk, ...]
