"""Judgements: effects, findings, verdicts and the documents that commands print and reports show."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perfguard.model.fix import FixResult
from perfguard.model.gil_stacks import GilLayers
from perfguard.model.revision import Hunk, Revision
from perfguard.model.scenario import Strategy
from perfguard.model.strategies import StrategyTable
from perfguard.model.trial import Trial

SCHEMA_VERSION = 1


class BisectVerdict(str, Enum):
    """What a bisect concluded."""

    CULPRIT = "culprit"
    NO_CHANGE = "no_change"
    UNKNOWN = "unknown"


class CompareVerdict(str, Enum):
    """What a comparison of two revisions concluded about the candidate."""

    SLOWER = "slower"
    FASTER = "faster"
    NO_CHANGE = "no_change"
    UNKNOWN = "unknown"


class Direction(str, Enum):
    """What a bisect looks for: the first revision that is slower, or the first that is faster."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The ratio candidate / baseline of a metric with its interval.

    `ratio`, `low` and `high` are ratios (1.0: no change); `confidence` is the interval's level.
    `pairs` is the number of blocks that held both, `starts` that of the pairs of server starts they ran on.
    """

    metric: str
    ratio: float
    low: float
    high: float
    confidence: float
    pairs: int
    starts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One number behind a finding, beside the good revision's: `before` and `after` in `unit`."""

    what: str
    unit: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that was judged. `fired` False is kept too: a rule that stayed silent is an answer.

    `effect` is one sentence with the number that decided, `threshold` what it was held against.
    """

    rule: str
    role: str
    fired: bool
    effect: str
    threshold: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownFrame:
    """A function whose cost changed, in one role: CPU milliseconds per request under it (`total`) and in it (`self`).

    `frame` is `function (file)`; `low_ms` and `high_ms` bound the change of the total (after minus before) at the
    run's confidence, and are None where fewer than two trials a side were profiled. `significant` is True where the
    change is beyond the noise.
    """

    frame: str
    role: str
    before_ms_per_request: float
    after_ms_per_request: float
    before_self_ms_per_request: float
    after_self_ms_per_request: float
    low_ms: float | None
    high_ms: float | None
    significant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionSummary:
    """What was measured on one revision: the user metric's geometric mean and interval over its trials.

    `strategy` is what was put into its servers; `label` names both. `gpu_busy_frac` is how busy the graphics cards were
    in its trials, as a mean; None where none was read.
    """

    revision: Revision
    index: int
    trials: int
    untestable: int
    untestable_reason: str
    metric_mean: float | None
    metric_low: float | None
    metric_high: float | None
    evidence_ms_per_request: float | None
    strategy: Strategy = Strategy.AS_COMMITTED
    gpu_busy_frac: float | None = None

    @property
    def label(self) -> str:
        """What people call the revision, with its strategy where that changes it."""
        return self.strategy.labelled(self.revision.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleProfile:
    """One role's stacks of one side, merged over trials: (frames root first, CPU ms per request) pairs.

    `samples` is how many samples stand behind them, `trials` over how many trials. `classes` is what each stack of
    `stacks` was doing (pickle, hash, poll, ...), in the same order; it is empty where that was not judged. `threads` is
    the name of the thread that each of them was seen in most; it is empty where threads were not named. `gil` is what
    is known of the stacks that held the GIL and that waited for it, None where no trial looked.
    """

    role: str
    samples: int
    trials: int
    stacks: tuple[tuple[tuple[str, ...], float], ...]
    classes: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    gil: GilLayers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """The revision that made the difference, with how sure that is and what it changed."""

    revision: Revision
    posterior: float
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """How a run came about: everything a reader needs to judge or repeat it."""

    command: str
    run_dir: str
    scenario: str
    scenario_description: str
    schedule_digest: str
    metric: str
    larger_is_better: bool
    started_at: str
    wall_s: float
    seed: int
    environment: tuple[tuple[str, str], ...]
    stand_ins: tuple[str, ...]
    lost_samples: int
    kept_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult:
    """A comparison of two revisions, ready to print, store or render."""

    run: RunInfo
    baseline: Revision
    candidate: Revision
    verdict: CompareVerdict
    sentence: str
    effects: tuple[Effect, ...]
    findings: tuple[Finding, ...]
    grown_frames: tuple[GrownFrame, ...]
    baseline_profiles: tuple[RoleProfile, ...]
    candidate_profiles: tuple[RoleProfile, ...]
    revisions: tuple[RevisionSummary, ...]
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectResult:
    """A bisect: the comparison of its endpoints (or of culprit and parent), and who is to blame.

    `fix` is what was measured of ways out, None where that was not asked for; its trials are the last of `trials`, and
    nothing else here rests on them.
    """

    run: RunInfo
    origin: str
    direction: Direction
    good: Revision
    bad: Revision
    candidates: int
    verdict: BisectVerdict
    sentence: str
    culprit: Culprit | None
    credible_set: tuple[Revision, ...]
    posterior: tuple[float, ...]
    effects: tuple[Effect, ...]
    findings: tuple[Finding, ...]
    grown_frames: tuple[GrownFrame, ...]
    baseline_profiles: tuple[RoleProfile, ...]
    candidate_profiles: tuple[RoleProfile, ...]
    revisions: tuple[RevisionSummary, ...]
    trials: tuple[Trial, ...]
    fix: FixResult | None = None

    @property
    def search_trials(self) -> tuple[Trial, ...]:
        """The trials that the verdict rests on: those before the ways out were tried."""
        first = self.fix.first_trial if self.fix is not None else None
        return self.trials if first is None else tuple(trial for trial in self.trials if trial.number < first)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A table of revisions measured side by side, without a verdict.

    `strategies` holds a table for every revision that was measured with several of them; none where it was not.
    """

    run: RunInfo
    revisions: tuple[RevisionSummary, ...]
    profiles: tuple[tuple[str, tuple[RoleProfile, ...]], ...]
    trials: tuple[Trial, ...]
    strategies: tuple[StrategyTable, ...] = ()
