"""The duel of two revisions: measured side by side until their difference is clear, or clearly too small to matter.

Pure, as the search: `next_round()` says what to measure, `record()` takes what was measured. A round measures both
sides once, back to back in random order, and gives one difference. Servers stay alive between rounds; whether the next
round runs on them or on fresh starts is decided by what narrows the difference more for its time.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from perfguard.search.config import Outcome
from perfguard.stats.starts import EffectPosterior, differences_of, effect_posterior, sums_of

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS_PER_START = 2
MAX_ROUNDS_PER_START = 8
# With two that agree by chance, a machine whose starts differ looks like a steady one.
MIN_STARTS = 3
# Where starts of one server differ by this, a change is named with half of the doubt that the confidence allows.
UNSTEADY_SD = 0.03
_END_ATTEMPTS = 2


class Side(Enum):
    """One of the two that are compared."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"


class Question(Enum):
    """What a duel is to answer: whether the candidate's value is larger (worse), smaller, or either."""

    WORSE = "worse"
    BETTER = "better"
    DIFFERENT = "different"


class DuelVerdict(Enum):
    """How a duel ended. `NO_CHANGE`: the answer to the question is no, at the smallest effect asked for."""

    WORSE = "worse"
    BETTER = "better"
    NO_CHANGE = "no_change"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class DuelConfig:
    """When a duel stops.

    `confidence` is the posterior probability that an answer needs, `min_effect` the smallest difference worth naming
    (natural log of a ratio), `max_rounds` the most rounds. `start_cost` is what fresh starts of both sides cost, in
    rounds.
    """

    question: Question
    confidence: float
    min_effect: float
    max_rounds: int = 24
    start_cost: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What to measure next: both sides in this order, on `fresh` server starts or on those of the round before."""

    order: tuple[Side, Side]
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DuelResult:
    """How a duel stands. `probability` is that of the verdict; `posterior` is None while no round is complete."""

    verdict: DuelVerdict
    reason: str
    probability: float
    posterior: EffectPosterior | None
    rounds: int
    starts: int


class Duel:
    """One comparison in progress."""

    def __init__(self, config: DuelConfig, *, seed: int = 0) -> None:
        """Begin without knowledge; `seed` decides the order inside the rounds."""
        self._config = config
        self._random = random.Random(seed)  # noqa: S311 - order of trials, not a secret
        self._values: dict[Side, tuple[int, float]] = {}
        self._groups: dict[tuple[int, int], list[tuple[float, float]]] = {}
        self._failures = dict.fromkeys(Side, 0)
        self._rounds = 0
        self._broken = True
        self._result = self._judge()

    def next_round(self) -> Round | None:
        """Return the next round, or None when the duel is over."""
        if self._result.verdict is not DuelVerdict.UNKNOWN or self._result.reason:
            return None
        fresh = self._broken or self._wants_fresh_starts()
        order = [Side.BASELINE, Side.CANDIDATE]
        self._random.shuffle(order)
        self._values = {}
        self._broken = False
        self._rounds += 1
        return Round(order=(order[0], order[1]), fresh=fresh)

    def record(self, side: Side, start: int, value: float | Outcome) -> None:
        """Take one measurement of the round: on which server start, and the log of a metric where larger is worse.

        After an `Outcome.UNTESTABLE` the other side of the round need not be measured.
        """
        if isinstance(value, Outcome):
            self._failures[side] += 1
            self._broken = True
        else:
            self._values[side] = (start, value)
        if len(self._values) < len(Side) and not self._broken:
            return
        if len(self._values) == len(Side):
            (base_start, base), (other_start, other) = self._values[Side.BASELINE], self._values[Side.CANDIDATE]
            self._groups.setdefault((base_start, other_start), []).append((base, other))
        self._result = self._judge()

    def result(self) -> DuelResult:
        """Return how the duel stands."""
        return self._result

    def _judge(self) -> DuelResult:
        groups = list(self._groups.values())
        posterior = effect_posterior(differences_of(groups), sums=sums_of(groups)) if groups else None
        verdict, reason, probability = DuelVerdict.UNKNOWN, "", 0.0
        failed = next((side for side, count in self._failures.items() if count >= _END_ATTEMPTS), None)
        if failed is not None:
            reason = f"{failed.value} cannot be tested"
        elif posterior is not None:
            if len(groups) >= MIN_STARTS and len(groups[-1]) >= min(ROUNDS_PER_START, self._config.max_rounds):
                verdict, probability = answer(posterior, self._config)
            if verdict is DuelVerdict.UNKNOWN and self._rounds >= self._config.max_rounds:
                reason = f"{self._rounds} rounds on {len(groups)} pairs of starts did not settle it"
        elif self._rounds >= self._config.max_rounds:
            reason = "no trial is left to spend"
        return DuelResult(
            verdict=verdict,
            reason=reason,
            probability=probability,
            posterior=posterior,
            rounds=sum(len(group) for group in groups),
            starts=len(groups),
        )

    def _wants_fresh_starts(self) -> bool:
        """Whether fresh starts with a few rounds narrow the effect more, for their time, than one more round here."""
        sizes = [len(group) for group in self._groups.values()]
        if sizes[-1] < ROUNDS_PER_START:
            return False
        if len(sizes) < MIN_STARTS or sizes[-1] >= MAX_ROUNDS_PER_START:
            return True
        posterior = self._result.posterior
        if posterior is None:
            raise RuntimeError("rounds were recorded but not judged")
        between, within = 2.0 * posterior.start_sd**2, posterior.noise_sd**2

        def precision(rounds: Sequence[int]) -> float:
            return sum(1.0 / (between + within / count) for count in rounds)

        now = precision(sizes)
        here = precision([*sizes[:-1], sizes[-1] + 1]) - now
        there = (precision([*sizes, ROUNDS_PER_START]) - now) / (ROUNDS_PER_START + self._config.start_cost)
        return there > here


def answer(posterior: EffectPosterior, config: DuelConfig) -> tuple[DuelVerdict, float]:
    """Return the verdict that the posterior supports, and its probability; `UNKNOWN` where it supports none.

    A change is named when it is there with the confidence that these starts call for, and more likely than not worth
    naming.
    """
    needed = confidence_to_name(config.confidence, posterior.start_sd)
    low = -math.inf if config.question is Question.WORSE else -config.min_effect
    high = math.inf if config.question is Question.BETTER else config.min_effect
    no_change = posterior.p_between(low, high)
    if no_change >= config.confidence:
        return DuelVerdict.NO_CHANGE, no_change
    for verdict, sign, excluded in (
        (DuelVerdict.WORSE, 1, Question.BETTER),
        (DuelVerdict.BETTER, -1, Question.WORSE),
    ):
        if config.question is excluded:
            continue
        there = posterior.p_towards(sign)
        # More likely than not worth naming.
        if there >= needed and sign * posterior.quantile(0.5) >= config.min_effect:
            return verdict, there
    return DuelVerdict.UNKNOWN, 0.0


def confidence_to_name(confidence: float, start_sd: float) -> float:
    """Return the probability at which a change is named, where starts of one server differ by `start_sd`.

    The duel looks after every round, and would end at the first few starts that happen to agree. Where starts differ
    much, only chance makes them agree, and few of them say how much they differ: the doubt allowed is the less.
    """
    return 1.0 - (1.0 - confidence) / (1.0 + (start_sd / UNSTEADY_SD) ** 2)
