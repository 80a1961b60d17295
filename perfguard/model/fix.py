"""What is known of ways out of a regression."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RevertConflict:
    """A file that keeps a revert from being clean: why, and the functions of the later revision that hold the lines."""

    path: str
    reason: str
    functions: tuple[str, ...]
