"""What a run is expected to take: told before it starts, and again whenever more is known."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from perfguard.model.trial import Completed, Trial
from perfguard.search import DuelConfig, DuelResult
from perfguard.search.plan import Costs, Plan, Played, likely_effects, make_plan, play_duel, play_search
from perfguard.stats.starts import EffectPosterior

# Two trials of one start tell what a trial costs without its start.
_TRIALS_FOR_COSTS = 2


def measured_costs(trials: Sequence[Trial]) -> Costs | None:
    """Return what starts and trials took in this run; None while no start served two trials."""
    by_start: dict[int, list[float]] = {}
    for trial in trials:
        if isinstance(trial.outcome, Completed):
            by_start.setdefault(trial.start, []).append(trial.wall_s)
    often = [walls for walls in by_start.values() if len(walls) >= _TRIALS_FOR_COSTS]
    if not often:
        return None
    trial_s = median(wall for walls in often for wall in walls[1:])
    # A start is paid by its first trial.
    start_s = max(fmean(walls[0] for walls in by_start.values()) - trial_s, 0.0)
    return Costs(start_pair_s=2.0 * start_s, trial_s=trial_s)


class Outlook:
    """The plan of one run, made anew whenever it is asked for."""

    def __init__(self, *, max_trials: int, seed: int) -> None:
        """Plan a run that may spend `max_trials`; equal seeds give equal plans."""
        self._max_trials = max_trials
        self._random = np.random.default_rng([seed, 17])

    def of_duel(self, config: DuelConfig, trials: Sequence[Trial], begun: DuelResult | None = None) -> str:
        """Tell what a comparison takes altogether, from its beginning or as it stands."""
        return self._tell(self._play(config, begun), trials)

    def of_bisect(self, config: DuelConfig, prior: Sequence[float], trials: Sequence[Trial]) -> str:
        """Tell, before anything was measured, what gate, search and confirmation take."""
        effects = likely_effects(self._random, config.question, None)
        gate = play_duel(config, effects, self._random)
        played = gate
        if len(prior) > 2:  # noqa: PLR2004 - with one candidate the gate is all
            search = play_search(prior, self._random, confidence=config.confidence)
            played = gate.then(search).then(play_duel(config, effects, self._random))
        return self._tell(played, trials)

    def of_rest(
        self,
        config: DuelConfig,
        gate: EffectPosterior,
        trials: Sequence[Trial],
        *,
        prior: Sequence[float] | None,
    ) -> str:
        """Tell what is left after the gate: the search among weights `prior` (None: it is over), the confirmation."""
        effects = likely_effects(self._random, config.question, gate)
        played = play_duel(config, effects, self._random, spreads=gate)
        if prior is not None:
            search = play_search(prior, self._random, confidence=config.confidence)
            played = search.then(played)
        return self._tell(played, trials)

    def _play(self, config: DuelConfig, begun: DuelResult | None) -> Played:
        posterior = None if begun is None else begun.posterior
        effects = likely_effects(self._random, config.question, posterior)
        if begun is None:
            return play_duel(config, effects, self._random)
        return play_duel(
            config,
            effects,
            self._random,
            spreads=posterior,
            begun=posterior,
            rounds=begun.rounds,
            starts=begun.starts,
        )

    def _tell(self, played: Played, trials: Sequence[Trial]) -> str:
        costs = measured_costs(trials)
        plan: Plan = make_plan(
            played,
            costs or Costs(),
            trials_done=len(trials),
            wall_done_s=sum(trial.wall_s for trial in trials),
            max_trials=self._max_trials,
        )
        usual = Costs()
        supposed = f", if starting both servers takes {usual.start_pair_s:.0f} s and a trial {usual.trial_s:.0f} s"
        return plan.describe() + ("" if costs else supposed)
