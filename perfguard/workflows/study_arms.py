"""The processes that a study measures: one set for each strategy, side by side, idle but for the one under load."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from perfguard.load.schedule import build_phases
from perfguard.model.errors import UntestableError
from perfguard.model.progress import Progress
from perfguard.model.revision import Revision
from perfguard.model.scenario import ImageFormat, ImageSpec, Strategy
from perfguard.model.study import (
    MemoryPages,
    StudyCell,
    StudyMeasured,
    StudyMedia,
    StudyMediaKind,
    StudySpec,
    StudyTarget,
)
from perfguard.targets.memory_pages import pages_environment
from perfguard.targets.running import RunningServer
from perfguard.targets.sglang_transport import MediaKind, RunningTransport, TransportCase, start_transport
from perfguard.workflows.kinds import launch
from perfguard.workflows.trial import Bench, run_trial

_LIMIT_S = 300.0
_WARMUP_BURSTS = 2


class Arms(ABC):
    """All strategies at one rank count; hold it with `with`, so that no process is left.

    One that does not start or fails is stopped, and every later trial of it says why.
    """

    def __init__(self, spec: StudySpec, ranks: int) -> None:
        """Begin without a process; `start` makes them."""
        self.spec = spec
        self.ranks = ranks
        self._failures: dict[Strategy, UntestableError] = {}

    def start(self, progress: Progress) -> None:
        """Start every strategy's processes, one after the other, and warm them up."""
        for strategy in self.spec.strategies:
            progress.step(f"starting {strategy.value} on {self.ranks} ranks")
            self._guarded(strategy, partial(self._start, strategy))

    def measure(self, strategy: Strategy, cell: StudyCell) -> StudyMeasured:
        """Measure one cell with one strategy.

        Raises:
            UntestableError: its processes did not start, or failed now or before.
        """
        measured: list[StudyMeasured] = []
        self._guarded(strategy, lambda: measured.append(self._measure(strategy, cell)))
        if not measured:
            raise self._failures[strategy]
        return measured[0]

    def __enter__(self) -> Arms:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    @property
    @abstractmethod
    def stand_ins(self) -> tuple[str, ...]:
        """What was replaced in the processes that were started."""

    @abstractmethod
    def close(self) -> None:
        """End every process."""

    @abstractmethod
    def _start(self, strategy: Strategy) -> None: ...

    @abstractmethod
    def _stop(self, strategy: Strategy) -> None: ...

    @abstractmethod
    def _measure(self, strategy: Strategy, cell: StudyCell) -> StudyMeasured: ...

    def _guarded(self, strategy: Strategy, step: Callable[[], None]) -> None:
        if strategy in self._failures:
            return
        try:
            step()
        except UntestableError as error:
            self._failures[strategy] = error
            self._stop(strategy)


