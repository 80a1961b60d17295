"""A table of facts as pages show it: texts that are ready, column by column."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FactTable:
    """A table of the page (threads, classes of work, ...). A column whose name begins with `>` holds numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
