"""A night of the guard: what it measured, what it concluded, which alerts it raised. Plain data, one file a night.

Alerts are told whole: a night holds every alert whose state or text it changed, as it stands after that night. So the
last word on an alert is its entry in the newest night that names it (`latest_alerts`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from perfguard.model.result import CompareVerdict, Direction, Effect, Finding, GrownFrame
from perfguard.model.revision import Revision

NIGHT_SCHEMA_VERSION = 1


class NightVerdict(str, Enum):
    """What a night concluded about the branch's head.

    `FIRST` has nothing to compare with and becomes the baseline. `CLEAN`: no change was found (or one that was
    open is gone). `REGRESSION` and `IMPROVEMENT`: one was found tonight, or a regression is still open. `UNKNOWN`: it
    was measured, and does not settle. `FAILED`: it could not be measured. `UNFINISHED`: a change was found, but the
    budget ended before its commit was; the next night goes on.
    """

    FIRST = "first"
    CLEAN = "clean"
    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    UNKNOWN = "unknown"
    FAILED = "failed"
    UNFINISHED = "unfinished"

    @property
    def trusted(self) -> bool:
        """Whether the head may serve as the start of the next night's search."""
        return self in {NightVerdict.FIRST, NightVerdict.CLEAN, NightVerdict.IMPROVEMENT}


class AlertKind(str, Enum):
    """What an alert is about.

    `STEP`: one change made the server slower. `CREEP`: many small ones did. `IMPROVEMENT`: one made it faster.
    `MACHINE`: the nights run on another machine now, and are compared anew. `FAILED`: a night could not be measured.
    """

    STEP = "step"
    CREEP = "creep"
    IMPROVEMENT = "improvement"
    MACHINE = "machine"
    FAILED = "failed"


class AlertState(str, Enum):
    """Where an alert stands.

    `OPEN`: raised this night. `UPDATED`: raised before, still true, and its text may have changed. `CLOSED`: no longer
    true. `ACCEPTED`: a person accepted it, or it needs nobody's answer (an improvement, another machine).
    """

    OPEN = "open"
    UPDATED = "updated"
    CLOSED = "closed"
    ACCEPTED = "accepted"

    @property
    def is_open(self) -> bool:
        """Whether somebody still has to look at it."""
        return self in {AlertState.OPEN, AlertState.UPDATED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that somebody should know. `id` is stable: the same trouble has the same one on every night.

    `commit` is the culprit's full hash (the head's, where no single commit is to blame); `first_night` and `last_night`
    are ids of nights. `sentence` says it all in one or two sentences, and changes with the state.
    `effect` is the change of the user metric that the alert is about, None where it is about none.
    """

    id: str
    kind: AlertKind
    state: AlertState
    commit: str
    first_night: str
    last_night: str
    sentence: str
    effect: Effect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFingerprint:
    """The machine that measured. Nights are put in one series only where `key` is the same.

    `key` is a short hash of what changes speed: processor, cores, memory, kernel release series, Python.
    `described` is the same in words.
    """

    key: str
    described: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NightCulprit:
    """The commit that made the change: how sure that is, and its own effect against its parent, with interval."""

    revision: Revision
    posterior: float
    effect: Effect | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorCheck:
    """The head measured beside the anchor, an older commit that was found good: what many small changes add up to.

    `effect` is head against anchor, None where nothing was measured on both.
    """

    anchor: Revision
    verdict: CompareVerdict
    effect: Effect | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSearch:
    """A search that was cut short: it goes on in `run_dir` (relative to the state folder) next night.

    `good` and `bad` are full hashes.
    """

    good: str
    bad: str
    direction: Direction
    run_dir: str


class Stage(str, Enum):
    """What a measurement of a night is for: beside the baseline, beside the anchor, or in search of the commit."""

    COMPARE = "compare"
    ANCHOR = "anchor"
    SEARCH = "bisect"


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRun:
    """A measurement that a night began. It is taken away once the night is kept, so what is left was cut short.

    `id` names its file, `night` is the id of the night, `machine` the key of its fingerprint. `low` and `high` are full
    hashes, `run_dir` is relative to the state folder and `direction` belongs to a search. `attempt` counts from 1 what
    measures the same again.
    """

    schema_version: int
    id: str
    night: str
    branch: str
    scenario: str
    machine: str
    stage: Stage
    attempt: int
    low: str
    high: str
    run_dir: str
    direction: Direction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NightRecord:
    """One night, complete.

    `number` counts the nights of a state folder from 1 and gives their order, whatever the clock said; two nights
    that overlapped may share one, and stand in the order of `started_at` (ISO 8601, UTC) then. `night` is the id, and
    the name of its file.

    `head` is None where it could not be fetched. `baseline` is what the head was measured against (None where it was
    not); `trusted` is the newest head that was found good or accepted, with this night's where it was. `effects` are
    head against baseline, the metric that decides first. `reason` says why a night is unknown, failed or unfinished, or
    why a regression has no culprit, and is empty otherwise. `report` is the path of the HTML report relative to the
    state folder, None where there is none. `alerts` are those that this night raised, updated or closed. `anchor` is
    what the head was measured against to find creep, None where it was not. `pending` is a search that the next night
    goes on with. `notes` are remarks that change no verdict (a damaged file that was set aside).
    """

    schema_version: int
    night: str
    number: int
    started_at: str
    repo: str
    branch: str
    scenario: str
    metric: str
    larger_is_better: bool
    machine: MachineFingerprint
    head: Revision | None
    baseline: Revision | None
    trusted: Revision | None
    verdict: NightVerdict
    sentence: str
    reason: str
    effects: tuple[Effect, ...] = ()
    culprit: NightCulprit | None = None
    frames: tuple[GrownFrame, ...] = ()
    findings: tuple[Finding, ...] = ()
    alerts: tuple[Alert, ...] = ()
    anchor: AnchorCheck | None = None
    pending: PendingSearch | None = None
    report: str | None = None
    trials: int = 0
    wall_s: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A person's word that a change is known: alerts on `commit` are closed, and it is the baseline from then on.

    `commit` is a full hash, of a culprit or of the head of a night. `after_night` is the newest
    night when it was said. `accepted_at` is ISO 8601, UTC.
    """

    schema_version: int
    id: str
    commit: str
    reason: str
    after_night: str
    accepted_at: str


def latest_alerts(nights: Iterable[NightRecord]) -> tuple[Alert, ...]:
    """Return each alert as the newest night that names it left it; `nights` are given oldest first.

    Alerts come in the order in which they were first raised.
    """
    latest: dict[str, Alert] = {}
    for night in nights:
        for alert in night.alerts:
            latest[alert.id] = alert
    return tuple(latest.values())
