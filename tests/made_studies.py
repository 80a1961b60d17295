"""Studies that were never measured: a world in which the cost of every strategy is known."""

import math
from pathlib import Path

import numpy as np

from perfguard.model.errors import UntestableError
from perfguard.model.result import RunInfo
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.study import (
    MemoryPages,
    StudyMeasured,
    StudyMedia,
    StudyMediaKind,
    StudySpec,
    StudyTarget,
    StudyTrial,
)
from perfguard.model.trial import Untestable
from perfguard.workflows.study import judge_study
from perfguard.workflows.study_files import load_claims
from perfguard.workflows.study_plan import plan_study

REVISION = Revision(commit="c" * 40, label="r<1>", subject="change", author="A", committed_at="2026-01-01")
SIZES_PX = (56, 336, 672)


def make_spec(**changes):
    fields = {
        "name": "made",
        "description": "made up",
        "target": StudyTarget.TRANSPORT,
        "scenario": "mm-small-images",
        "strategies": (Strategy.LOCAL, Strategy.BROADCAST, Strategy.SHARED_MEMORY),
        "baseline": Strategy.LOCAL,
        "ranks": (2, 4),
        "concurrency": (1, 8),
        "requests": 4,
        "starts": 2,
        "blocks_per_start": 2,
        "most_in_flight_mb": 1000.0,
        "confidence": 0.95,
        "min_effect_frac": 0.05,
        "media": (
            *(StudyMedia(name=f"{px}x{px}", width_px=px, height_px=px) for px in SIZES_PX),
            StudyMedia(
                name="video 8f 448x252", kind=StudyMediaKind.VIDEO, width_px=448, height_px=252, frames=8, requests=2
            ),
        ),
    }
    return StudySpec(**{**fields, **changes})


def crossing_cost(crossing_bytes):
    """Costs in milliseconds: broadcast beats local from `crossing_bytes` on, shared-memory beats both everywhere."""

    def cost(strategy, payload_bytes):
        local = 1.0 + payload_bytes / 1e6
        ratio = {
            Strategy.LOCAL: 1.0,
            Strategy.BROADCAST: (payload_bytes / crossing_bytes) ** -0.3,
            Strategy.SHARED_MEMORY: 0.4,
        }[strategy]
        return local * ratio

    return cost


class World:
    """Measures by `cost`, times noise; it drifts from cell to cell, and dies after `die_after` trials."""

    def __init__(self, spec, cost, *, noise=0.02, seed=0, untestable=(), die_after=None):
        self.spec, self.cost, self.noise, self.untestable = spec, cost, noise, untestable
        self.die_after = die_after
        self.rng = np.random.default_rng(seed)
        self.measured = []
        self.started = []

    def value(self, strategy, cell):
        if strategy in self.untestable:
            raise UntestableError("ImportError: broken", log_tail="Traceback")
        if self.die_after is not None and len(self.measured) >= self.die_after:
            raise KeyboardInterrupt
        self.measured.append((strategy, cell))
        payload = self.spec.medium(cell.media).payload_bytes
        drift = 1.0 + 0.3 * math.sin(len(self.measured) / 40.0)
        pages = 0.5 if cell.memory_pages is MemoryPages.HUGE else 1.0
        ms = pages * self.cost(strategy, payload) * cell.ranks * drift * math.exp(self.rng.normal(0.0, self.noise))
        alone = {"received_ms": 0.7 * ms, "delivered_ms": 0.9 * ms, "whole_ms": ms} if cell.concurrency == 1 else {}
        return StudyMeasured(
            payload_bytes=payload,
            ms_per_request=ms,
            p50_ms=ms,
            p99_ms=1.5 * ms,
            memcpy_ms=payload / 1e7,
            sha256_ms=payload / 5e6,
            **alone,
        )


def make_trials(spec, cost, **world_options):
    """All trials of a study, as a world answers them; a start for each leg."""
    world = World(spec, cost, **world_options)
    trials = []
    for plan in plan_study(spec, seed=1):
        measured = untestable = None
        try:
            measured = world.value(plan.strategy, plan.cell)
        except UntestableError as error:
            untestable = Untestable(reason=error.reason, log=error.log_tail)
        trials.append(
            StudyTrial(
                number=plan.number,
                block=plan.block,
                start=plan.leg,
                cell=plan.cell,
                strategy=plan.strategy,
                started_at="2026-01-01T00:00:00+00:00",
                wall_s=0.5,
                measured=measured,
                untestable=untestable,
            )
        )
    return tuple(trials)


def make_result(spec, trials):
    """What a study of these trials says, with the claims that come along."""
    run = RunInfo(
        command="perfguard study r1",
        run_dir="/home/somebody/perfguard-runs/study-r1",
        scenario=spec.name,
        scenario_description=spec.description,
        schedule_digest="",
        metric="ms_per_request",
        larger_is_better=False,
        started_at="2026-01-01T00:00:00+00:00",
        wall_s=600.0,
        seed=1,
        environment=(("cores", "2"),),
        stand_ins=("strategy local: Scheduler._process_and_broadcast_mm_inputs",),
        lost_samples=0,
        kept_samples=0,
    )
    return judge_study(spec, load_claims("17a57fd86"), REVISION, trials, run)


class FakeRepository:
    """One revision, without git."""

    def __init__(self, revision):
        self.revision = revision

    def resolve(self, _ref):
        return self.revision

    def worktree(self, _revision):
        return Path()
