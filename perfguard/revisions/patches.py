"""Reads the text of a diff into hunks. Pure: text in, `Hunk`s out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from perfguard.model.revision import Hunk, RevisionChange

if TYPE_CHECKING:
    from collections.abc import Iterator

_HUNK_HEADER = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NOWHERE = "/dev/null"
_COMMIT_LINE = re.compile(r"^[0-9a-f]{40,64}$", re.MULTILINE)
_RAW_LINE = re.compile(r"^:\d+ \d+ [0-9a-f]+ [0-9a-f]+ \w+\t(.+)$", re.MULTILINE)


def parse_patch(patch: str) -> tuple[Hunk, ...]:
    """The hunks of `patch`, in its order.

    `patch` is what `git diff --patch --src-prefix=a/ --dst-prefix=b/` prints with `core.quotePath=false`. A hunk of a
    deleted file carries the old path. Binary files and changes of mode have no hunks. The marker for a missing newline
    at the end of a file is no line of that file and is left out.
    """
    hunks: list[Hunk] = []
    old_path = new_path = _NOWHERE
    lines = iter(patch.split("\n"))
    for line in lines:
        if line.startswith("--- "):
            old_path = _path(line)
        elif line.startswith("+++ "):
            new_path = _path(line)
        elif header := _HUNK_HEADER.match(line):
            old_start, old_lines, new_start, new_lines = (1 if n is None else int(n) for n in header.groups())
            hunks.append(
                Hunk(
                    path=old_path if new_path == _NOWHERE else new_path,
                    old_start=old_start,
                    old_lines=old_lines,
                    new_start=new_start,
                    new_lines=new_lines,
                    text=_hunk_text(lines, old_lines=old_lines, new_lines=new_lines),
                )
            )
    return tuple(hunks)


def parse_changes(text: str, count: int) -> Iterator[RevisionChange]:
    """Take apart what `git diff-tree --stdin --raw --patch` prints for `count` commits.

    A commit's part begins with its hash on a line of its own; nothing of a diff looks like that, since its lines begin
    with a sign or a word.

    Raises:
        ValueError: the text holds another number of commits.
    """
    starts = [match.start() for match in _COMMIT_LINE.finditer(text)]
    if len(starts) != count:
        raise ValueError(f"git told of {len(starts)} commits, not of {count}")
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        paths = frozenset(_unquoted(match[1]) for match in _RAW_LINE.finditer(part))
        yield RevisionChange(paths=paths, hunks=parse_patch(part))


def _hunk_text(lines: Iterator[str], *, old_lines: int, new_lines: int) -> str:
    """Take one hunk's lines: as many as its header counts, for a removed line `-- x` looks like a file header."""
    text: list[str] = []
    while old_lines > 0 or new_lines > 0:
        line = next(lines)
        if line.startswith("\\"):
            continue
        text.append(line)
        old_lines -= not line.startswith("+")
        new_lines -= not line.startswith("-")
    return "\n".join(text)


def _path(line: str) -> str:
    """The path in a `--- a/...` or `+++ b/...` line."""
    name = _unquoted(line[4:].rstrip("\t"))  # git ends a name that holds a space with a tab
    return name if name == _NOWHERE else name[2:]


def _unquoted(name: str) -> str:
    if name.startswith('"'):  # and quotes one that holds a control character, a quote or a backslash, as C does
        name = name[1:-1].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")
    return name
