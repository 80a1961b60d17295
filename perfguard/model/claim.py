"""What was claimed of a change, as data, and how it looks beside a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perfguard.model.scenario import Strategy


class ClaimMetric(str, Enum):
    """What a claim is about: a field of `perfguard.model.study.StudyMeasured`."""

    MS_PER_REQUEST = "ms_per_request"
    P99 = "p99_ms"
    RECEIVED = "received_ms"
    DELIVERED = "delivered_ms"
    BUSY = "busy_frac"

    @property
    def unit(self) -> str:
        """The unit of its absolute values."""
        return "of the machine's cores" if self is ClaimMetric.BUSY else "ms"


class ClaimDirection(str, Enum):
    """Whether the claim says that `strategy` takes less than `baseline`, or more."""

    LESS = "less"
    MORE = "more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim. What has neither `strategy` nor `user_metric` is not measured here, and `note` says what does.

    `user_metric` (a `UserMetric`'s value) takes the effect of a bisect or a comparison that is put beside: the ratio
    with the change / without it.

    With a `baseline` it is about the ratio strategy / baseline of `metric`: `ratio` is the claimed one, or `direction`
    where only that is claimed. Without, it is about an absolute value, which is the machine's, and only shown beside.

    `media` names a medium; `payload_bytes` instead takes the nearest one within a factor of two. `concurrency`,
    `ranks` and `target` (a `StudyTarget`) narrow it; None takes all.
    """

    text: str
    source: str
    claimed: str
    strategy: Strategy | None = None
    baseline: Strategy | None = None
    metric: ClaimMetric = ClaimMetric.MS_PER_REQUEST
    ratio: float | None = None
    direction: ClaimDirection | None = None
    media: str | None = None
    payload_bytes: float | None = None
    concurrency: int | None = None
    ranks: int | None = None
    target: str | None = None
    user_metric: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimList:
    """A file of claims; `note` says what they are and how far they can be trusted."""

    title: str
    note: str
    claims: tuple[Claim, ...]


class ClaimVerdict(str, Enum):
    """How a claim looks beside the measurement."""

    AS_CLAIMED = "as claimed"
    SAME_DIRECTION = "right direction, another size"
    CONTRADICTED = "contradicted"
    CANNOT_TELL = "cannot tell"
    BESIDE = "beside it only"
    NOT_MEASURED = "not measured in this run"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    """One claim beside what a run measured; `measured` and `how` are text for people."""

    claim: str
    source: str
    claimed: str
    measured: str
    how: str
    verdict: ClaimVerdict