class TransportArms(Arms):
    """Rank processes with the revision's own functions."""

    def __init__(
        self,
        spec: StudySpec,
        ranks: int,
        *,
        source_tree: Path,
        python: Path,
        work_dir: Path,
        environment: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Begin without a process; `environment` is added to that of each."""
        super().__init__(spec, ranks)
        self._environment = environment
        self._source_tree = source_tree
        self._python = python
        self._work_dir = work_dir
        self._running: dict[Strategy, RunningTransport] = {}
        self._stacks: dict[Strategy, contextlib.ExitStack] = {}
        self._stand_ins: set[str] = set()

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """What was replaced in the processes that were started."""
        return tuple(sorted(self._stand_ins))

    def close(self) -> None:
        """End every process."""
        with contextlib.ExitStack() as all_of_them:
            for strategy in list(self._stacks):
                all_of_them.callback(self._stop, strategy)
        shutil.rmtree(self._work_dir, ignore_errors=True)

    def _start(self, strategy: Strategy) -> None:
        stack = self._stacks[strategy] = contextlib.ExitStack()
        running = stack.enter_context(
            start_transport(
                source_tree=self._source_tree,
                python=self._python,
                work_dir=self._work_dir / strategy.value,
                ranks=self.ranks,
                strategy=strategy,
                environment=self._environment,
            )
        )
        self._running[strategy] = running
        self._stand_ins.update(running.stand_ins)
        # The first requests of a size run code, and the most bytes in flight map memory, that later ones find.
        for medium in self.spec.media:
            running.run_bursts(_case(medium), requests=1, bursts=_WARMUP_BURSTS, limit_s=_LIMIT_S)
        largest = max(self.spec.cells(self.ranks), key=self.spec.in_flight_bytes)
        case = _case(self.spec.medium(largest.media))
        running.run_bursts(case, requests=largest.concurrency, bursts=1, limit_s=_LIMIT_S)

    def _stop(self, strategy: Strategy) -> None:
        self._running.pop(strategy, None)
        self._stacks.pop(strategy).close()

    def _measure(self, strategy: Strategy, cell: StudyCell) -> StudyMeasured:
        running, case = self._running[strategy], _case(self.spec.medium(cell.media))
        requests = self.spec.requests_of(cell)
        result = running.run_bursts(
            case, requests=cell.concurrency, bursts=requests // cell.concurrency, limit_s=_LIMIT_S
        )
        times = [ms for burst in result.ready_ms for ms in burst]
        measured = StudyMeasured(
            payload_bytes=result.payload_bytes,
            ms_per_request=result.ms_per_request,
            p50_ms=median(times),
            p99_ms=float(np.quantile(times, 0.99, method="inverted_cdf")),
            memcpy_ms=result.memcpy_ms,
            sha256_ms=result.sha256_ms,
        )
        if cell.concurrency > 1:
            return measured
        alone = running.run_lockstep(case, requests=requests, limit_s=_LIMIT_S)
        return dataclasses.replace(
            measured,
            received_ms=median(alone.received_ms),
            delivered_ms=median(alone.delivered_ms),
            whole_ms=median(alone.whole_ms),
            memcpy_ms=alone.memcpy_ms,
            sha256_ms=alone.sha256_ms,
        )


class ServerArms(Arms):
    """Whole servers, parked but for the one that is measured."""

    def __init__(
        self,
        spec: StudySpec,
        ranks: int,
        *,
        bench: Bench,
        revision: Revision,
        work_dir: Path,
        environment: tuple[tuple[str, str], ...],
    ) -> None:
        """Begin without a server; `environment` replaces the scenario's own."""
        super().__init__(spec, ranks)
        target = dataclasses.replace(bench.scenario.target, tensor_parallel_size=ranks, extra_environment=environment)
        profiling = dataclasses.replace(bench.scenario.profiling, enabled=False)
        scenario = dataclasses.replace(bench.scenario, target=target, profiling=profiling)
        self._bench = dataclasses.replace(bench, scenario=scenario)
        self._revision = revision
        self._work_dir = work_dir
        self._stack = contextlib.ExitStack()
        self._launched: dict[Strategy, Callable[[], None]] = {}
        self._running: dict[Strategy, RunningServer] = {}
        self._fresh: set[Strategy] = set()
        self._stand_ins: set[str] = set()

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """What was replaced in the servers that were measured."""
        return tuple(sorted(self._stand_ins))

    def close(self) -> None:
        """Stop every server."""
        self._stack.close()
        shutil.rmtree(self._work_dir, ignore_errors=True)

    def _start(self, strategy: Strategy) -> None:
        work_dir = self._work_dir / strategy.value
        work_dir.mkdir(parents=True, exist_ok=True)
        launched = launch(
            self._bench,
            source_tree=self._bench.repository.worktree(self._revision),
            work_dir=work_dir,
            port=None,
            strategy=strategy,
        )
        self._stack.callback(launched.stop)
        self._launched[strategy] = launched.stop
        self._running[strategy] = launched.wait()
        self._running[strategy].park()
        self._fresh.add(strategy)

    def _stop(self, strategy: Strategy) -> None:
        self._running.pop(strategy, None)
        if (stop := self._launched.pop(strategy, None)) is not None:
            stop()

    def _measure(self, strategy: Strategy, cell: StudyCell) -> StudyMeasured:
        running = self._running[strategy]
        running.unpark()
        samples = run_trial(
            self._bench_of(cell),
            running,
            self._work_dir / strategy.value,
            first=strategy in self._fresh,
            profile=False,
        )
        running.park()
        self._fresh.discard(strategy)
        self._stand_ins.update(samples.server.stand_ins)
        load = samples.load
        if load.e2e is None:
            raise UntestableError(f"no request succeeded: {load.first_error}")
        return StudyMeasured(
            payload_bytes=self.spec.medium(cell.media).payload_bytes,
            ms_per_request=1e3 / load.throughput_rps,
            p50_ms=load.e2e.p50_ms,
            p99_ms=load.e2e.p99_ms,
            busy_frac=samples.cpu.machine_busy_frac,
        )

    def _bench_of(self, cell: StudyCell) -> Bench:
        scenario, medium = self._bench.scenario, self.spec.medium(cell.media)
        count = medium.count if medium.kind is StudyMediaKind.IMAGE else medium.frames
        image = ImageSpec(width_px=medium.width_px, height_px=medium.height_px, format=ImageFormat.JPEG, count=count)
        requests = self.spec.requests_of(cell)
        load = dataclasses.replace(
            scenario.load,
            image=image,
            arrival=None,
            request=None,
            concurrency=cell.concurrency,
            requests=requests,
            warmup_requests=requests,
            settling_requests=min(requests, cell.concurrency),
            profiled_requests=0,
        )
        return dataclasses.replace(
            self._bench, scenario=dataclasses.replace(scenario, load=load), schedules=build_phases(load)
        )


def make_arms(
    bench: Bench, spec: StudySpec, revision: Revision, ranks: int, *, number: int, pages: MemoryPages
) -> Arms:
    """Return the arms of a study's target at one rank count, not started; `number` and `pages` name their folder."""
    work_dir = bench.store.run_dir / "work" / f"start-{number}-{pages.value}"
    environment = pages_environment(pages, bench.scenario.target.extra_environment)
    if spec.target is StudyTarget.SERVER:
        return ServerArms(spec, ranks, bench=bench, revision=revision, work_dir=work_dir, environment=environment)
    return TransportArms(
        spec,
        ranks,
        source_tree=bench.repository.worktree(revision),
        python=bench.environment.python,
        work_dir=work_dir,
        environment=environment,
    )


def _case(medium: StudyMedia) -> TransportCase:
    kind = MediaKind.IMAGE if medium.kind is StudyMediaKind.IMAGE else MediaKind.VIDEO
    return TransportCase(
        kind=kind, width_px=medium.width_px, height_px=medium.height_px, count=medium.count, frames=medium.frames
    )
