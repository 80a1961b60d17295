"""What a trial keeps of the GIL: one line a role, small enough to be stored with every trial."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleGil:
    """How the GIL of a role's process, and its busiest thread, spent a load; fractions of the time or of the looks.

    `running_frac`, `hold_frac` and `wait_frac` are of `thread`, the one that ran and waited most. `waiting_threads` is
    how many of the process's threads waited for the GIL at once, on average, and `held_frac` the share of looks that
    found the GIL taken. `looks` stand behind each. What cannot be told is None, and `unknown` then says why.
    """

    role: str
    thread: str
    looks: int
    running_frac: float
    hold_frac: float | None
    wait_frac: float | None
    waiting_threads: float | None
    held_frac: float | None
    unknown: str = ""
