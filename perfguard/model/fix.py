"""What is known of ways out of a regression: the culprit's revert and the telling strategies, measured on BAD."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy


class FixMode(str, Enum):
    """What a bisect measures once it has a culprit: nothing, its revert, or also strategies that need no commit."""

    NONE = "none"
    REVERT = "revert"
    ALL = "all"


class FixVerdict(str, Enum):
    """What an arm does to the change, by the interval of its recovery.

    `RESTORES`: all of it lies at half or above. `HELPS`: all of it lies above nothing. `DOES_NOT_HELP`: all of it lies
    below half, and nothing is in it. `CANNOT_TELL`: it is wider than that, or there is none.
    """

    RESTORES = "restores"
    HELPS = "helps"
    DOES_NOT_HELP = "does_not_help"
    CANNOT_TELL = "cannot_tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevertConflict:
    """A file that keeps a revert from being clean: why, and the functions of the later revision that hold the lines."""

    path: str
    reason: str
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How much of the change from GOOD to BAD is taken back: 0.0 is as slow as BAD, 1.0 as fast as GOOD.

    It is log(arm / BAD) / log(GOOD / BAD) of the run's metric over `rounds` blocks that hold all three. The bounds are
    None where they are not finite: these rounds then do not tell GOOD from BAD.
    """

    frac: float
    low: float | None
    high: float | None
    confidence: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FixArm:
    """A revision that was measured with a strategy beside the others, every time on a server start of its own.

    `mean` is the geometric mean of the run's metric over its completed trials, None where it has none.
    `untestable_reason` is why a trial could not be judged, or empty. `verdict` is None for GOOD and BAD, which the
    others are held against; `recovery` is None for them, and where no block holds all three.
    """

    revision: Revision
    strategy: Strategy
    trials: int
    mean: float | None
    untestable_reason: str
    verdict: FixVerdict | None
    recovery: Recovery | None

    @property
    def label(self) -> str:
        """What people call it."""
        return self.strategy.labelled(self.revision.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixResult:
    """What gives the lost performance back on BAD.

    `notes` say what was not measured, and why. `reverted` is BAD without the culprit, None where the revert is not
    clean (`conflicts`) or was not tried; `patch` names the file in the run's folder that holds it, or is empty. `arms`
    are GOOD, BAD, and what was tried; none where nothing was measured. `first_trial` is the number of the first trial
    that was measured for this and not for the search, or None.
    """

    mode: FixMode
    sentence: str
    notes: tuple[str, ...]
    reverted: Revision | None
    conflicts: tuple[RevertConflict, ...]
    patch: str
    arms: tuple[FixArm, ...]
    first_trial: int | None
