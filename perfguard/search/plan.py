"""What a comparison or a search is expected to cost, before it starts and as it goes on.

The procedure itself is played many times, all at once, in a simpler world: normal values, spreads that are known. That
takes milliseconds where the real thing takes seconds; the tests hold it against the real thing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from perfguard.search.config import Floats
from perfguard.search.duel import (
    MAX_ROUNDS_PER_START,
    MIN_STARTS,
    ROUNDS_PER_START,
    DuelConfig,
    Question,
    confidence_to_name,
)
from perfguard.stats.starts import EFFECT_SCALE, EffectPosterior

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# How many times it is played: the ends of the 90% range then stand on a dozen.
PLAYS = 256
# How often a range that people look into holds no change.
# Source: "Flake Aware Culprit Finding", T. Henderson et al., 2023.
NO_CHANGE_FRAC = 0.4
# What throughput does on two cores, as the real servers showed it: between starts of one server, and of one trial.
_USUAL_START_SD, _USUAL_NOISE_SD = 0.012, 0.06
# Trials with heavy tails tell less than normal ones of the same scale: 1 / Fisher information of Student's t4.
_TAILS = 1.4
# That the spreads have to be found out on the way widens what is known, the more the fewer starts there are.
_UNKNOWN_SPREADS = 2.5
# One trial of a metric that is either there or not: beyond this many standard deviations only an outlier matters.
_CLEAREST = 4.0
_MOST_STEPS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What things take, in seconds: starting both servers of a comparison, and one trial."""

    start_pair_s: float = 31.0
    trial_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A mean, and the range that holds 90%."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is expected to take altogether, what it took already included."""

    trials: Span
    wall_s: Span

    def describe(self) -> str:
        """Render as `expects 38 trials (90%: 30 to 55), about 14 minutes (10 to 20)`."""
        trials, minutes = self.trials, Span(**{name: getattr(self.wall_s, name) / 60.0 for name in Span.__slots__})
        return (
            f"expects {trials.mean:.0f} trials (90%: {trials.low:.0f} to {trials.high:.0f}), "
            f"about {minutes.mean:.0f} minutes ({minutes.low:.0f} to {minutes.high:.0f})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """Stages played many times; shapes `(plays,)`. `found` says where the duel ended with the change looked for."""

    trials: Ints
    pairs_of_starts: Floats
    found: Bools

    def then(self, following: Played) -> Played:
        """Return both stages in a row, the second only where the first found its change."""
        return Played(
            trials=self.trials + self.found * following.trials,
            pairs_of_starts=self.pairs_of_starts + self.found * following.pairs_of_starts,
            found=self.found & following.found,
        )


def make_plan(played: Played, costs: Costs, *, trials_done: int = 0, wall_done_s: float = 0.0, max_trials: int) -> Plan:
    """Return the plan of what was played, on top of what is done; no run spends more than `max_trials`."""
    trials = np.minimum(played.trials + trials_done, max(max_trials, trials_done))
    wall_s = wall_done_s + (trials - trials_done) * costs.trial_s + played.pairs_of_starts * costs.start_pair_s
    return Plan(trials=_span(trials), wall_s=_span(wall_s))


def likely_effects(random: np.random.Generator, question: Question, posterior: EffectPosterior | None) -> Floats:
    """Draw effects (log ratios, larger is worse): from what is known, or from what ranges usually hold."""
    if posterior is not None:
        return random.choice(posterior.effects, PLAYS, p=posterior.density)
    sizes: Floats = EFFECT_SCALE * random.standard_normal(PLAYS) * (random.random(PLAYS) >= NO_CHANGE_FRAC)
    if question is Question.DIFFERENT:
        return sizes
    return np.abs(sizes) if question is Question.WORSE else -np.abs(sizes)


def play_duel(
    config: DuelConfig,
    effects: Floats,
    random: np.random.Generator,
    *,
    spreads: EffectPosterior | None = None,
    begun: EffectPosterior | None = None,
    rounds: int = 0,
    starts: int = 0,
) -> Played:
    """Play a duel once for every one of `effects`, as it would go on after `rounds` on `starts` pairs of starts.

    `spreads` tells the noise (the usual one where it is None), `begun` what is known after those rounds.
    """
    start_sd, noise_sd = (_USUAL_START_SD, _USUAL_NOISE_SD) if spreads is None else (spreads.start_sd, spreads.noise_sd)
    between, within = 2.0 * start_sd**2, _TAILS * noise_sd**2
    plays = effects.size
    # What the closed groups say: the sum of their precisions, and of precision times mean.
    precision, weighted = _known(begun)
    told = np.full(plays, precision)
    weights = np.full(plays, weighted)
    count, total, offset = np.zeros(plays, int), np.zeros(plays), np.zeros(plays)
    number, spent = np.full(plays, starts), np.zeros(plays, int)
    active, found = np.full(plays, True), np.full(plays, False)
    for _ in range(rounds, config.max_rounds):
        fresh = active & ((count == 0) | _wants_fresh(count, number, between, within, start_cost=config.start_cost))
        own = 1.0 / (between + within / np.maximum(count, 1))
        closing = fresh & (count > 0)
        told = told + closing * own
        weights = weights + closing * own * total / np.maximum(count, 1)
        count, total = np.where(fresh, 0, count), np.where(fresh, 0.0, total)
        offset = np.where(fresh, math.sqrt(between) * random.standard_normal(plays), offset)
        number = number + fresh
        value = effects + offset + math.sqrt(within) * random.standard_normal(plays)
        count, total = count + active, total + active * value
        spent = spent + active
        own = 1.0 / (between + within / np.maximum(count, 1))
        inflated = 1.0 + _UNKNOWN_SPREADS / np.maximum(number, 1)
        known = (told + own) / inflated, (weights + own * total / np.maximum(count, 1)) / inflated
        ended, change = _decide(config, *known, start_sd=start_sd)
        ended &= active & (number >= MIN_STARTS) & (count >= ROUNDS_PER_START)
        found |= ended & change
        active = active & ~ended
    return Played(trials=2 * spent, pairs_of_starts=(number - starts).astype(float), found=found)


def play_search(prior: Sequence[float], random: np.random.Generator, *, confidence: float) -> Played:
    """Play the search among revisions of weights `prior` (entry 0, the good end's, is ignored), a start a trial.

    The metric is taken to be one that is either there or not: the search runs on the best that the stacks have.
    """
    weights = np.asarray(prior, dtype=np.float64).copy()
    weights[0] = 0.0
    weights /= weights.sum()
    step = _CLEAREST
    rows = np.arange(PLAYS)
    culprits = random.choice(weights.size, PLAYS, p=weights)
    belief = np.tile(weights, (PLAYS, 1))
    trials, active = np.zeros(PLAYS, int), np.full(PLAYS, weights.size > 2)  # noqa: PLR2004 - one candidate is found
    for _ in range(_MOST_STEPS):
        active = active & (belief.max(axis=1) < confidence)
        if not active.any():
            break
        below = np.cumsum(belief, axis=1)
        # The revision whose answer is the most open; the last one is the bad end, which is known.
        tried = np.abs(below[:, :-1] - 0.5).argmin(axis=1)
        value = step * (tried >= culprits) + random.standard_normal(PLAYS)
        # The log of how much likelier the value is from a bad revision than from a good one.
        log_ratio = step * (value - step / 2.0)
        bad_if = np.arange(weights.size)[np.newaxis, :] <= tried[:, np.newaxis]
        grown = belief * np.where(
            bad_if, special.expit(log_ratio)[:, np.newaxis], special.expit(-log_ratio)[:, np.newaxis]
        )
        belief[active] = (grown / grown.sum(axis=1, keepdims=True))[active]
        trials = trials + active
    return Played(trials=trials, pairs_of_starts=trials / 2.0, found=np.full(rows.size, True))


def _known(begun: EffectPosterior | None) -> tuple[float, float]:
    """Return the precision that values gave so far, and precision times their mean, without the effect's prior."""
    if begun is None:
        return 0.0, 0.0
    mean = float(begun.density @ begun.effects)
    variance = max(float(begun.density @ np.square(begun.effects - mean)), 1e-8)
    return max(1.0 / variance - 1.0 / EFFECT_SCALE**2, 0.0), mean / variance


def _wants_fresh(count: Ints, number: Ints, between: float, within: float, *, start_cost: float) -> Bools:
    """Whether the duel would go on with fresh starts; its own rule, for many duels."""
    group = 1.0 / (between + within / np.maximum(count, 1))
    here = 1.0 / (between + within / (count + 1)) - group
    there = 1.0 / (between + within / ROUNDS_PER_START) / (ROUNDS_PER_START + start_cost)
    wanted: Bools = (count >= ROUNDS_PER_START) & (
        (number < MIN_STARTS) | (count >= MAX_ROUNDS_PER_START) | (there > here)
    )
    return wanted


def _decide(config: DuelConfig, precision: Floats, weighted: Floats, *, start_sd: float) -> tuple[Bools, Bools]:
    """Return where a duel would end, and where with a change; the verdicts of `perfguard.search.duel`, for normals."""
    variance = 1.0 / (precision + 1.0 / EFFECT_SCALE**2)
    mean, sd = variance * weighted, np.sqrt(variance)
    low = -math.inf if config.question is Question.WORSE else -config.min_effect
    high = math.inf if config.question is Question.BETTER else config.min_effect
    no_change = special.ndtr((high - mean) / sd) - special.ndtr((low - mean) / sd) >= config.confidence
    log_bayes_factor = 0.5 * np.log(variance / EFFECT_SCALE**2) + 0.5 * mean * mean / variance
    there = special.expit(log_bayes_factor + math.log(2.0)) >= confidence_to_name(config.confidence, start_sd)
    change = np.zeros(mean.shape, bool)
    for sign, excluded in ((1.0, Question.BETTER), (-1.0, Question.WORSE)):
        if config.question is not excluded:
            change |= there & (sign * mean >= config.min_effect)
    change &= ~no_change
    return no_change | change, change


def _span(values: npt.NDArray[np.float64] | Ints) -> Span:
    low, high = np.quantile(values, (0.05, 0.95))
    return Span(mean=float(np.mean(values)), low=float(low), high=float(high))
