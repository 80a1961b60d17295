"""What a study's trials say: the fastest strategy of every cell, break-even sizes, and a threshold. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median

import numpy as np

from perfguard.model.result import Effect
from perfguard.model.scenario import Strategy
from perfguard.model.study import (
    BreakEven,
    CellArm,
    CellResult,
    Crossing,
    StudyCell,
    StudyMeasured,
    StudyTrial,
    Threshold,
)
from perfguard.stats.crossing import estimate_crossing
from perfguard.stats.ratios import geometric_interval, ratio_effect

MS_PER_REQUEST = "ms_per_request"
DELIVERED_TO_LIMIT = "delivered_ms / (memcpy_ms + sha256_ms)"
THRESHOLD_VARIABLE = "SGLANG_MM_BROADCAST_THRESHOLD"
# Ways that only share what they send: a threshold chooses between the first two.
_BY_THRESHOLD = (Strategy.LOCAL, Strategy.BROADCAST, Strategy.CONDITIONAL, Strategy.AS_COMMITTED)

Value = Callable[[StudyMeasured], float]


def ms_per_request(measured: StudyMeasured) -> float:
    """Return what a study compares."""
    return measured.ms_per_request


def log_ratios(
    trials: Iterable[StudyTrial], candidate: Strategy, baseline: Strategy, *, value: Value = ms_per_request
) -> dict[tuple[int, StudyCell], tuple[tuple[int, int], float]]:
    """Return per block and cell the pair of starts, and log(candidate / baseline) of `value` where both were measured.

    A value that is not positive has no logarithm, and its block is left out.
    """
    found: dict[tuple[int, StudyCell], dict[Strategy, tuple[int, float]]] = defaultdict(dict)
    for trial in trials:
        if trial.measured is not None and trial.strategy in (candidate, baseline):
            number = value(trial.measured)
            if number > 0.0:
                found[trial.block, trial.cell][trial.strategy] = (trial.start, math.log(number))
    return {
        place: ((arms[baseline][0], arms[candidate][0]), arms[candidate][1] - arms[baseline][1])
        for place, arms in found.items()
        if len({baseline, candidate} & arms.keys()) == len({baseline, candidate})
    }


def paired_effect(
    trials: Iterable[StudyTrial],
    candidate: Strategy,
    baseline: Strategy,
    *,
    confidence: float,
    value: Value = ms_per_request,
    metric: str = MS_PER_REQUEST,
) -> Effect | None:
    """Return the ratio candidate / baseline over the blocks that hold both, grouped by start; None without any."""
    groups: dict[tuple[int, int], list[float]] = defaultdict(list)
    for starts, difference in log_ratios(trials, candidate, baseline, value=value).values():
        groups[starts].append(difference)
    return ratio_effect(metric, list(groups.values()), confidence) if groups else None


def judge_cells(
    trials: Sequence[StudyTrial], *, baseline: Strategy, confidence: float, min_effect_frac: float
) -> tuple[CellResult, ...]:
    """Judge every cell that has a trial, in the order of rank count, payload and concurrency."""
    by_cell: dict[StudyCell, list[StudyTrial]] = defaultdict(list)
    for trial in trials:
        by_cell[trial.cell].append(trial)
    judged = [
        _judge_cell(cell, own, baseline=baseline, confidence=confidence, min_effect_frac=min_effect_frac)
        for cell, own in by_cell.items()
    ]
    return tuple(
        sorted(judged, key=lambda each: (each.cell.ranks, each.payload_bytes, each.cell.media, each.cell.concurrency))
    )


def _judge_cell(
    cell: StudyCell, trials: list[StudyTrial], *, baseline: Strategy, confidence: float, min_effect_frac: float
) -> CellResult:
    means = {
        strategy: _mean([trial for trial in trials if trial.strategy is strategy], confidence)
        for strategy in dict.fromkeys(trial.strategy for trial in trials)
    }
    ranked = sorted(means, key=lambda strategy: (means[strategy][0] or math.inf, strategy.value))
    best = ranked[0] if means[ranked[0]][0] is not None else None
    # Each of the others is told from the best: together they hold at the asked confidence (Bonferroni).
    shared = 1.0 - (1.0 - confidence) / max(1, len(ranked) - 1)
    arms = []
    leaders = [] if best is None else [best]
    for strategy in ranked:
        own = [trial for trial in trials if trial.strategy is strategy]
        to_best = None
        if best is not None and strategy is not best and means[strategy][0] is not None:
            to_best = paired_effect(trials, strategy, best, confidence=shared)
            if to_best is None or to_best.low <= 1.0 or to_best.ratio < 1.0 + min_effect_frac:
                leaders.append(strategy)
        to_baseline = None if strategy is baseline else paired_effect(trials, strategy, baseline, confidence=confidence)
        mean, low, high = means[strategy]
        failures = [trial.untestable.reason for trial in own if trial.untestable is not None]
        measured = [trial.measured for trial in own if trial.measured is not None]
        arms.append(
            CellArm(
                strategy=strategy,
                trials=len(measured),
                mean_ms=mean,
                low_ms=low,
                high_ms=high,
                received_ms=_median(each.received_ms for each in measured),
                delivered_ms=_median(each.delivered_ms for each in measured),
                whole_ms=_median(each.whole_ms for each in measured),
                to_best=to_best,
                to_baseline=to_baseline,
                to_limit=_to_limit(own, confidence),
                untestable_reason=failures[-1] if failures else "",
            )
        )
    everything = [trial.measured for trial in trials if trial.measured is not None]
    return CellResult(
        cell=cell,
        payload_bytes=max((each.payload_bytes for each in everything), default=0),
        arms=tuple(arms),
        leaders=tuple(leaders),
        memcpy_ms=_median(each.memcpy_ms for each in everything),
        sha256_ms=_median(each.sha256_ms for each in everything),
    )


def _to_limit(trials: Sequence[StudyTrial], confidence: float) -> Effect | None:
    """Return delivering against one copy and one hash of the payload, each ratio taken inside its trial."""
    groups: dict[tuple[int, int], list[float]] = defaultdict(list)
    for trial in trials:
        each = trial.measured
        if each is None or not each.delivered_ms or each.memcpy_ms is None or each.sha256_ms is None:
            continue
        groups[trial.start, trial.start].append(math.log(each.delivered_ms / (each.memcpy_ms + each.sha256_ms)))
    return ratio_effect(DELIVERED_TO_LIMIT, list(groups.values()), confidence) if groups else None


def _mean(trials: Sequence[StudyTrial], confidence: float) -> tuple[float | None, float | None, float | None]:
    groups: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.measured is not None:
            groups[trial.start].append(trial.measured.ms_per_request)
    return geometric_interval(list(groups.values()), confidence) if groups else (None, None, None)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def break_even(
    trials: Sequence[StudyTrial],
    *,
    baseline: Strategy,
    candidate: Strategy,
    confidence: float,
    ranks: int | None = None,
    seed: int = 0,
) -> BreakEven | None:
    """Return from which payload on `candidate` is faster than `baseline`; None where fewer than two sizes hold both.

    Concurrencies count alike. `ranks` None pools all rank counts.
    """
    sizes = {
        trial.cell.media: trial.measured.payload_bytes
        for trial in trials
        if trial.measured is not None and (ranks is None or trial.cell.ranks == ranks)
    }
    found: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (block, cell), (_, ratio) in log_ratios(trials, candidate, baseline).items():
        if cell.media in sizes and (ranks is None or cell.ranks == ranks):
            found[block][sizes[cell.media]].append(ratio)
    payloads = sorted({size for block in found.values() for size in block})
    if len(payloads) < 2:  # noqa: PLR2004 - a crossing lies between two sizes
        return None
    table = np.array(
        [[np.mean(block[size]) if size in block else np.nan for size in payloads] for block in found.values()]
    )
    estimate = estimate_crossing(np.log(np.array(payloads, dtype=float)), table, confidence=confidence, seed=seed)
    return BreakEven(
        baseline=baseline,
        candidate=candidate,
        ranks=ranks,
        crossing=_kind(estimate.log_size),
        size_bytes=_bytes(estimate.log_size),
        low_bytes=_bytes(estimate.low),
        high_bytes=_bytes(estimate.high),
        nowhere_frac=estimate.nowhere_frac,
        everywhere_frac=estimate.everywhere_frac,
        confidence=confidence,
        smallest_bytes=payloads[0],
        largest_bytes=payloads[-1],
        blocks=len(found),
    )


def _kind(log_size: float) -> Crossing:
    if math.isfinite(log_size):
        return Crossing.FROM_SIZE
    return Crossing.NOWHERE if log_size > 0.0 else Crossing.EVERYWHERE


def _bytes(log_size: float) -> float | None:
    return None if log_size == math.inf else math.exp(log_size)


def recommend_threshold(
    trials: Sequence[StudyTrial], cells: Sequence[CellResult], *, confidence: float, seed: int = 0
) -> Threshold:
    """Recommend the payload from which `conditional` should broadcast, or say that no threshold helps."""
    find = partial(
        break_even, trials, baseline=Strategy.LOCAL, candidate=Strategy.BROADCAST, confidence=confidence, seed=seed
    )
    overall = find()
    counts = sorted({trial.cell.ranks for trial in trials})
    by_ranks = tuple(each for ranks in counts if (each := find(ranks=ranks)) is not None)
    if overall is None:
        sentence = f"No {THRESHOLD_VARIABLE} can be told: local and broadcast were not both measured at two sizes."
        is_told = False
    else:
        sentence, is_told = _tell_threshold(overall)
    winner = _wins_everywhere(cells)
    if winner is not None and winner not in _BY_THRESHOLD:
        sentence = (
            f"{winner.value} is fastest, or not to be told from the fastest, in every cell that was measured. Between "
            f"local and broadcast alone: {sentence[0].lower()}{sentence[1:]}"
        )
    return Threshold(sentence=sentence, is_told=is_told, overall=overall, by_ranks=by_ranks)


def _tell_threshold(overall: BreakEven) -> tuple[str, bool]:
    """Return the recommendation as a sentence, and whether there is one."""
    sizes = f"{overall.smallest_bytes:,} to {overall.largest_bytes:,} bytes"
    level = f"{100 * overall.confidence:g}%"
    if overall.low_bytes == 0.0 and overall.high_bytes is None:
        unsure = "whether broadcast is faster than local at every size, at none, or from some size on"
        return f"No threshold can be told: the blocks leave open {unsure}, from {sizes}.", False
    if overall.crossing is Crossing.FROM_SIZE and overall.size_bytes is not None:
        low = f"{overall.low_bytes:,.0f}" if overall.low_bytes else f"under {overall.smallest_bytes:,}"
        high = f"{overall.high_bytes:,.0f}" if overall.high_bytes is not None else f"over {overall.largest_bytes:,}"
        return f"Set {THRESHOLD_VARIABLE}={overall.size_bytes:.0f} ({level} interval {low} to {high} bytes).", True
    if overall.crossing is Crossing.NOWHERE:
        faster, slower, agree = "local", "broadcast", overall.nowhere_frac
    else:
        faster, slower, agree = "broadcast", "local", overall.everywhere_frac
    if agree >= overall.confidence:
        return f"No threshold helps: {faster} is faster than {slower} from {sizes}.", True
    unsure = f"but only {100 * agree:.0f}% of the resampled blocks say so"
    return f"No threshold can be told: {faster} is faster than {slower} from {sizes}, {unsure}.", False


def _wins_everywhere(cells: Sequence[CellResult]) -> Strategy | None:
    """Return the strategy that leads in every cell; the one that leads alone most often where there are several."""
    measured = [cell for cell in cells if cell.leaders]
    if not measured:
        return None
    common = set.intersection(*(set(cell.leaders) for cell in measured))
    alone = {strategy: sum(cell.leaders == (strategy,) for cell in measured) for strategy in common}
    return max(alone, key=lambda strategy: (alone[strategy], strategy.value), default=None)
