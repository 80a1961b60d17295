"""A night's hysteresis: nothing is raised, or taken back, on one measurement that is near the threshold.

What one measurement says overwhelmingly stands. Anything else is measured again the same night, on servers that are
started anew, and all that was measured is judged together: a true change then stands out more, and chance less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from perfguard.model.result import CompareResult, CompareVerdict
from perfguard.model.scenario import Limits, UserMetric
from perfguard.model.trial import Trial, Untestable
from perfguard.search import Question, answer
from perfguard.stats.starts import differences_of, effect_posterior, sums_of
from perfguard.workflows.compare import VERDICTS, duel_config, tell_verdict
from perfguard.workflows.metrics import log_worse, paired_values, user_effects

# One measurement alone is believed at a posterior that leaves this much less doubt than the confidence allows: 0.999 at
# 0.95. A guard asks every night, so the doubt of each adds up. Asking as much of all measurements together would let
# every other 5% step pass: benchmarks/nights/RESULTS.md.
CARE = 50.0
# What this many measurements together do not settle waits for the next night.
MOST_MEASUREMENTS = 3
# A revision that failed this often is not measured again: more of the same is no answer.
_FAILURES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a night concludes of a pair: `result` over all that was measured, `first` of the first measurement alone."""

    result: CompareResult
    first: CompareResult
    times: int


def confirmed(
    measure: Callable[[int], CompareResult], metric: UserMetric, limits: Limits, *, is_standing: bool
) -> Measured:
    """Measure a pair (`measure` takes the number of the measurement, from 1), and again where that is near a threshold.

    `is_standing` says that the candidate is known to be slower by now: "still slower" then needs no second word, but
    "no longer" does.
    """
    first = result = measure(1)
    times = 1
    while times < MOST_MEASUREMENTS and not _is_enough(result, metric, limits, times=times, is_standing=is_standing):
        times += 1
        result = _together(result, measure(times), metric, limits)
    return Measured(result=result, first=first, times=times)


def strict(confidence: float) -> float:
    """Return the posterior at which one measurement is believed: `confidence` with `CARE` times less doubt."""
    return 1.0 - (1.0 - confidence) / CARE


def _is_enough(result: CompareResult, metric: UserMetric, limits: Limits, *, times: int, is_standing: bool) -> bool:
    failed = Counter(trial.revision for trial in result.trials if isinstance(trial.outcome, Untestable))
    if not _values(result, result.trials, metric) or any(count >= _FAILURES for count in failed.values()):
        return True
    if result.verdict is CompareVerdict.UNKNOWN:
        return False
    if times > 1 or result.verdict is (CompareVerdict.SLOWER if is_standing else CompareVerdict.NO_CHANGE):
        return True
    return _verdict(result, result.trials, metric, limits, confidence=strict(limits.confidence)) is result.verdict


def _together(before: CompareResult, again: CompareResult, metric: UserMetric, limits: Limits) -> CompareResult:
    """Judge the trials of several measurements as one; frames and findings are those of the last."""
    trials = (*before.trials, *_after(before.trials, again.trials))
    verdict = _verdict(before, trials, metric, limits, confidence=limits.confidence)
    effects = user_effects(
        trials, before.baseline.commit, before.candidate.commit, first=metric, confidence=limits.confidence
    )
    reason = "measured again on fresh starts, all measurements together do not settle it"
    return replace(
        again,
        verdict=verdict,
        sentence=tell_verdict((before.baseline, before.candidate), verdict, reason, effects, limits.min_effect_frac),
        effects=effects,
        trials=trials,
    )


def _verdict(
    result: CompareResult, trials: tuple[Trial, ...], metric: UserMetric, limits: Limits, *, confidence: float
) -> CompareVerdict:
    """Judge trials of a result's pair as one duel."""
    config = replace(duel_config(Question.DIFFERENT, limits, trials_left=0), confidence=confidence)
    values = _values(result, trials, metric)
    verdict, _ = answer(effect_posterior(differences_of(values), sums=sums_of(values)), config)
    return VERDICTS[verdict]


def _values(result: CompareResult, trials: tuple[Trial, ...], metric: UserMetric) -> list[list[tuple[float, float]]]:
    return paired_values(trials, result.baseline.commit, result.candidate.commit, log_worse(metric))


def _after(first: tuple[Trial, ...], second: tuple[Trial, ...]) -> tuple[Trial, ...]:
    """Number the trials of the second measurement on from the first: other blocks, other server starts."""
    number, block, start = (max(getattr(trial, name) for trial in first) for name in ("number", "block", "start"))
    return tuple(
        replace(trial, number=trial.number + number, block=trial.block + block, start=trial.start + start)
        for trial in second
    )
