"""When the requests of an open loop are due: the same moments for the same arrivals and seed, to the microsecond."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from perfguard.load.trace import TraceEntry
from perfguard.model.scenario import ArrivalKind, ArrivalSpec

# A trace of a single moment has no rate of its own to repeat at.
_REPEAT_OF_A_MOMENT_S = 1.0


def due_times_s(arrival: ArrivalSpec, *, seed: int, count: int, trace: Sequence[TraceEntry] = ()) -> tuple[float, ...]:
    """Return when the first `count` requests of an endless sequence are due, in seconds; the first at 0.

    Times are whole microseconds, so that a last digit of a platform's logarithm does not make another load. A trace is
    repeated at its own mean rate.
    """
    return tuple(round(due_s, 6) for due_s in itertools.islice(_endless(arrival, seed, trace), count))


def _endless(arrival: ArrivalSpec, seed: int, trace: Sequence[TraceEntry]) -> Iterator[float]:
    """Give due times without end; a longer sequence begins with the shorter one."""
    if arrival.kind is ArrivalKind.TRACE:
        yield from _repeated(trace)
    rate = arrival.request_rate or 0.0
    if arrival.kind is ArrivalKind.CONSTANT:
        yield from (number / rate for number in itertools.count())
    if arrival.kind is ArrivalKind.BURST:
        yield from (number // arrival.burst_size * arrival.burst_size / rate for number in itertools.count())
    # The mean gap is shape times scale.
    shape = arrival.burstiness if arrival.kind is ArrivalKind.GAMMA else 1.0
    draw = random.Random(f"{seed}:arrivals").gammavariate  # noqa: S311 - a seeded sequence, no secret
    due_s = 0.0
    while True:
        yield due_s
        due_s += draw(shape, 1.0 / (rate * shape))


def _repeated(trace: Sequence[TraceEntry]) -> Iterator[float]:
    first_ms = trace[0].timestamp
    offsets_s = [(entry.timestamp - first_ms) / 1e3 for entry in trace]
    span_s = offsets_s[-1]
    period_s = span_s * len(trace) / (len(trace) - 1) if span_s else _REPEAT_OF_A_MOMENT_S
    for turn in itertools.count():
        yield from (turn * period_s + offset_s for offset_s in offsets_s)
