"""The user metrics of trials, and their paired effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from perfguard.model.errors import UntestableError
from perfguard.model.result import Effect
from perfguard.model.scenario import Strategy, UserMetric
from perfguard.model.trial import Completed, LoadResult, Samples, Trial, Untestable
from perfguard.stats.ratios import ratio_effect
from perfguard.stats.starts import WIDE_STARTS, differences_of, sums_of


def samples_of(trial: Trial) -> Samples | None:
    """Return what a trial measured, or None when it is untestable."""
    return trial.outcome.samples if isinstance(trial.outcome, Completed) else None


def user_value(load: LoadResult, metric: UserMetric) -> float:
    """Return one user metric of a load, in the metric's unit.

    Raises:
        UntestableError: the load has no successful request to measure.
    """
    if metric is UserMetric.THROUGHPUT:
        value = load.throughput_rps
    elif metric is UserMetric.TTFT_P50:
        value = load.ttft.p50_ms if load.ttft else 0.0
    elif metric is UserMetric.E2E_P50:
        value = load.e2e.p50_ms if load.e2e else 0.0
    else:
        value = load.e2e.p99_ms if load.e2e else 0.0
    if value <= 0.0:
        raise UntestableError(f"no successful request to take {metric.value} from: {load.first_error}")
    return value


def tell_outcome(trial: Trial, metric: UserMetric) -> str:
    """Render what a trial gave: `142.5 throughput_rps`, or why it is untestable."""
    if isinstance(trial.outcome, Untestable):
        return f"untestable: {trial.outcome.reason}"
    return f"{user_value(trial.outcome.samples.load, metric):.4g} {metric.value}"


def log_worse(metric: UserMetric) -> Callable[[Trial], float]:
    """Return a function that gives the log of `metric` of a completed trial, in the sense "larger is worse"."""

    def value(trial: Trial) -> float:
        samples = samples_of(trial)
        if samples is None:
            raise ValueError(f"trial {trial.number} measured nothing")
        logarithm = math.log(user_value(samples.load, metric))
        return -logarithm if metric.larger_is_better else logarithm

    return value


def paired_values(
    trials: Sequence[Trial], baseline: str, candidate: str, value: Callable[[Trial], float]
) -> list[list[tuple[float, float]]]:
    """Return `value` of baseline and candidate for every block that holds both commits as committed, completed.

    The pairs are grouped by the pair of server starts that they were measured on.
    """
    blocks: dict[int, dict[str, Trial]] = {}
    for trial in trials:
        is_plain = trial.strategy == Strategy.AS_COMMITTED.value
        if is_plain and isinstance(trial.outcome, Completed) and trial.revision in (baseline, candidate):
            blocks.setdefault(trial.block, {})[trial.revision] = trial
    groups: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for _, block in sorted(blocks.items()):
        if baseline in block and candidate in block:
            starts = (block[baseline].start, block[candidate].start)
            groups.setdefault(starts, []).append((value(block[baseline]), value(block[candidate])))
    return list(groups.values())


def user_effects(
    trials: Sequence[Trial], baseline: str, candidate: str, *, first: UserMetric, confidence: float
) -> tuple[Effect, ...]:
    """Return the effect on every user metric, the deciding one first; ratios are candidate / baseline of the metric."""
    effects = []
    for metric in (first, *(other for other in UserMetric if other is not first)):
        sign = -1.0 if metric.larger_is_better else 1.0
        worse = paired_values(trials, baseline, candidate, log_worse(metric))
        if worse:
            groups = [[sign * value for value in group] for group in differences_of(worse)]
            effects.append(ratio_effect(metric.value, groups, confidence, sums=sums_of(worse), starts=WIDE_STARTS))
    return tuple(effects)
