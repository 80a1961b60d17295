"""The Python stacks of threads that held the GIL or waited for it, as looks met them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GilStack:
    """A distinct stack of one thread, root first, each frame as `function (file:line)`.

    `hold_ticks` looks met it while the thread held the GIL, `wait_ticks` while it waited for it.
    """

    tid: int
    frames: tuple[str, ...]
    hold_ticks: int
    wait_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GilPair:
    """In `ticks` looks the stack `waiting` waited while `holding` held the GIL; both are places in the list of stacks.

    `holding` is None where nobody held it in that moment, or where the holder's stack could not be read.
    """

    waiting: int
    holding: int | None
    ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GilStacks:
    """Every stack of a process that held its GIL or waited for it.

    `unread_hold_ticks` and `unread_wait_ticks` are looks whose stack could not be read. `unknown` says why no stack can
    be read at all, and is empty where they can.
    """

    stacks: tuple[GilStack, ...] = ()
    pairs: tuple[GilPair, ...] = ()
    unread_hold_ticks: int = 0
    unread_wait_ticks: int = 0
    unknown: str = ""
