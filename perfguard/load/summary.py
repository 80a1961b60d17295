"""What a replay comes to: throughput, latencies, goodput, and the generator's own health."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

from perfguard.model.scenario import SloSpec
from perfguard.model.trial import LatencySummary, LoadResult, MediaResult, RequestOutcome, RequestRecord, StageResult

TICK_S = 0.010
_MICROSECONDS_PER_HOUR = 3_600_000_000
_SIGNIFICANT_DIGITS = 3


@dataclass(slots=True, kw_only=True)
class Replay:
    """What one replay collected: the requests in the order of their ends, and the generator's own health.

    `media_classes` are the classes of a mix by the requests' numbers, empty without one. `gaps_s` are the times between
    the texts of answers that succeeded, `lateness_s` those of the ticker, `dispatch_s` how late each request of an open
    loop was sent through the generator's own fault.
    """

    records: list[RequestRecord] = field(default_factory=list)
    media_classes: dict[int, str] = field(default_factory=dict)
    gaps_s: list[float] = field(default_factory=list)
    lateness_s: list[float] = field(default_factory=list)
    dispatch_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0


def summarise(digest: str, replay: Replay, slo: SloSpec | None) -> LoadResult:
    """Turn a replay into its result."""
    records = tuple(sorted(replay.records, key=lambda record: record.index))
    good = [record for record in records if record.outcome is RequestOutcome.OK]
    failed = sorted((r for r in records if r.outcome is not RequestOutcome.OK), key=lambda record: record.finished_s)
    duration_s = (max(r.finished_s for r in records) - min(r.sent_s for r in records)) if records else 0.0
    tokens = [record.output_tokens for record in good if record.output_tokens is not None]
    send_lag = latency_summary(r.sent_s - r.intended_s for r in records if r.intended_s is not None)
    dispatch_lag = latency_summary(replay.dispatch_s)
    return LoadResult(
        schedule_digest=digest,
        duration_s=duration_s,
        sent=len(records),
        succeeded=len(good),
        errors=sum(record.outcome is RequestOutcome.ERROR for record in records),
        timeouts=sum(record.outcome is RequestOutcome.TIMEOUT for record in records),
        first_error=failed[0].detail if failed else "",
        throughput_rps=len(good) / duration_s if duration_s else 0.0,
        ttft=latency_summary(r.first_token_s - r.start_s for r in good if r.first_token_s is not None),
        e2e=latency_summary(record.finished_s - record.start_s for record in good),
        generator_cpu_frac=replay.cpu_s / replay.wall_s if replay.wall_s else 0.0,
        generator_lag_p99_ms=_lag_p99_ms(replay.lateness_s),
        records=records,
        itl=latency_summary(replay.gaps_s),
        tpot=latency_summary(record.tpot_s for record in good if record.tpot_s is not None),
        goodput_rps=_goodput_rps(good, slo, duration_s),
        send_lag_p99_ms=None if send_lag is None else send_lag.p99_ms,
        dispatch_lag_p99_ms=None if dispatch_lag is None else dispatch_lag.p99_ms,
        output_tokens_per_s=sum(tokens) / duration_s if tokens and duration_s else None,
        media=_by_class(records, replay.media_classes),
    )


def summarise_stages(digest: str, stages: Sequence[tuple[str, Replay]], slo: SloSpec | None) -> LoadResult:
    """Turn the replays of a ramp's stages, with their names, into one result that holds theirs."""
    whole = Replay()
    for _, replay in stages:
        whole.records += replay.records
        whole.media_classes |= replay.media_classes
        whole.gaps_s += replay.gaps_s
        whole.lateness_s += replay.lateness_s
        whole.dispatch_s += replay.dispatch_s
        whole.cpu_s += replay.cpu_s
        whole.wall_s += replay.wall_s
    results = tuple(
        StageResult(name=name, result=dataclasses.replace(summarise(digest, replay, slo), records=()))
        for name, replay in stages
    )
    return dataclasses.replace(summarise(digest, whole, slo), stages=results)


def _by_class(records: Sequence[RequestRecord], classes: Mapping[int, str]) -> tuple[MediaResult, ...]:
    """Tell the classes of a mix apart, by name."""
    by_name: dict[str, list[RequestRecord]] = {}
    for record in records:
        if record.index in classes:
            by_name.setdefault(classes[record.index], []).append(record)
    return tuple(_class_result(name, by_name[name]) for name in sorted(by_name))


def _class_result(name: str, records: Sequence[RequestRecord]) -> MediaResult:
    good = [record for record in records if record.outcome is RequestOutcome.OK]
    return MediaResult(
        name=name,
        sent=len(records),
        succeeded=len(good),
        ttft=latency_summary(r.first_token_s - r.start_s for r in good if r.first_token_s is not None),
        e2e=latency_summary(r.finished_s - r.start_s for r in good),
    )


def _goodput_rps(good: Sequence[RequestRecord], slo: SloSpec | None, duration_s: float) -> float | None:
    if slo is None:
        return None
    return sum(_meets(record, slo) for record in good) / duration_s if duration_s else 0.0


def _meets(record: RequestRecord, slo: SloSpec) -> bool:
    """Tell whether a request that succeeded met every limit; one of a single token has no TPOT to miss."""
    ttft_s = None if record.first_token_s is None else record.first_token_s - record.start_s
    pairs = (
        (ttft_s, slo.ttft_ms),
        (record.finished_s - record.start_s, slo.e2e_ms),
        (record.tpot_s, slo.tpot_ms),
    )
    return all(value_s is None or limit_ms is None or 1e3 * value_s <= limit_ms for value_s, limit_ms in pairs)


def latency_summary(latencies_s: Iterable[float]) -> LatencySummary | None:
    """Summarise latencies given in seconds; None where there are none.

    Percentiles come from an HdrHistogram and are exact to three significant digits; mean and maximum are exact.
    Source: http://hdrhistogram.org.
    """
    values_s = list(latencies_s)
    if not values_s:
        return None
    histogram = _histogram()
    for value_s in values_s:
        histogram.record_value(_microseconds(value_s))
    p50, p90, p99 = (histogram.get_value_at_percentile(percentile) / 1e3 for percentile in (50, 90, 99))
    return LatencySummary(
        count=len(values_s),
        mean_ms=1e3 * sum(values_s) / len(values_s),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=1e3 * max(values_s),
    )


def _lag_p99_ms(lateness_s: Sequence[float]) -> float:
    """Return how late an event would have been handled that came at a random moment: the 99th percentile, in ms.

    A loop that stands still for a second makes one tick late, not a hundred; the ticks that it swallowed are put back.
    Source: HdrHistogram's correction for coordinated omission (`record_corrected_value`).
    """
    if not lateness_s:
        return 0.0
    histogram = _histogram()
    for late_s in lateness_s:
        histogram.record_corrected_value(_microseconds(late_s), int(TICK_S * 1e6))
    return float(histogram.get_value_at_percentile(99)) / 1e3


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, _MICROSECONDS_PER_HOUR, _SIGNIFICANT_DIGITS)


def _microseconds(value_s: float) -> int:
    return min(max(1, round(value_s * 1e6)), _MICROSECONDS_PER_HOUR)
