"""The Python stacks of threads that held the GIL or waited for it, as looks met them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GilStack:
    """A distinct stack of one thread, root first, each frame as `function (file:line)`; empty where it ran no Python.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class GilProfile:
    """What a trial keeps of the stacks of one process that held its GIL and that waited for it.

    `holding` and `waiting` are keys of folded stacks in the store, their counts microseconds. So is `meanwhile`, whose
    stacks are two frames: the innermost one that waited, and the innermost one that held the GIL meanwhile. `looks`
    stand behind them. `unknown` says why there are none, and is empty where there may be.
    """

    role: str
    pid: int
    looks: int
    holding: str
    waiting: str
    meanwhile: str
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GilLayers:
    """One role's stacks that held the GIL and that waited for it: (frames root first, cost) pairs.

    Costs are milliseconds per request, or milliseconds where nothing was requested. `holding_threads` and
    `waiting_threads` name the thread that each stack was seen in most. `meanwhile` has (function that waited, function
    that held the GIL meanwhile, cost), the costliest first. `looks` stand behind them. `unknown` says why nothing can
    be told, and is empty where it can.
    """

    looks: int
    holding: tuple[tuple[tuple[str, ...], float], ...] = ()
    holding_threads: tuple[str, ...] = ()
    waiting: tuple[tuple[tuple[str, ...], float], ...] = ()
    waiting_threads: tuple[str, ...] = ()
    meanwhile: tuple[tuple[str, str, float], ...] = ()
    unknown: str = ""
