"""The source text behind a frame, in the tree that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class TreeSources:
    """Looks a frame's file up under the roots it was shortened by; a file is read once."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Look under `roots`, first match first."""
        self._roots = tuple(roots)
        self._texts: dict[str, str | None] = {}

    def source(self, file: str) -> str | None:
        """Return the text of `file` (relative to a root, or absolute), or None where it is not to be had."""
        if file not in self._texts:
            self._texts[file] = self._read(file)
        return self._texts[file]

    def _read(self, file: str) -> str | None:
        for path in (root / file for root in self._roots):
            try:
                return path.read_text(encoding="utf-8", errors="replace")
            except (OSError, ValueError):
                # Frozen modules, files made at run time and names that are no paths have no source to read.
                continue
        return None
