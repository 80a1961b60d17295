"""What `perfguard record` saw of live processes; the document that it writes has these names."""

from __future__ import annotations

from dataclasses import dataclass

from perfguard.model.gpu import CardLoad
from perfguard.model.memory import MemoryGrowth
from perfguard.model.threads import GilAnswer, Pressure, ThreadFinding
from perfguard.model.traffic import ProcessTraffic


@dataclass(frozen=True, slots=True, kw_only=True)
class TopFrame:
    """A frame on top of a thread's stacks, and the share of the thread's samples (taken while it ran) it was in."""

    frame: str
    sample_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedThread:
    """How a thread spent its time, in fractions of the time in which it was watched.

    `running_frac`, `run_delay_frac` (ready without a core), `gil_wait_frac` and `off_cpu_frac` add up to one. None
    means that it cannot be told: `gil_unknown` says why the GIL's shares cannot (`off_cpu_frac` then has the waiting
    too), and `working_frac` and `polling_frac`, the parts of `running_frac`, need stacks of the thread.
    """

    tid: int
    name: str
    running_frac: float
    working_frac: float | None
    polling_frac: float | None
    run_delay_frac: float | None
    gil_hold_frac: float | None
    gil_wait_frac: float | None
    gil_wait_low_frac: float | None
    gil_wait_high_frac: float | None
    off_cpu_frac: float
    gil_unknown: str
    voluntary_switches_per_s: float
    involuntary_switches_per_s: float
    looks: int
    top_frames: tuple[TopFrame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMeanwhile:
    """A function on top of the stack that held the GIL while another waited, and the share of the waiting it was."""

    frame: str
    wait_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GilFrame:
    """A function on top of stacks that held the GIL or waited for it, added up over threads.

    Seconds may sum up to more than the window, since several threads may wait at once. `held_meanwhile` has what held
    the GIL while this waited, most first.
    """

    frame: str
    hold_s: float
    wait_s: float
    held_meanwhile: tuple[HeldMeanwhile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProcess:
    """One process; `role` is its title. `stacks` names its file of folded stacks, None where there are none.

    `memory` is None where it could not be read, or not twice; `tcp` has its own word for what could not be told.
    `gil_frames` has the functions that held the GIL or waited for it, those that waited most first;
    `gil_frames_unknown` says why there can be none. `gil_hold_stacks`, `gil_wait_stacks` and `gil_meanwhile_stacks`
    (two frames: what waited, what held the GIL) name the files of folded stacks behind them, in microseconds; None:
    there are none. `gil_looks` stand behind them. `memray` names the flamegraph of allocations, where one was asked
    for; `memray_unknown` says why there is none.
    """

    pid: int
    role: str
    python: str
    gil: GilAnswer
    gil_reason: str
    ended: bool
    stack_samples: int
    stack_samples_lost: int
    stacks: str | None
    threads: tuple[RecordedThread, ...]
    memory: MemoryGrowth | None = None
    tcp: ProcessTraffic | None = None
    gil_frames: tuple[GilFrame, ...] = ()
    gil_frames_unknown: str = ""
    gil_hold_stacks: str | None = None
    gil_wait_stacks: str | None = None
    gil_meanwhile_stacks: str | None = None
    gil_looks: int = 0
    memray: str | None = None
    memray_unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMachine:
    """The machine meanwhile; `throttled_frac` is the share of the time in which a CPU quota stopped the processes.

    `cards` are its graphics cards, whoever used them; `cards_unknown` says why there are none.
    """

    cores: int
    busy_frac: float
    stolen_frac: float
    throttled_frac: float
    pressure: Pressure
    cards: tuple[CardLoad, ...] = ()
    cards_unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Everything that was recorded over `duration_s` seconds.

    Threads were looked at `looks` times at `rate_hz`, `late_looks` of them late, at `sampler_cpu_frac` of a core;
    stacks were sampled at `stack_rate_hz`, at `stack_sampler_cpu_frac` of a core, all processes together.
    """

    schema_version: int
    command: str
    started_at: str
    duration_s: float
    rate_hz: float
    stack_rate_hz: int
    looks: int
    late_looks: int
    sampler_cpu_frac: float
    stack_sampler_cpu_frac: float
    machine: RecordedMachine
    processes: tuple[RecordedProcess, ...]
    findings: tuple[ThreadFinding, ...]
    warnings: tuple[str, ...]
