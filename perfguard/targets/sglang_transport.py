"""Run the request distribution of a revision alone: its own functions in rank processes, no HTTP and no model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfguard.model.errors import UntestableError
from perfguard.model.scenario import Device, Strategy, TargetKind, TargetSpec, VisionTower
from perfguard.targets import server_log, sglang_launch
from perfguard.targets.processes import ManagedProcess
from perfguard.targets.server_records import read_stand_ins

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM = Path(__file__).parents[1] / "inside" / "transport" / "client.py"
_LOG_TAIL_LINES = 60
_ANSWER_BYTES = 1 << 16
_POLL_S = 0.2


class MediaKind(str, Enum):
    """What a request carries. Those after `VIDEO` are there to test that every rank gets the same."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    NONE = "none"
    NO_ITEMS = "no-items"
    BFLOAT16 = "bfloat16"
    UINT8 = "uint8"
    TRANSPOSED = "transposed"
    ZERO_SIZE = "zero-size"
    ARRAY = "array"
    EMBEDDINGS = "embeddings"
    HASHED_BEFORE = "hashed-before"
    BROKEN = "broken"
    BROKEN_ON_OTHERS = "broken-on-others"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportCase:
    """The media of every request: `count` images, or one video of `frames` frames, `width_px` x `height_px` each."""

    kind: MediaKind = MediaKind.IMAGE
    width_px: int = 112
    height_px: int = 112
    count: int = 1
    frames: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTimes:
    """One rank's milliseconds, one entry a request: from `broadcast_pyobj` (`recv_ms`) to inputs (`materialise_ms`).

    `cpu_ms` is the processor time of both; `use_ms` reads every feature once afterwards; `unpickle_ms` is what rank 0
    needs before, for the message of the sender. `fingerprints` hash what the rank got, where that was asked for.
    """

    unpickle_ms: tuple[float, ...]
    recv_ms: tuple[float, ...]
    materialise_ms: tuple[float, ...]
    use_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockstepResult:
    """Requests one after the other, all ranks beginning each together.

    `send_ms` is the sender's pickling (with shared memory: hashing and writing too). `memcpy_ms` and `sha256_ms`
    are one warm copy and one hash of the payload, measured beside: no way of sharing can be faster.
    """

    payload_bytes: int
    memcpy_ms: float
    sha256_ms: float
    send_ms: tuple[float, ...]
    ranks: tuple[RankTimes, ...]

    @property
    def received_ms(self) -> tuple[float, ...]:
        """Per request `recv_ms` + `materialise_ms` of the slowest rank."""
        per_rank = [[a + b for a, b in zip(rank.recv_ms, rank.materialise_ms, strict=True)] for rank in self.ranks]
        return tuple(max(times) for times in zip(*per_rank, strict=True))

    @property
    def delivered_ms(self) -> tuple[float, ...]:
        """Per request until every rank has its inputs: sending, unpickling on rank 0, the slowest rank's receiving.

        What a way of sharing moves from the ranks to the sender stays in it.
        """
        parts = zip(self.send_ms, self.ranks[0].unpickle_ms, self.received_ms, strict=True)
        return tuple(sum(part) for part in parts)

    @property
    def whole_ms(self) -> tuple[float, ...]:
        """Per request all of it: `delivered_ms` and the slowest rank's first use."""
        use = [max(times) for times in zip(*(rank.use_ms for rank in self.ranks), strict=True)]
        return tuple(sum(part) for part in zip(self.delivered_ms, use, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalResult:
    """Requests at Poisson arrivals.

    `latencies_ms` count from the intended send time until the last rank has its inputs and has read them once; one
    entry for each request that was not cancelled in time. `mismatched` are the requests that some rank got other
    content of than the revision itself makes of it; none where that was not checked.
    """

    payload_bytes: int
    rate_rps: float
    latencies_ms: tuple[float, ...]
    cpu_ms_per_request: tuple[float, ...]
    worst_send_lag_ms: float
    mismatched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstResult:
    """Requests that are all sent at once, several times.

    `ready_ms` has shape `(bursts, requests)`: from the beginning of the burst until the last rank has read the
    request's inputs once. The limits are as in `LockstepResult`.
    """

    payload_bytes: int
    memcpy_ms: float
    sha256_ms: float
    ready_ms: tuple[tuple[float, ...], ...]

    @property
    def ms_per_request(self) -> float:
        """The time until all are ready, shared out among the requests; the median burst."""
        return statistics.median(max(burst) / len(burst) for burst in self.ready_ms)


class RunningTransport:
    """Rank processes that wait for orders; between two orders none of them computes."""

    def __init__(self, process: ManagedProcess, control: socket.socket, source_root: Path, report_dir: Path) -> None:
        self._process = process
        self._control = control
        self._source_root = source_root
        self._report_dir = report_dir
        self._received = b""
        self.rank_pids: tuple[int, ...] = ()

    @property
    def pids(self) -> tuple[int, ...]:
        """The living processes, the sender first."""
        return self._process.descendants()

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """What was replaced in the processes, the strategy's changes among it."""
        return read_stand_ins(self._report_dir)

    def run_lockstep(
        self, case: TransportCase, *, requests: int, seed: int = 1, check: bool = False, limit_s: float = 120.0
    ) -> LockstepResult:
        """Send `requests` requests one by one; with `check` every rank hashes what it got (not timed).

        Raises:
            UntestableError: a rank failed, with its error, or nothing came within `limit_s` seconds.
        """
        answer = self._order(case, requests=requests, rate_rps=None, seed=seed, check=check, limit_s=limit_s)
        return LockstepResult(
            payload_bytes=answer["payload_bytes"],
            memcpy_ms=answer["memcpy_ms"],
            sha256_ms=answer["sha256_ms"],
            send_ms=tuple(answer["send_ms"]),
            ranks=tuple(
                RankTimes(
                    **{name: tuple(values) for name, values in rank["columns"].items()},
                    fingerprints=tuple(rank["fingerprints"]),
                )
                for rank in answer["ranks"]
            ),
        )

    def run_arrivals(
        self,
        case: TransportCase,
        *,
        requests: int,
        rate_rps: float,
        seed: int = 1,
        cancel_frac: float = 0.0,
        check: bool = False,
        limit_s: float = 120.0,
    ) -> ArrivalResult:
        """Send `requests` requests at Poisson arrivals of `rate_rps` a second, whether or not the ranks keep up.

        Of them `cancel_frac` are cancelled, before they are sent or right after; with `check` the content that every
        rank got is held against what the revision makes of it (which costs the ranks time).

        Raises:
            UntestableError: a rank failed, with its error, or nothing came within `limit_s` seconds.
        """
        answer = self._order(
            case,
            requests=requests,
            rate_rps=rate_rps,
            seed=seed,
            check=check,
            cancel_frac=cancel_frac,
            limit_s=limit_s,
        )
        intended: dict[str, float] = answer["intended"]
        latencies = [
            1e3 * (max(rank["done"][request] for rank in answer["ranks"]) - due)
            for request, due in intended.items()
            if all(request in rank["done"] for rank in answer["ranks"])
        ]
        return ArrivalResult(
            payload_bytes=answer["payload_bytes"],
            rate_rps=rate_rps,
            latencies_ms=tuple(latencies),
            cpu_ms_per_request=tuple(1e3 * rank["cpu_s"] / requests for rank in answer["ranks"]),
            worst_send_lag_ms=answer["worst_send_lag_ms"],
            mismatched=tuple(answer.get("mismatched", ())),
        )

    def run_bursts(
        self, case: TransportCase, *, requests: int, bursts: int, seed: int = 1, limit_s: float = 120.0
    ) -> BurstResult:
        """Send `requests` requests at once and wait until the ranks have them all, `bursts` times.

        Raises:
            UntestableError: a rank failed, with its error, or nothing came within `limit_s` seconds.
        """
        answer = self._order(
            case, requests=requests, bursts=bursts, rate_rps=0, seed=seed, check=False, limit_s=limit_s
        )
        return BurstResult(
            payload_bytes=answer["payload_bytes"],
            memcpy_ms=answer["memcpy_ms"],
            sha256_ms=answer["sha256_ms"],
            ready_ms=tuple(map(tuple, answer["ready_ms"])),
        )

    def _order(self, case: TransportCase, *, limit_s: float, **order: object) -> dict[str, Any]:
        message = json.dumps({"case": asdict(case), **order}) + "\n"
        with contextlib.suppress(OSError):  # a dead program is noticed by its missing answer
            self._control.sendall(message.encode())
        return self.receive(limit_s)

    def receive(self, limit_s: float) -> dict[str, Any]:
        """Wait for the program's next answer.

        Raises:
            UntestableError: it ended, failed, or gave none within `limit_s` seconds.
        """
        deadline = time.monotonic() + limit_s
        self._control.settimeout(_POLL_S)
        while b"\n" not in self._received:
            try:
                chunk = self._control.recv(_ANSWER_BYTES)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise self._failure(f"no answer within {limit_s:g} s") from None
                continue
            except OSError:
                chunk = b""
            if not chunk:
                raise self._failure("the program ended")
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failure(str(answer["error"]))
        return answer

    def _failure(self, what: str) -> UntestableError:
        reason = server_log.last_exception(self._process.log_path, source_root=self._source_root)
        return UntestableError(
            f"{reason} ({what})" if reason else what, log_tail=server_log.tail(self._process.log_path, _LOG_TAIL_LINES)
        )


@contextlib.contextmanager
def start_transport(
    *,
    source_tree: Path,
    python: Path,
    work_dir: Path,
    ranks: int,
    strategy: Strategy = Strategy.AS_COMMITTED,
    cores: tuple[int, ...] | None = None,
    rank_limit_s: float = 60.0,
    start_limit_s: float = 180.0,
    environment: tuple[tuple[str, str], ...] = (),
) -> Iterator[RunningTransport]:
    """Start `ranks` rank processes and a sender with the code of a revision, and end every one of them afterwards.

    The sender is pinned to the first of `cores` (None: all that this process may use), the ranks to one core each in
    turn, with one computing thread. `rank_limit_s` is how long a rank waits for another one in a collective.

    Raises:
        UntestableError: no sglang in the tree, or a process ended before it was ready; also where the strategy does not
            know the revision's code.
    """
    source_root = sglang_launch.find_source_root(source_tree)
    report_dir = work_dir.resolve() / "inside"
    report_dir.mkdir(parents=True, exist_ok=True)
    for old in report_dir.iterdir():
        old.unlink()
    use = cores or tuple(sorted(os.sched_getaffinity(0)))
    # Sockets lie here, whose paths must stay under 108 bytes.
    temp_dir = Path(tempfile.mkdtemp(prefix="perfguard-"))
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(temp_dir / "control"))
        listener.listen(1)
        specification = {
            "directory": str(temp_dir),
            "control": str(temp_dir / "control"),
            "ranks": ranks,
            "cores": use,
            "limit_s": rank_limit_s,
            "start_limit_s": start_limit_s,
        }
        process = ManagedProcess(
            (str(python), str(_PROGRAM), json.dumps(specification)),
            environment=sglang_launch.server_environment(
                _target(ranks, environment),
                source_root=source_root,
                temp_dir=temp_dir,
                report_dir=report_dir,
                cores=use,
                strategy=strategy,
            ),
            working_dir=temp_dir,
            log_path=work_dir.resolve() / "transport.log",
            remove_dirs=[temp_dir],
            record_dir=report_dir,
        )
    except BaseException:
        listener.close()
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    with process, listener, _accept(listener, process, source_root, start_limit_s) as control:
        running = RunningTransport(process, control, source_root, report_dir)
        running.rank_pids = tuple(running.receive(start_limit_s)["ranks"])
        yield running


def _accept(listener: socket.socket, process: ManagedProcess, source_root: Path, limit_s: float) -> socket.socket:
    deadline = time.monotonic() + limit_s
    listener.settimeout(_POLL_S)
    while True:
        try:
            return listener.accept()[0]
        except TimeoutError:
            if process.poll() is not None or time.monotonic() > deadline:
                reason = server_log.last_exception(process.log_path, source_root=source_root)
                raise UntestableError(
                    reason or "the program ended, or did not start in time",
                    log_tail=server_log.tail(process.log_path, _LOG_TAIL_LINES),
                ) from None


def _target(ranks: int, environment: tuple[tuple[str, str], ...]) -> TargetSpec:
    """What the environment of a process is made from; nothing here starts a server."""
    return TargetSpec(
        kind=TargetKind.SGLANG_SERVER,
        device=Device.CPU,
        tensor_parallel_size=ranks,
        model=None,
        vision_tower=VisionTower.REAL,
        environment_spec="sglang-cpu",
        extra_args=(),
        extra_environment=environment,
        start_timeout_s=180.0,
        drain_timeout_s=30.0,
    )
