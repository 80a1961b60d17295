"""Folded stacks: the one form in which every profile is judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame of a Python stack; `line` is 0 where the profiler gave none."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        """Render as py-spy does: `function (file:line)`."""
        return f"{self.function} ({self.file}:{self.line})" if self.line else f"{self.function} ({self.file})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A distinct stack, root first, and how many samples saw it.

    `thread` is the thread's name, `tid` its OS id (0: unknown).
    """

    thread: str
    tid: int
    frames: tuple[Frame, ...]
    samples: int
