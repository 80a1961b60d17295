"""A study: which way of sharing multimodal inputs costs least, by size, concurrency and rank count."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perfguard.model.claim import ClaimRow
from perfguard.model.result import Effect, RunInfo
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Untestable

# Of the generated model and of Qwen2.5-VL: a patch is 14 x 14 pixels, twice in time, three colours, 4-byte floats.
_PATCH_PX = 14
_SIDE_PX = 2 * _PATCH_PX
_PATCH_BYTES = 4 * 3 * 2 * _PATCH_PX**2
_FRAMES_A_PATCH = 2


class StudyTarget(str, Enum):
    """What runs a revision in a study: its whole server, or its request-distributing functions alone."""

    SERVER = "sglang-server"
    TRANSPORT = "sglang-transport"


class StudyMediaKind(str, Enum):
    """What a request carries. The server is sent a video as its frames, many images of one request."""

    IMAGE = "image"
    VIDEO = "video"


class MemoryPages(str, Enum):
    """Of which pages the processes' memory is: as the machine does it, or huge ones, which malloc asks for."""

    DEFAULT = "default"
    HUGE = "huge"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyMedia:
    """The media of one request: `count` images, or one video of `frames` frames, `width_px` x `height_px` each.

    `requests` replaces the study's number of requests a trial, where it is given.
    """

    name: str
    kind: StudyMediaKind = StudyMediaKind.IMAGE
    width_px: int
    height_px: int
    count: int = 1
    frames: int = 0
    requests: int | None = None

    @property
    def payload_bytes(self) -> int:
        """The bytes of the features that the processor makes of it."""
        rows, columns = (max(1, round(px / _SIDE_PX)) * 2 for px in (self.height_px, self.width_px))
        times = self.count if self.kind is StudyMediaKind.IMAGE else max(1, self.frames // _FRAMES_A_PATCH)
        return times * rows * columns * _PATCH_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A study file, read and checked: every medium x concurrency x rank count, with every strategy.

    `scenario` names the scenario whose target and load are taken (on the transport target only its environment).
    On the transport target a trial sends bursts of `concurrency` requests at once until `requests` are sent; on the
    server, `concurrency` clients send `requests` in all, in a closed loop. A trial sends `concurrency` requests at
    least. Cells with more than `most_in_flight_mb` megabytes of features in flight are left out, and named.

    Every rank count is started `starts` times, with all strategies side by side, once for each of `memory_pages`, and
    measured in `blocks_per_start` blocks. `baseline` is what break-even sizes are told against.
    """

    name: str
    description: str
    target: StudyTarget
    scenario: str
    strategies: tuple[Strategy, ...]
    baseline: Strategy
    ranks: tuple[int, ...]
    concurrency: tuple[int, ...]
    requests: int
    starts: int
    blocks_per_start: int
    most_in_flight_mb: float
    confidence: float
    min_effect_frac: float
    media: tuple[StudyMedia, ...]
    memory_pages: tuple[MemoryPages, ...] = (MemoryPages.DEFAULT,)

    def medium(self, name: str) -> StudyMedia:
        """Return the medium of that name.

        Raises:
            KeyError: there is none.
        """
        return {medium.name: medium for medium in self.media}[name]

    def requests_of(self, cell: StudyCell) -> int:
        """Return how many requests a trial of `cell` sends."""
        wanted = self.medium(cell.media).requests or self.requests
        return cell.concurrency * max(1, -(-wanted // cell.concurrency))

    def cells(self, ranks: int) -> tuple[StudyCell, ...]:
        """Return the cells that are measured at one rank count, each on the first of `memory_pages`."""
        return tuple(cell for cell in self._grid(ranks) if not self._is_too_much(cell))

    def left_out(self) -> tuple[StudyCell, ...]:
        """Return the cells that are not measured since too much would be in flight."""
        return tuple(cell for ranks in self.ranks for cell in self._grid(ranks) if self._is_too_much(cell))

    def _grid(self, ranks: int) -> list[StudyCell]:
        return [
            StudyCell(ranks=ranks, media=medium.name, concurrency=concurrency, memory_pages=self.memory_pages[0])
            for medium in self.media
            for concurrency in self.concurrency
        ]

    def in_flight_bytes(self, cell: StudyCell) -> int:
        """Return the bytes of features that a cell's requests hold at once."""
        return self.medium(cell.media).payload_bytes * cell.concurrency

    def _is_too_much(self, cell: StudyCell) -> bool:
        return self.in_flight_bytes(cell) > 1e6 * self.most_in_flight_mb


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCell:
    """One place of the grid; `media` is the medium's name."""

    ranks: int
    media: str
    concurrency: int
    memory_pages: MemoryPages = MemoryPages.DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyMeasured:
    """What one trial of a study measured; times in milliseconds.

    `ms_per_request`: on the transport target the time until a burst's requests were read on all ranks, shared out
    among them (median burst); on the server the load's duration by its requests. `p50_ms` and `p99_ms` are of single
    requests' latencies.

    Of the transport target, where one request is in flight: `received_ms` is `broadcast_pyobj` and materialising on
    the slowest rank, `delivered_ms` also sending and rank 0's unpickling, `whole_ms` also the first use (medians, in
    lockstep). `memcpy_ms` and `sha256_ms` are the limits: one warm copy and one hash of the payload. `busy_frac` is
    the share of the machine's cores that was busy, on the server.
    """

    payload_bytes: int
    ms_per_request: float
    p50_ms: float
    p99_ms: float
    received_ms: float | None = None
    delivered_ms: float | None = None
    whole_ms: float | None = None
    memcpy_ms: float | None = None
    sha256_ms: float | None = None
    busy_frac: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTrial:
    """One strategy in one cell, once. Trials of one `block` and cell ran back to back; `start` as in a `Trial`.

    Either `measured` or `untestable` is there.
    """

    number: int
    block: int
    start: int
    cell: StudyCell
    strategy: Strategy
    started_at: str
    wall_s: float
    measured: StudyMeasured | None = None
    untestable: Untestable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellArm:
    """One strategy in one cell over all blocks: the geometric mean, and the ratios to the cell's fastest strategy.

    `to_best` is None for the fastest itself, and where no block holds both. `to_baseline` likewise for the baseline.
    `to_limit` is `delivered_ms` against one copy and one hash of the payload, measured in the same trials.
    """

    strategy: Strategy
    trials: int
    mean_ms: float | None
    low_ms: float | None
    high_ms: float | None
    received_ms: float | None
    delivered_ms: float | None
    whole_ms: float | None
    to_best: Effect | None
    to_baseline: Effect | None
    to_limit: Effect | None
    untestable_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """One cell: its strategies, fastest first. The `leaders` are the fastest and all that cannot be told from it.

    One leader is a winner, more are a tie, none: nothing was measured. `memcpy_ms` and `sha256_ms` are one copy and
    one hash of the payload, where they were measured (medians over trials).
    """

    cell: StudyCell
    payload_bytes: int
    arms: tuple[CellArm, ...]
    leaders: tuple[Strategy, ...]
    memcpy_ms: float | None
    sha256_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesEffect:
    """What huge pages do to one strategy in one cell: ms per request with them / without, inside blocks."""

    cell: StudyCell
    payload_bytes: int
    strategy: Strategy
    effect: Effect


class Crossing(str, Enum):
    """Where a strategy begins to pay: from a size on, at every size that was measured, or at none of them."""

    FROM_SIZE = "from-size"
    EVERYWHERE = "everywhere"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """The payload from which `candidate` is faster than `baseline`, at one rank count (None: all of them together).

    Of `size_bytes` and its interval, which is from a bootstrap over blocks, 0 means "at every size measured" and None
    "at none". `nowhere_frac` and `everywhere_frac` are the shares of the resamples that said so.
    """

    baseline: Strategy
    candidate: Strategy
    ranks: int | None
    crossing: Crossing
    size_bytes: float | None
    low_bytes: float | None
    high_bytes: float | None
    nowhere_frac: float
    everywhere_frac: float
    confidence: float
    smallest_bytes: int
    largest_bytes: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What `perfguard tune` recommends for `SGLANG_MM_BROADCAST_THRESHOLD`, in one sentence and per rank count.

    `is_told` is False where the trials do not say.
    `overall` pools the rank counts; None where `local` and `broadcast` were not both measured.
    """

    sentence: str
    is_told: bool
    overall: BreakEven | None
    by_ranks: tuple[BreakEven, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """A study, ready to print, store or render."""

    run: RunInfo
    spec: StudySpec
    revision: Revision
    sentence: str
    cells: tuple[CellResult, ...]
    pages: tuple[PagesEffect, ...]
    break_evens: tuple[BreakEven, ...]
    threshold: Threshold
    claims_title: str
    claims_note: str
    claims: tuple[ClaimRow, ...]
    trials: tuple[StudyTrial, ...]
