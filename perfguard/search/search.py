"""The search for the first bad revision: gate, locate, confirm, and look for a second one.

1. Gate: good and bad end in blocks until the difference is clear, or clearly too small to matter.
2. Locate: the candidate that tells most, until one place holds the confidence.
3. Confirm: the candidate beside its parent, until their difference is clear by itself.
4. Where the first culprit does not explain the whole difference between the ends, the rest is searched too.

Every trial feeds one posterior. A revision that cannot be tested is never good or bad: it merges with its neighbours,
and the answer is then a credible set.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from perfguard.search.choose import choose_candidate
from perfguard.search.config import Outcome, Phase, SearchConfig, SearchResult
from perfguard.search.posterior import Observation, Summary
from perfguard.search.trials import Trials, floored_prior

# An end that fails this often is not a flake.
END_ATTEMPTS = 2
# What "the ends do not differ" weighs beforehand; about 40% of ranges that people bisect hold no culprit.
# Source: "Flake Aware Culprit Finding", T. Henderson et al., 2023.
PRIOR_NO_CHANGE = 0.5
TRUSTED_NO_CHANGE = 1e-6
# A part of the range whose ends were seen to differ is still allowed to hold nothing.
PART_NO_CHANGE = 0.05
# How sure it must be that a part holds another step before trials are spent on it.
SECOND_CONFIDENCE = 0.95
# The share of the doubt that the confidence allows for "no change", and the gate's blocks from which on it may all be
# spent: what ends after a few trials is what ends wrongly.
FUTILITY = 0.5
FUTILITY_BLOCKS = 5
# A culprit is named with this much less doubt than the confidence allows: an innocent commit must not be blamed.
CONFIRM_CARE = 50.0
PLATEAU_TRIALS = 3
PLATEAU_BAYES_FACTOR = 100.0
# On a steady machine every third block holds an end; on a drifting one every block does.
STEADY_ANCHOR_EVERY = 3
ANCHOR_ALWAYS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A part of the range: revisions `low .. high`, of which `low` is good beside `high`."""

    low: int
    high: int
    no_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A confirmed change: `low` is good, `high` bad, nothing between them can be tested."""

    low: int
    high: int
    summary: Summary


class Search:
    """Drive with `while (block := s.next_block()) is not None: for i in block: s.record(i, value)`."""

    def __init__(
        self, n_revisions: int, config: SearchConfig, prior: Sequence[float] | None = None, seed: int = 0
    ) -> None:
        """Start a search over `n_revisions` revisions, 0 the good end.

        `prior[k]` weighs "k is the first bad one" (shape `(n_revisions,)`, entry 0 ignored); it is mixed half and
        half with equal weights, so that a prior may steer but never hide.

        Raises:
            ValueError: fewer than two revisions, or a prior of the wrong shape.
        """
        if n_revisions < 2:  # noqa: PLR2004 - good and bad
            raise ValueError(f"a search needs two revisions at least, not {n_revisions}")
        self._n = n_revisions
        self._config = config
        self._given_prior = None if prior is None else [float(weight) for weight in prior]
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - order of trials, not a secret
        self._trials = Trials(floored_prior(self._given_prior, n_revisions), math.log1p(config.min_effect), config)
        self._pending: list[int] = []
        self._block = -1
        self._blocks_of_phase = 0
        self._phase = Phase.GATE if config.gate else Phase.LOCATE
        self._verdict = "unknown"
        self._reason = ""
        self._steps: list[_Step] = []
        self._parts: list[_Part] = []
        self._enter(_Part(low=0, high=n_revisions - 1, no_change=PRIOR_NO_CHANGE if config.gate else TRUSTED_NO_CHANGE))

    @property
    def phase(self) -> Phase:
        """What the next block is for."""
        return self._phase

    @property
    def pending(self) -> list[int]:
        """The indices of the current block that are still to be recorded, in order."""
        return list(self._pending)

    def next_block(self) -> list[int] | None:
        """Return the indices to measure back to back, in this order, or None when the search is over.

        Raises:
            RuntimeError: the last block was not recorded completely.
        """
        if self._pending:
            raise RuntimeError(f"revisions {self._pending} of the last block were not recorded")
        if self._phase is not Phase.DONE:
            self._advance()
        if self._phase is Phase.DONE:
            return None
        block = self._choose()
        if len(self._trials.history) + len(block) > self._config.max_trials:
            self._finish("unknown", f"the budget of {self._config.max_trials} trials is spent")
            return None
        self._random.shuffle(block)
        self._block += 1
        self._blocks_of_phase += 1
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
        self._feed(self._trials.record(index, value, self._block))

    def observe(self, index: int, value: float) -> None:
        """Tell a trial that the search did not ask for, before its first block; it costs no trial of the budget.

        Raises:
            ValueError: the search has begun, or trials do not share one level.
        """
        if self._trials.history or not self._config.shared_level:
            raise ValueError("trials can be told in advance only to a search whose trials share one level")
        self._feed(self._trials.tell(index, value))

    def _feed(self, observation: Observation | None) -> None:
        if observation is not None and self._part.low <= observation.index <= self._part.high:
            self._model.add(observation)

    def result(self) -> SearchResult:
        """Return what is known now; a search that is still running answers `unknown`."""
        steps = sorted(self._steps, key=lambda step: (step.high - step.low, -step.summary.effect))
        state = steps[0].summary if steps else self._model.summary()
        # With several steps, a step's own pair alone tells its effect.
        size = self._pair(steps[0].low, steps[0].high) if len(steps) > 1 else state
        sign = 1 if self._config.direction == "slower" else -1
        half = float(stats.norm.ppf(0.5 + self._config.confidence / 2.0)) * size.effect_sd
        low, high = sorted((sign * (size.effect - half), sign * (size.effect + half)))
        culprits = [step.high for step in steps if step.high - step.low == 1]
        return SearchResult(
            verdict="culprit" if culprits else self._verdict,
            culprit=culprits[0] if culprits else None,
            posterior=state.first_bad,
            p_no_change=state.no_change,
            credible_set=self._credible_set(state, steps),
            effect=sign * size.effect,
            effect_low=low,
            effect_high=high,
            trials=len(self._trials.history),
            revisions_measured=len(self._trials.tested),
            reason=self._reason,
            culprits=culprits,
        )

    def to_json(self) -> str:
        """Return everything needed to continue identically."""
        return json.dumps(
            {
                "n_revisions": self._n,
                "config": asdict(self._config),
                "prior": self._given_prior,
                "seed": self._seed,
                "told": self._trials.told,
                "history": self._trials.history,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Search:
        """Continue a search from `to_json()`; the continuation is identical, whatever was pending is asked for again.

        Raises:
            ValueError: `text` is not such a document.
        """
        document = json.loads(text)
        try:
            config, told, history = SearchConfig(**document["config"]), document["told"], document["history"]
            search = cls(document["n_revisions"], config, prior=document["prior"], seed=document["seed"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a saved search of this version: {error}") from error
        for index, value in told:
            search.observe(int(index), float(value))
        for index, value in history:
            if not search.pending and search.next_block() is None:
                raise ValueError("the saved search has more trials than it asked for")
            search.record(int(index), Outcome.UNTESTABLE if value is None else float(value))
        return search

    def _enter(self, part: _Part) -> None:
        """Look at a part of the range: at the trials inside it alone."""
        self._part = part
        self._model = self._trials.posterior_of(part.low, part.high, part.no_change)

    def _advance(self) -> None:
        """Move to the next phase where the current one is satisfied."""
        ends = [end for end in (0, self._n - 1) if self._trials.failures(end) >= END_ATTEMPTS]
        if ends:
            end = "good" if ends[0] == 0 else "bad"
            self._finish("unknown", f"the {end} end cannot be tested")
            return
        steps = {Phase.GATE: self._gate, Phase.LOCATE: self._locate, Phase.CONFIRM: self._confirm}
        while (step := steps.get(self._phase)) is not None:
            before = self._phase, self._part
            step()
            if (self._phase, self._part) == before:
                return

    def _gate(self) -> None:
        state, blocks = self._model.summary(), self._blocks_of_phase
        if blocks < self._config.gate_min_blocks:
            return
        if self._nothing_there(state, min(1.0, blocks / FUTILITY_BLOCKS)):
            return
        if _odds(1.0 - state.no_change) >= self._config.gate_bayes_factor * _odds(1.0 - PRIOR_NO_CHANGE):
            self._go(Phase.LOCATE)
        elif blocks >= self._config.gate_max_blocks:
            self._finish("unknown", f"{blocks} blocks did not settle whether the ends differ")

    def _nothing_there(self, state: Summary, share: float = 1.0) -> bool:
        """End the search of this part when it holds no change that matters; `share` of the doubt may be spent."""
        if state.better >= self._config.confidence:
            reason = "the difference between the ends has the other direction"
        elif state.relevant <= (1.0 - self._config.confidence) * FUTILITY * share:
            reason = "the ends differ by less than the smallest effect asked for"
        else:
            return False
        self._close("no_change", reason)
        return True

    def _locate(self) -> None:
        state = self._model.summary()
        if self._part.no_change > TRUSTED_NO_CHANGE and self._nothing_there(state):
            return
        if self._best_group(state)[1] >= self._config.confidence:
            self._go(Phase.CONFIRM)
            return
        plateau = self._plateau(state)
        if plateau is not None:
            self._parts.append(_Part(low=plateau, high=self._part.high, no_change=PART_NO_CHANGE))
            self._enter(_Part(low=self._part.low, high=plateau, no_change=PART_NO_CHANGE))
            self._go(Phase.LOCATE)

    def _plateau(self, state: Summary) -> int | None:
        """Return a revision that is clearly worse than the good end and clearly better than the bad one.

        One step cannot explain it, and the search would measure it for ever.
        """
        share = np.cumsum(state.first_bad) / max(float(state.first_bad.sum()), 1e-300)
        doubtful = 1.0 - self._config.confidence
        for index, count in sorted(self._trials.tested.items(), key=lambda item: (-item[1], item[0])):
            inside = self._part.low < index < self._part.high
            if not inside or count < PLATEAU_TRIALS or not doubtful < share[index] < 1.0 - doubtful:
                continue
            pairs = ((self._part.low, index), (index, self._part.high))
            if all(self._pair_odds(low, high) >= PLATEAU_BAYES_FACTOR for low, high in pairs):
                return index
        return None

    def _pair(self, low: int, high: int) -> Summary:
        return self._trials.pair(low, high, PRIOR_NO_CHANGE).summary()

    def _pair_odds(self, low: int, high: int) -> float:
        """Return how much likelier than not `high` is worse than `low`, from the trials of these two alone."""
        return _odds(1.0 - self._pair(low, high).no_change)

    def _confirm(self) -> None:
        state = self._model.summary()
        (low, high), mass = self._best_group(state)
        if mass < self._config.confidence:
            # The pairs argue against the candidate: look again, with all that is known by now.
            self._go(Phase.LOCATE)
            return
        if self._config.confirm and not self._is_confirmed(low, high, mass):
            if self._blocks_of_phase >= self._config.confirm_max_blocks:
                self._close(
                    "unknown", f"{self._blocks_of_phase} pairs of the candidate and its parent did not settle it"
                )
            return
        self._steps.append(_Step(low=low, high=high, summary=state))
        for part in ((self._part.low, low), (high, self._part.high)):
            self._look_for_another(*part)
        between = high - low - 1
        if between:
            several = "s" if between > 1 else ""
            self._close(
                "unknown", f"{between} revision{several} between the last good and the first bad cannot be tested"
            )
        else:
            self._close("culprit", "")

    def _is_confirmed(self, low: int, high: int, mass: float) -> bool:
        """Whether the candidate differs from its parent by their own trials, and hardly a doubt is left."""
        sure = mass >= 1.0 - (1.0 - self._config.confidence) / CONFIRM_CARE
        enough = min(self._trials.tested.get(index, 0) for index in (low, high)) >= self._config.confirm_min_blocks
        return sure and enough and self._pair_odds(low, high) >= self._config.confirm_bayes_factor

    def _look_for_another(self, low: int, high: int) -> None:
        """Queue `low .. high` when its own trials say that it holds another step."""
        if not self._config.gate or not self._config.confirm or high <= low:
            return
        model = self._trials.posterior_of(low, high, PRIOR_NO_CHANGE)
        if model.summary().relevant >= SECOND_CONFIDENCE:
            self._parts.append(_Part(low=low, high=high, no_change=PART_NO_CHANGE))

    def _go(self, phase: Phase) -> None:
        self._phase = phase
        self._blocks_of_phase = 0

    def _close(self, verdict: str, reason: str) -> None:
        """End with this part of the range; go on with the next, or finish."""
        if self._parts:
            self._enter(self._parts.pop(0))
            self._go(Phase.LOCATE)
        elif verdict == "no_change" and (self._part.low, self._part.high) != (0, self._n - 1):
            # The ends were seen to differ; that a part of the range holds nothing does not take it back.
            self._finish("unknown", "no single revision was found that explains the difference")
        else:
            self._finish(verdict, reason)

    def _finish(self, verdict: str, reason: str) -> None:
        self._phase = Phase.DONE
        self._verdict = verdict
        named = any(step.high - step.low == 1 for step in self._steps)
        self._reason = f"what else changed is open: {reason}" if named and reason else reason
        self._parts = []

    def _choose(self) -> list[int]:
        """Return the next block's indices, unshuffled."""
        ends = [self._part.low, self._part.high]
        if self._phase is Phase.GATE:
            return ends
        state = self._model.summary()
        if self._phase is Phase.CONFIRM:
            (low, high), _ = self._best_group(state)
            return [low, high]
        candidate = choose_candidate(
            state.first_bad, self._part.low, self._part.high, self._trials.tested, self._trials.broken
        )
        if candidate is None:
            # Nothing lies between the ends: more pairs of the ends are all that can help.
            return ends
        alone = self._config.shared_level or (
            state.wandering <= ANCHOR_ALWAYS and self._random.randrange(STEADY_ANCHOR_EVERY) > 0
        )
        return [candidate] if alone else [self._random.choice(ends), candidate]

    def _best_group(self, state: Summary) -> tuple[tuple[int, int], float]:
        """Return the neighbouring testable revisions (low, high) most likely around the change, and its probability."""
        broken = self._trials.broken
        low, high = self._part.low, self._part.high
        ends = [index for index in range(low, high + 1) if index in (low, high) or index not in broken]
        cumulative = np.cumsum(state.first_bad)
        masses = np.diff(cumulative[ends])
        best = int(np.argmax(masses))
        return (ends[best], ends[best + 1]), float(masses[best])

    def _credible_set(self, state: Summary, steps: list[_Step]) -> list[int]:
        """Return the most probable revisions that together hold the confidence, in order; empty without a change."""
        if steps:
            return list(range(steps[0].low + 1, steps[0].high + 1))
        if self._verdict == "no_change":
            return []
        order = np.argsort(-state.first_bad, kind="stable")
        order = order[order > 0]
        share = np.cumsum(state.first_bad[order]) / max(float(state.first_bad.sum()), 1e-300)
        return sorted(int(index) for index in order[: int(np.searchsorted(share, self._config.confidence)) + 1])


def _odds(probability: float) -> float:
    return probability / max(1.0 - probability, 1e-12)
