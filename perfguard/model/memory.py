"""Memory of running processes over a window."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """One process at one moment, `at_s` seconds after the first reading.

    `pss_bytes` is its memory with every shared page divided by the processes that share it, so that processes add up;
    `shared_bytes` is the part of it in shared memory (`shm`, `memfd`, anonymous shared mappings).
    """

    at_s: float
    pss_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReadings:
    """The readings of one process in order; `unknown` says why there are none, and is empty where there are some."""

    pid: int
    role: str
    readings: tuple[MemoryReading, ...]
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGrowth:
    """How fast a process's memory grew, in bytes per second, between `low` and `high` at the rules' confidence.

    The interval is None where there were too few readings for one. `readings` stand behind it, over `duration_s`
    seconds, from `first_pss_bytes` to `last_pss_bytes`; the shared part, `last_shared_bytes`, grew by
    `shared_bytes_per_s`.
    """

    pid: int
    role: str
    readings: int
    duration_s: float
    first_pss_bytes: int
    last_pss_bytes: int
    last_shared_bytes: int
    bytes_per_s: float
    low_bytes_per_s: float | None
    high_bytes_per_s: float | None
    shared_bytes_per_s: float
