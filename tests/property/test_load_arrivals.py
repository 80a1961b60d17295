"""What must hold of every open loop's arrivals, whatever their kind, rate and seed."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from perfguard.load.arrivals import due_times_s
from perfguard.load.schedule import build_phases, build_schedule
from perfguard.load.trace import TraceEntry
from perfguard.model.scenario import ArrivalKind, ArrivalSpec, LoadSpec

seeds = st.integers(0, 2**32)
rates = st.floats(0.01, 10_000.0)
rated = st.builds(
    ArrivalSpec,
    kind=st.sampled_from([kind for kind in ArrivalKind if kind is not ArrivalKind.TRACE]),
    request_rate=rates,
    burstiness=st.floats(0.1, 10.0),
    burst_size=st.integers(1, 50),
)
traces = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=30).map(
    lambda stamps: tuple(TraceEntry(timestamp=t, input_length=9, output_length=2) for t in sorted(stamps))
)
# All examples of one test together fail by chance with odds of about 1e-6.
EXAMPLES = 50
ODDS = 1e-6 / EXAMPLES


def load(arrival, seed=3, **changes):
    counts = {"requests": 12, "warmup_requests": 5, "settling_requests": 3, "profiled_requests": 4, **changes}
    return LoadSpec(
        concurrency=3, prompt_chars=40, output_tokens=5, request_timeout_s=10.0, seed=seed, arrival=arrival, **counts
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(arrival=rated, seed=seeds, count=st.integers(1, 300))
def test_due_times_begin_at_zero_never_go_back_and_only_grow_at_their_end(arrival, seed, count):
    due = due_times_s(arrival, seed=seed, count=count)
    assert due[0] == 0.0
    assert all(before <= after for before, after in itertools.pairwise(due))
    assert due_times_s(arrival, seed=seed, count=count + 7)[:count] == due


@settings(max_examples=EXAMPLES, deadline=None)
@given(trace=traces, turns=st.integers(1, 4))
def test_a_trace_keeps_its_gaps_and_repeats_in_order(trace, turns):
    arrival = ArrivalSpec(kind=ArrivalKind.TRACE, trace_file="t.jsonl")
    due = due_times_s(arrival, seed=1, count=turns * len(trace), trace=trace)
    for number, entry in enumerate(trace):
        assert due[number] == pytest.approx((entry.timestamp - trace[0].timestamp) / 1e3, abs=1e-6)
    assert all(before <= after for before, after in itertools.pairwise(due))
    if turns > 1:
        assert due[len(trace)] > due[len(trace) - 1]


@settings(max_examples=EXAMPLES, deadline=None)
@given(rate=rates, shape=st.floats(0.1, 10.0), seed=seeds, poisson=st.booleans())
def test_random_arrivals_keep_their_mean_rate(rate, shape, seed, poisson):
    gaps = 400
    kind = ArrivalKind.POISSON if poisson else ArrivalKind.GAMMA
    due = due_times_s(ArrivalSpec(kind=kind, request_rate=rate, burstiness=shape), seed=seed, count=gaps + 1)
    # The sum of gamma gaps is gamma again.
    shape = 1.0 if poisson else shape
    whole = stats.gamma(gaps * shape, scale=1.0 / (rate * shape))
    assert whole.ppf(ODDS / 2) <= due[-1] <= whole.isf(ODDS / 2)


@settings(max_examples=EXAMPLES, deadline=None)
@given(rate=rates, size=st.integers(1, 20), bursts=st.integers(1, 20))
def test_constant_and_burst_arrivals_keep_their_rate_exactly(rate, size, bursts):
    constant = due_times_s(ArrivalSpec(kind=ArrivalKind.CONSTANT, request_rate=rate), seed=1, count=size * bursts + 1)
    assert constant[-1] == pytest.approx(size * bursts / rate, abs=1e-6)
    burst = ArrivalSpec(kind=ArrivalKind.BURST, request_rate=rate, burst_size=size)
    due = due_times_s(burst, seed=1, count=size * bursts + 1)
    assert due[-1] == constant[-1]
    assert all(len(set(due[first : first + size])) == 1 for first in range(0, size * bursts, size))


@settings(max_examples=20, deadline=None)
@given(arrival=rated, seed=seeds)
def test_the_digest_depends_on_the_arrivals_alone_and_phases_are_pieces(arrival, seed):
    whole, phases = build_schedule(load(arrival, seed)), build_phases(load(arrival, seed))
    assert build_schedule(load(arrival, seed)).digest == whole.digest == phases.digest
    assert whole.digest != build_schedule(load(None, seed)).digest
    assert build_schedule(load(arrival, seed), requests=9, offset=6).requests == whole.requests[6:15]
    pieces = (phases.warmup, phases.settling, phases.measured, phases.profiled)
    assert tuple(request for piece in pieces for request in piece.requests) == whole.requests


def test_digests_stay_what_they_were():
    # Closed loops' as before there were arrivals; the others' on every platform.
    poisson = ArrivalSpec(kind=ArrivalKind.POISSON, request_rate=50.0)
    clumps = ArrivalSpec(kind=ArrivalKind.GAMMA, request_rate=50.0, burstiness=0.25)
    assert [build_schedule(load(arrival)).digest[:16] for arrival in (None, poisson, clumps)] == [
        "f959d0139c04d920",
        "6f294660f5c596f7",
        "da94ad00af0c6e97",
    ]
