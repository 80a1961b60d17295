"""What one trial of one revision measured, or why it could not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perfguard.model.gil_stacks import GilProfile
from perfguard.model.gil_trial import RoleGil
from perfguard.model.gpu import GpuResult

ROLE_TOKENIZER = "tokenizer"
ROLE_DETOKENIZER = "detokenizer"
ROLE_OTHER = "other"
# The first process of a server that is not SGLang's.
ROLE_SERVER = "server"


def rank_role(rank: int) -> str:
    """Name the role of the scheduler process of tensor-parallel rank `rank` (0-based)."""
    return f"rank-{rank}"


def worker_role(number: int) -> str:
    """Name the role of a process below a server that is not SGLang's; `number` counts from 1 in order of start."""
    return f"worker-{number}"


class RequestOutcome(str, Enum):
    """How one request ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request; times in seconds since the load's start. `first_token_s` is None where none came.

    `intended_s` is when an open loop meant to send it; None in a closed loop, which sends when it can. `output_tokens`
    are those that the answer's usage told, else those that were asked for; None where neither is known.
    """

    index: int
    sent_s: float
    first_token_s: float | None
    finished_s: float
    outcome: RequestOutcome
    detail: str
    intended_s: float | None = None
    output_tokens: int | None = None

    @property
    def start_s(self) -> float:
        """When its latencies begin: at the intended time where there is one, so that no wait is left out."""
        return self.sent_s if self.intended_s is None else self.intended_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, in seconds; None where there are fewer than two tokens."""
        if self.first_token_s is None or self.output_tokens is None or self.output_tokens < 2:  # noqa: PLR2004
            return None
        return (self.finished_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Percentiles of a latency over the requests that succeeded, in milliseconds."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaResult:
    """The requests of one class of a mix; latencies are of those that succeeded."""

    name: str
    sent: int
    succeeded: int
    ttft: LatencySummary | None
    e2e: LatencySummary | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """One stage of a ramp; its `result` has neither single requests nor stages."""

    name: str
    result: LoadResult


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """One replay of a schedule.

    `throughput_rps` counts successful requests only. `generator_cpu_frac` is the load generator's own CPU
    per second of load and core; `generator_lag_p99_ms` how late its event loop woke up.

    `ttft` and `e2e` count from the intended send time in an open loop. `itl` is the time between reads that brought
    text, over all requests; `tpot` one value a request. `goodput_rps` counts the requests that met the scenario's
    service levels, None where it has none. `send_lag_p99_ms` is how late an open loop sent, the wait for a free place
    among `concurrency` included; `dispatch_lag_p99_ms` without that wait: the generator's own fault.

    `output_tokens_per_s` counts the tokens of requests that succeeded, None where none of them is known. `media` has
    the classes of a mix, `stages` the stages of a ramp; the figures above are of all of them together.
    """

    schedule_digest: str
    duration_s: float
    sent: int
    succeeded: int
    errors: int
    timeouts: int
    first_error: str
    throughput_rps: float
    ttft: LatencySummary | None
    e2e: LatencySummary | None
    generator_cpu_frac: float
    generator_lag_p99_ms: float
    records: tuple[RequestRecord, ...]
    itl: LatencySummary | None = None
    tpot: LatencySummary | None = None
    goodput_rps: float | None = None
    send_lag_p99_ms: float | None = None
    dispatch_lag_p99_ms: float | None = None
    output_tokens_per_s: float | None = None
    media: tuple[MediaResult, ...] = ()
    stages: tuple[StageResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCpu:
    """CPU of one thread during a load. `run_delay_s` is the time it was ready but waited for a core."""

    tid: int
    name: str
    cpu_s: float
    run_delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCpu:
    """CPU of one server process during a load, with its threads (busiest first)."""

    pid: int
    role: str
    cpu_s: float
    run_delay_s: float
    threads: tuple[ThreadCpu, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuResult:
    """CPU of every server process over `duration_s` seconds of load, and of the machine.

    `machine_busy_frac` is the share of all cores' time that was not idle; `stolen_frac` the share taken by
    the hypervisor; `throttled_s` the time a cgroup quota held the processes back.
    """

    duration_s: float
    cores: int
    machine_busy_frac: float
    stolen_frac: float
    throttled_s: float
    processes: tuple[ProcessCpu, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The stacks sampled from one process; `artifact` is the key of py-spy's raw text in the store.

    `samples` are the non-idle samples that were kept, `lost` the ticks on which the process could not be read.
    `warnings` are py-spy's own words (falling behind, for example).
    """

    role: str
    pid: int
    rate_hz: int
    duration_s: float
    samples: int
    lost: int
    warnings: tuple[str, ...]
    artifact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """What the server said of itself: how it was started, what stood in for what, and what it loaded.

    `loaded_files` are the source files of the package under test that any of its processes imported, relative to the
    revision's tree; empty where that is not known.
    """

    command: tuple[str, ...]
    start_s: float
    stand_ins: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]
    loaded_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Everything one completed trial measured.

    `load` and `cpu` are of the measured requests, without the stack sampler. `profiled_load` and `profiled_cpu` are of
    the requests that ran with it; they belong to `profiles`, `gil` and `gil_profiles`, and are None when profiling is
    off.
    `gpu` is of the measured requests, None where the server uses no graphics card.
    """

    server: ServerReport
    load: LoadResult
    cpu: CpuResult
    profiled_load: LoadResult | None
    profiled_cpu: CpuResult | None
    profiles: tuple[Profile, ...]
    gil: tuple[RoleGil, ...] = ()
    gil_profiles: tuple[GilProfile, ...] = ()
    gpu: GpuResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A trial that ran to its end."""

    samples: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Untestable:
    """A trial that cannot be judged, and why; `log` is the end of the server's log."""

    reason: str
    log: str


TrialOutcome = Completed | Untestable


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One replay of a scenario's load on a running server of one revision with one strategy.

    `number` counts all trials of the run from 1; `block` says which trials are compared with each other. `start`
    numbers the server starts: trials of one start share its luck and are no independent witnesses. `wall_s` is what the
    trial cost, its share of the server's start included.
    """

    number: int
    block: int
    start: int
    revision: str
    strategy: str
    started_at: str
    wall_s: float
    outcome: TrialOutcome
