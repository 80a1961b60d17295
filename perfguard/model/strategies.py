"""Strategies measured side by side on one revision: what each changes beside the revision as it was committed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy

WORKING_CPU = "working_cpu_ms_per_request"
PICKLE = "pickle_ms_per_request"
GIL_WAIT = "gil_wait_frac"


class ChangeKind(str, Enum):
    """How a change is told: arm / baseline, or, of what may be nothing, arm - baseline in the metric's unit."""

    RATIO = "ratio"
    DIFFERENCE = "difference"


class ArmMeaning(str, Enum):
    """What a change says by its interval. `NOISE`: no change lies in it, or there is none."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmChange:
    """A change beside the baseline over `blocks` that hold both; the bounds are None where there is a single one."""

    kind: ChangeKind
    change: float
    low: float | None
    high: float | None
    blocks: int
    meaning: ArmMeaning


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMetric:
    """One metric of one arm: its mean over trials (geometric where changes are ratios).

    `role` is the process that it is of, empty for what is of the whole server. `change` is None for the baseline, and
    where no block holds both.
    """

    metric: str
    role: str
    mean: float
    trials: int
    change: ArmChange | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyArm:
    """One strategy: how many trials it had, why one was untestable, and what the others measured."""

    strategy: Strategy
    trials: int
    untestable: int
    untestable_reason: str
    metrics: tuple[ArmMetric, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyTable:
    """The strategies of one revision, the baseline first; every interval has the level `confidence`.

    `advice` is one sentence, drawn from the run's metric.
    """

    revision: Revision
    baseline: Strategy
    confidence: float
    blocks: int
    arms: tuple[StrategyArm, ...]
    advice: str
