"""What the threads of running processes did over a window: on a core, ready, waiting for the GIL, or asleep."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perfguard.model.gil_stacks import GilStacks


class GilAnswer(str, Enum):
    """Whether a process's GIL could be watched. `NONE` is an answer (there is no GIL), `UNKNOWN` is none."""

    WATCHED = "watched"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTicks:
    """One thread over the window: exact counters of the kernel, and how often each state was seen.

    Seconds are differences between the first and the last reading, which lie `observed_s` apart. `cpu_s` and
    `run_delay_s` (ready, but without a core) are None where the kernel does not account for them. Of `ticks` looks at
    the thread, it was blocked in `blocked_ticks`, on its interpreter's GIL in `gil_wait_ticks` of these. It held the
    GIL in `gil_hold_ticks`. `gil_unknown` says why the GIL's counts mean nothing for this thread, and is empty where
    they do.
    """

    tid: int
    name: str
    observed_s: float
    cpu_s: float | None
    run_delay_s: float | None
    voluntary_switches: int
    involuntary_switches: int
    ticks: int
    blocked_ticks: int
    gil_wait_ticks: int
    gil_hold_ticks: int
    gil_unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTicks:
    """One process over the window; `python` is its CPython version (`3.11`), empty where there is none to be found.

    `gil` tells whether its GIL was watched and `gil_reason` why not. `ticks` counts the looks at the process,
    `gil_held_ticks` those that found the GIL taken and `unknown_holder_ticks` those of them whose holder was none of
    the process's threads. `ended` is True where it ended within the window. `gil_stacks` are the stacks that held the
    GIL and that waited for it, None where nobody asked for them.
    """

    pid: int
    role: str
    python: str
    gil: GilAnswer
    gil_reason: str
    ticks: int
    gil_held_ticks: int
    unknown_holder_ticks: int
    ended: bool
    threads: tuple[ThreadTicks, ...]
    gil_stacks: GilStacks | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Share of the window in which some task of the machine was held back by each resource; None: not accounted.

    Source: the kernel's Documentation/accounting/psi.rst, the `some` lines.
    """

    cpu_frac: float | None
    memory_frac: float | None
    io_frac: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRecording:
    """What the threads of several processes did over `duration_s` seconds, looked at `rate_hz` times a second.

    The looks are spaced at random around that rate. `late_ticks` of the `ticks` began over one interval late.
    `sampler_cpu_s` is the sampler's own CPU.
    """

    rate_hz: float
    duration_s: float
    ticks: int
    late_ticks: int
    sampler_cpu_s: float
    pressure: Pressure
    processes: tuple[ProcessTicks, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFinding:
    """A rule that fired on one recording of a live process: nothing is compared, so it is a state, not a regression.

    `tid` and `thread` name the thread that decided, or are None and empty where the whole process did. `value` is the
    share (a fraction of one) that was held against `threshold`; `effect` says both in a sentence, `advice` what helps.
    """

    rule: str
    pid: int
    role: str
    tid: int | None
    thread: str
    value: float
    threshold: float
    effect: str
    advice: str
