"""The search for the first bad revision: gate, locate, confirm.

1. Gate: good and bad end in blocks until the difference is clear, or clearly too small to matter.
2. Locate: a random end beside the candidate that halves the posterior, until one place holds the confidence.
3. Confirm: the candidate beside its parent, until their difference is clear by itself.

Every trial feeds one posterior. A revision that cannot be tested is never good or bad: it merges with its neighbours,
and the answer is then a credible set.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from perfguard.search.posterior import Observation, Posterior, posterior
from perfguard.stats.paired import PairedSummary, summarise_pairs

Floats = npt.NDArray[np.float64]

# An end that fails this often is not a flake.
END_ATTEMPTS = 2


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
    and a block is one candidate alone, beside the ends that were told with `observe`.
    """

    confidence: float = 0.95
    min_effect: float = 0.02
    max_trials: int = 400
    direction: str = "slower"
    gate: bool = True
    confirm: bool = True
    shared_level: bool = False
    gate_min_blocks: int = 3
    gate_max_blocks: int = 24
    gate_bayes_factor: float = 20.0
    confirm_min_blocks: int = 3
    confirm_max_blocks: int = 12
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

    `effect`, `effect_low` and `effect_high` are log ratios (bad over good) of the values as they were recorded.
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


class Search:
    """Drive with `while (block := s.next_block()) is not None: for i in block: s.record(i, value)`."""

    def __init__(
        self, n_revisions: int, config: SearchConfig, prior: Sequence[float] | None = None, seed: int = 0
    ) -> None:
        """Start a search over `n_revisions` revisions, 0 the good end.

        `prior[k]` weighs "k is the first bad one" (shape `(n_revisions,)`, entry 0 ignored); every weight is lifted
        to a tenth of the mean, so that a prior may steer but never hide.

        Raises:
            ValueError: fewer than two revisions, or a prior of the wrong shape.
        """
        if n_revisions < 2:  # noqa: PLR2004 - good and bad
            raise ValueError(f"a search needs two revisions at least, not {n_revisions}")
        self._n = n_revisions
        self._config = config
        self._given_prior = None if prior is None else [float(weight) for weight in prior]
        self._prior = _floored(self._given_prior, n_revisions)
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - order of trials, not a secret
        self._observations: list[Observation] = []
        self._history: list[tuple[int, float | None]] = []
        self._told: list[tuple[int, float]] = []
        self._untestable: dict[int, int] = {}
        self._pending: list[int] = []
        self._block = -1
        self._phase = Phase.GATE if config.gate else Phase.LOCATE
        self._verdict = "unknown"
        self._reason = ""
        self._confirmed: tuple[int, int] | None = None

    @property
    def phase(self) -> Phase:
        """What the next block is for."""
        return self._phase

    def next_block(self) -> list[int] | None:
        """Return the indices to measure back to back, in this order, or None when the search is over.

        Raises:
            RuntimeError: the last block was not recorded completely.
        """
        if self._pending:
            raise RuntimeError(f"revisions {self._pending} of the last block were not recorded")
        if self._phase is Phase.DONE:
            return None
        self._advance()
        block = self._choose()
        if block is None:
            return None
        if len(self._history) + len(block) > self._config.max_trials:
            self._finish("unknown", f"the budget of {self._config.max_trials} trials is spent")
            return None
        self._random.shuffle(block)
        self._block += 1
        self._pending = list(block)
        return block

    def record(self, index: int, value: float | Outcome) -> None:
        """Record what `index` gave in the current block: the log of a metric where larger is worse, or UNTESTABLE.

        Raises:
            ValueError: `index` is not due, or `value` is not finite.
        """
        if index not in self._pending:
            raise ValueError(f"revision {index} is not part of the current block; due are {self._pending}")
        if not isinstance(value, Outcome) and not np.isfinite(value):
            raise ValueError(f"the value of revision {index} must be finite, not {value}")
        self._pending.remove(index)
        if isinstance(value, Outcome):
            self._untestable[index] = self._untestable.get(index, 0) + 1
            self._history.append((index, None))
            return
        signed = value if self._config.direction == "slower" else -value
        block = 0 if self._config.shared_level else self._block
        self._observations.append(Observation(block=block, index=index, value=signed))
        self._history.append((index, float(value)))

    def observe(self, index: int, value: float) -> None:
        """Tell a trial that the search did not ask for, before its first block; it costs no trial of the budget.

        Raises:
            ValueError: the search has begun, or trials do not share one level.
        """
        if self._history or not self._config.shared_level:
            raise ValueError("trials can be told in advance only to a search whose trials share one level")
        signed = value if self._config.direction == "slower" else -value
        self._observations.append(Observation(block=0, index=index, value=signed))
        self._told.append((index, float(value)))

    def result(self) -> SearchResult:
        """Return what is known now; a search that is still running answers `unknown`."""
        state = self._posterior()
        sign = 1.0 if self._config.direction == "slower" else -1.0
        compared = self._confirmed or ((0, 1) if self._n == 2 else None)  # noqa: PLR2004 - two revisions are a pair
        pair = self._pair_summary(*compared) if compared is not None else None
        if pair is not None:
            mean, (low, high) = pair.mean, pair.bounds(self._config.confidence)
        else:
            mean, (low, high) = state.effect_mean, state.effect_bounds(self._config.confidence)
        low, high = sorted((sign * low, sign * high))
        credible = self._credible_set(state)
        return SearchResult(
            verdict=self._verdict,
            culprit=credible[0] if self._verdict == "culprit" else None,
            posterior=state.first_bad,
            p_no_change=state.no_change,
            credible_set=credible,
            effect=sign * mean,
            effect_low=low,
            effect_high=high,
            trials=len(self._history),
            revisions_measured=len({observation.index for observation in self._observations}),
            reason=self._reason,
        )

    def to_json(self) -> str:
        """Return everything needed to continue identically."""
        return json.dumps(
            {
                "n_revisions": self._n,
                "config": asdict(self._config),
                "prior": self._given_prior,
                "seed": self._seed,
                "told": self._told,
                "history": self._history,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Search:
        """Continue a search from `to_json()`; the continuation is identical, whatever was pending is asked for again.

        Raises:
            ValueError: `text` is not such a document.
        """
        document = json.loads(text)
        search = cls(
            document["n_revisions"], SearchConfig(**document["config"]), prior=document["prior"], seed=document["seed"]
        )
        for index, value in document["told"]:
            search.observe(int(index), float(value))
        history = [(int(index), value) for index, value in document["history"]]
        while history:
            if not search._pending and search.next_block() is None:
                raise ValueError("the saved search has more trials than it asked for")
            index, value = history.pop(0)
            search.record(index, Outcome.UNTESTABLE if value is None else value)
        return search

    @property
    def pending(self) -> list[int]:
        """The indices of the current block that are still to be recorded, in order."""
        return list(self._pending)

    def _advance(self) -> None:
        """Move to the next phase where the current one is satisfied."""
        ends = [end for end in (0, self._n - 1) if self._failed(end) and self._untestable[end] >= END_ATTEMPTS]
        if ends:
            end = "good" if ends[0] == 0 else "bad"
            self._finish("unknown", f"the {end} end cannot be tested")
            return
        if self._phase is Phase.GATE:
            self._advance_gate()
        if self._phase is Phase.LOCATE:
            self._advance_locate()
        if self._phase is Phase.CONFIRM:
            self._advance_confirm()

    def _advance_gate(self) -> None:
        pair = self._pair_summary(0, self._n - 1)
        if pair is None or pair.pairs < self._config.gate_min_blocks:
            return
        if pair.bayes_factor() >= self._config.gate_bayes_factor:
            if pair.mean > 0.0:
                self._phase = Phase.LOCATE
            else:
                self._finish("no_change", "the difference between the ends has the other direction")
        elif pair.below(float(np.log1p(self._config.min_effect)), self._config.confidence):
            self._finish("no_change", "the ends differ by less than the smallest effect asked for")
        elif pair.pairs >= self._config.gate_max_blocks:
            self._finish("unknown", f"{pair.pairs} blocks did not settle whether the ends differ")

    def _advance_locate(self) -> None:
        _, mass = self._best_group(self._posterior())
        if mass >= self._config.confidence:
            self._phase = Phase.CONFIRM

    def _advance_confirm(self) -> None:
        (low, high), mass = self._best_group(self._posterior())
        if mass < self._config.confidence:
            # The pairs argue against the candidate: look again, with all that is known by now.
            self._phase = Phase.LOCATE
            return
        pair = self._pair_summary(low, high)
        enough = pair is not None and pair.pairs >= self._config.confirm_min_blocks
        clear = pair is not None and pair.mean > 0.0 and pair.bayes_factor() >= self._config.confirm_bayes_factor
        if not self._config.confirm or (enough and clear):
            self._confirmed = (low, high)
            if high - low == 1:
                self._finish("culprit", "")
            else:
                between = high - low - 1
                self._finish("unknown", f"{between} revisions between the last good and the first bad cannot be tested")
        elif pair is not None and pair.pairs >= self._config.confirm_max_blocks:
            self._finish("unknown", f"{pair.pairs} pairs of the candidate and its parent did not settle it")

    def _choose(self) -> list[int] | None:
        """Return the next block's indices, unshuffled."""
        if self._phase is Phase.GATE:
            return [0, self._n - 1]
        if self._phase is Phase.CONFIRM:
            (low, high), _ = self._best_group(self._posterior())
            return [low, high]
        if self._phase is Phase.LOCATE:
            candidate = self._median_candidate(self._posterior())
            if candidate is None:
                # Nothing lies between the ends: more pairs of the ends are all that can help.
                return [0, self._n - 1]
            if self._config.shared_level:
                return [candidate]
            return [self._random.choice((0, self._n - 1)), candidate]
        return None

    def _median_candidate(self, state: Posterior) -> int | None:
        """Return the testable revision that splits the posterior most evenly."""
        inner = [index for index in self._testable() if 0 < index < self._n - 1]
        if not inner:
            return None
        cumulative = np.cumsum(state.first_bad) / max(float(state.first_bad.sum()), 1e-300)
        return min(inner, key=lambda index: abs(float(cumulative[index]) - 0.5))

    def _testable(self) -> list[int]:
        return [index for index in range(self._n) if not self._failed(index)]

    def _failed(self, index: int) -> bool:
        return index in self._untestable and all(observation.index != index for observation in self._observations)

    def _best_group(self, state: Posterior) -> tuple[tuple[int, int], float]:
        """Return the neighbouring testable revisions (low, high) most likely around the change, and its probability."""
        ends = sorted({0, self._n - 1, *self._testable()})
        masses = [float(state.first_bad[low + 1 : high + 1].sum()) for low, high in pairwise(ends)]
        best = int(np.argmax(masses))
        return (ends[best], ends[best + 1]), masses[best]

    def _credible_set(self, state: Posterior) -> list[int]:
        """Return the most probable revisions that together hold the confidence, in order; empty without a change."""
        if self._verdict == "no_change":
            return []
        if self._confirmed is not None:
            return list(range(self._confirmed[0] + 1, self._confirmed[1] + 1))
        order = np.argsort(-state.first_bad, kind="stable")
        order = order[order > 0]
        share = np.cumsum(state.first_bad[order]) / max(float(state.first_bad.sum()), 1e-300)
        return sorted(int(index) for index in order[: int(np.searchsorted(share, self._config.confidence)) + 1])

    def _posterior(self) -> Posterior:
        return posterior(self._n, self._observations, self._prior, 0.5 if self._config.gate else 1e-6)

    def _pair_summary(self, low: int, high: int) -> PairedSummary | None:
        """Summarise high minus low over the blocks that hold both."""
        by_block: dict[int, dict[int, float]] = {}
        for observation in self._observations:
            by_block.setdefault(observation.block, {})[observation.index] = observation.value
        differences = [block[high] - block[low] for block in by_block.values() if low in block and high in block]
        return summarise_pairs(differences) if differences else None

    def _finish(self, verdict: str, reason: str) -> None:
        self._phase = Phase.DONE
        self._verdict = verdict
        self._reason = reason


def _floored(prior: Sequence[float] | None, n_revisions: int) -> Floats:
    """Return the prior as weights with a floor of a tenth of their mean; entry 0 is 0."""
    weights = np.ones(n_revisions) if prior is None else np.asarray(prior, dtype=np.float64).copy()
    if weights.shape != (n_revisions,) or not np.isfinite(weights).all() or (weights < 0.0).any():
        raise ValueError(f"a prior needs {n_revisions} finite weights that are not negative")
    weights[0] = 0.0
    if weights.sum() <= 0.0:
        weights[1:] = 1.0
    floor = 0.1 * float(weights[1:].mean())
    weights[1:] = np.maximum(weights[1:], floor)
    return weights
