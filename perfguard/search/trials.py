"""The trials of a search, and the posteriors over parts of the range that are made from them."""

from __future__ import annotations

from dataclasses import replace

from perfguard.search.config import Floats, Outcome, SearchConfig
from perfguard.search.posterior import Observation, StepPosterior


class Trials:
    """What was recorded, which revisions failed, and a posterior for any part of the range."""

    def __init__(self, prior: Floats, smallest: float, config: SearchConfig) -> None:
        """Begin without trials; `prior` has one weight a revision, `smallest` is a log ratio."""
        self.told: list[tuple[int, float]] = []
        self.history: list[tuple[int, float | None]] = []
        self.observations: list[Observation] = []
        self._prior = prior
        self._smallest = smallest
        self._config = config
        self._failures: dict[int, int] = {}
        self._tested: dict[int, int] = {}
        self._pairs: dict[tuple[int, int], tuple[StepPosterior, int]] = {}

    def tell(self, index: int, value: float) -> Observation:
        """Take a trial that cost nothing of the budget."""
        self.told.append((index, float(value)))
        return self._keep(index, value, block=-1)

    def record(self, index: int, value: float | Outcome, block: int) -> Observation | None:
        """Take a trial of this search; None when it could not be tested."""
        if isinstance(value, Outcome):
            self._failures[index] = self._failures.get(index, 0) + 1
            self.history.append((index, None))
            return None
        self.history.append((index, float(value)))
        return self._keep(index, value, block)

    def _keep(self, index: int, value: float, block: int) -> Observation:
        signed = float(value) if self._config.direction == "slower" else -float(value)
        number = len(self.told) + len(self.history)
        observation = Observation(trial=number, block=block, index=index, value=signed)
        self.observations.append(observation)
        self._tested[index] = self._tested.get(index, 0) + 1
        return observation

    @property
    def tested(self) -> dict[int, int]:
        """How many values each revision gave; only those that gave one."""
        return self._tested

    @property
    def broken(self) -> set[int]:
        """The revisions that failed, and never gave a value."""
        return {index for index in self._failures if index not in self._tested}

    def failures(self, index: int) -> int:
        """How often a revision failed that never gave a value; 0 once it gave one."""
        return self._failures.get(index, 0) if index not in self._tested else 0

    def posterior_of(self, low: int, high: int, no_change: float) -> StepPosterior:
        """Return the posterior over a step in `low + 1 .. high`, from the trials of `low .. high`."""
        model = self._new_posterior(low, high, no_change)
        for observation in self.observations:
            if low <= observation.index <= high:
                model.add(observation)
        return model

    def pair(self, low: int, high: int, no_change: float) -> StepPosterior:
        """Return the posterior of "`high` is worse than `low`", from the trials of these two alone."""
        model, seen = self._pairs.get((low, high)) or (self._new_posterior(high - 1, high, no_change), 0)
        for observation in self.observations[seen:]:
            if observation.index in (low, high):
                index = high if observation.index == high else high - 1
                model.add(replace(observation, index=index))
        self._pairs[low, high] = model, len(self.observations)
        return model

    def _new_posterior(self, low: int, high: int, no_change: float) -> StepPosterior:
        return StepPosterior(
            low,
            high,
            self._prior,
            prior_no_change=no_change,
            smallest=self._smallest,
            steady=self._config.shared_level,
        )
