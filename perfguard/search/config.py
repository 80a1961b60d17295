"""What a search is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Outcome(str, Enum):
    """What a trial gave instead of a value."""

    UNTESTABLE = "untestable"


class Phase(str, Enum):
    """What the search is doing."""

    GATE = "gate"
    LOCATE = "locate"
    CONFIRM = "confirm"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """When a search is satisfied.

    `min_effect` is the smallest slowdown worth finding, as a fraction. `gate_bayes_factor` and `confirm_bayes_factor`
    are what the gate and the confirmation ask for; `gate=False` trusts that the ends differ, `confirm=False` trusts the
    posterior. `shared_level=True` is for a metric whose drift is small beside its effect: all trials share one level,
    and a block is one candidate alone, beside the ends that were told with `observe`. `gate_min_blocks` pairs of the
    ends and `confirm_min_blocks` trials of the candidate and of its parent are run whatever the posterior says.
    """

    confidence: float = 0.95
    min_effect: float = 0.02
    max_trials: int = 400
    direction: str = "slower"
    gate: bool = True
    confirm: bool = True
    shared_level: bool = False
    gate_min_blocks: int = 3
    gate_max_blocks: int = 40
    gate_bayes_factor: float = 20.0
    confirm_min_blocks: int = 3
    confirm_max_blocks: int = 24
    confirm_bayes_factor: float = 10.0

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ValueError: a value lies outside its range.
        """
        if not 0.5 < self.confidence < 1.0:  # noqa: PLR2004 - a probability above chance
            raise ValueError(f"confidence must lie between 0.5 and 1, not {self.confidence}")
        if not 0.0 < self.min_effect < 10.0:  # noqa: PLR2004 - ten times slower is no search
            raise ValueError(f"min_effect must lie between 0 and 10, not {self.min_effect}")
        if self.direction not in ("slower", "faster"):
            raise ValueError(f'direction must be "slower" or "faster", not {self.direction!r}')


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What is known; `posterior[k]` is P(k is the first bad), shape `(revisions,)`.

    `effect`, `effect_low` and `effect_high` are log ratios (bad over good) of the values as they were recorded, of the
    step at the culprit. `culprits` are all that were confirmed, `culprit` (the one with the largest effect) first.
    `reason` says why there is no culprit, or what else is left unexplained.
    """

    verdict: str
    culprit: int | None
    posterior: Floats
    p_no_change: float
    credible_set: list[int]
    effect: float
    effect_low: float
    effect_high: float
    trials: int
    revisions_measured: int
    reason: str
    culprits: list[int] = field(default_factory=list)
