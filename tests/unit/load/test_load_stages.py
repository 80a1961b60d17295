"""Ramps: stages one after the other, each with figures and a veto of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import web

from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import build_phases, build_schedule, in_stages
from perfguard.load.summary import Replay, summarise, summarise_stages
from perfguard.model.errors import UsageError
from perfguard.model.scenario import (
    ArrivalKind,
    ArrivalSpec,
    LoadSpec,
    MediaSpec,
    RequestSpec,
    SloSpec,
    StageSpec,
)
from perfguard.model.trial import LoadResult, RequestOutcome, RequestRecord

POISSON = ArrivalSpec(kind=ArrivalKind.POISSON, request_rate=50.0)


def load(*stages: StageSpec, **changes) -> LoadSpec:
    spec = LoadSpec(
        requests=sum(stage.requests for stage in stages),
        concurrency=9,
        warmup_requests=3,
        settling_requests=2,
        profiled_requests=4,
        prompt_chars=40,
        output_tokens=5,
        request_timeout_s=10.0,
        seed=11,
        stages=stages,
    )
    return dataclasses.replace(spec, **changes)


CLIENTS = (StageSpec(requests=4, concurrency=1), StageSpec(requests=12, concurrency=6))
RATES = (StageSpec(requests=6, request_rate=100.0), StageSpec(requests=6, request_rate=400.0))


def test_the_measured_requests_are_cut_into_stages():
    phases = build_phases(load(*CLIENTS))
    assert [(s.name, s.concurrency, len(s.requests)) for s in phases.measured.stages] == [
        ("1 clients", 1, 4),
        ("6 clients", 6, 12),
    ]
    assert [request.index for request in phases.measured.requests] == list(range(5, 21))
    assert not any(piece.stages for piece in (phases.warmup, phases.settling, phases.profiled))
    plain = build_phases(load(*CLIENTS, stages=()))
    assert phases.measured.requests == plain.measured.requests
    other = build_phases(load(CLIENTS[0], dataclasses.replace(CLIENTS[1], concurrency=7)))
    assert len({phases.digest, plain.digest, other.digest}) == 3
    assert build_phases(load(*CLIENTS)).digest == phases.digest


def test_every_stage_of_an_open_loop_has_the_same_arrivals_at_its_own_rate():
    slow, fast = build_phases(load(*RATES, arrival=POISSON)).measured.stages
    assert (slow.name, fast.name, slow.concurrency) == ("100 a second", "400 a second", 9)
    assert slow.requests[0].due_s == fast.requests[0].due_s == 0.0
    assert [4 * each.due_s for each in fast.requests] == pytest.approx([e.due_s for e in slow.requests], abs=1e-5)


def test_stages_that_are_not_the_requests_are_refused():
    with pytest.raises(UsageError, match="sum of its stages"):
        build_schedule(load(*CLIENTS, requests=15))


@pytest.fixture
def server():
    """Answer after 5 ms, and count the requests in flight."""
    port: Future[int] = Future()
    state = {"now": 0, "most": []}
    loops = []

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loops.append((loop, stop))

        async def answer(request: web.Request) -> web.Response:
            state["now"] += 1
            state["most"].append((int(request.path.rpartition("/")[2]), state["now"]))
            await asyncio.sleep(0.005)
            state["now"] -= 1
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_get("/{number}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.set_result(runner.addresses[0][1])
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port.result(10)}", state
    loop, stop = loops[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


GET = RequestSpec(path="/{number}", method="GET")


def staged(spec: LoadSpec):
    return in_stages(spec, build_schedule(spec, requests=spec.requests))


def test_a_ramp_of_clients_runs_stage_by_stage(server):
    url, state = server
    result = run_load(url, staged(load(*CLIENTS, request=GET)), concurrency=9, timeout_s=10, slo=SloSpec(e2e_ms=1e4))
    assert (result.sent, result.succeeded) == (16, 16)
    one, six = result.stages
    assert [(each.name, each.result.sent) for each in result.stages] == [("1 clients", 4), ("6 clients", 12)]
    assert max(now for number, now in state["most"] if number < 4) == 1
    assert 1 < max(now for number, now in state["most"] if number >= 4) <= 6
    records = {record.index: record for record in result.records}
    assert max(records[number].finished_s for number in range(4)) <= min(records[n].sent_s for n in range(4, 16))
    assert one.result.records == six.result.records == ()
    assert (one.result.e2e.count, six.result.e2e.count, result.e2e.count) == (4, 12, 16)
    assert one.result.duration_s + six.result.duration_s <= result.duration_s
    assert one.result.goodput_rps == one.result.throughput_rps > 0


def test_a_ramp_of_rates_counts_from_its_own_due_times(server):
    url, _ = server
    constant = dataclasses.replace(POISSON, kind=ArrivalKind.CONSTANT)
    result = run_load(url, staged(load(*RATES, request=GET, arrival=constant)), concurrency=9, timeout_s=10)
    intended_s = [record.intended_s for record in result.records]
    gaps_ms = [round(1e3 * (b - a), 3) for a, b in itertools.pairwise(intended_s)]
    assert gaps_ms[:5] == [10.0] * 5
    assert gaps_ms[6:] == [2.5] * 5
    assert intended_s[6] >= max(record.finished_s for record in result.records[:6])
    assert all(stage.result.dispatch_lag_p99_ms is not None for stage in result.stages)


def test_progress_tells_how_far_each_stage_is(server, monkeypatch):
    url, _ = server
    monkeypatch.setattr("perfguard.load.client._PROGRESS_S", 0.02)
    steps = []
    progress = SimpleNamespace(step=steps.append)
    run_load(url, staged(load(*CLIENTS, request=GET)), concurrency=9, timeout_s=10, progress=progress)
    found = [re.fullmatch(r"1 clients: (\d) of 4 requests, \d in the last second", step) for step in steps]
    assert any(found)
    steps.clear()
    failing = dataclasses.replace(GET, method="PUT")
    many = load(request=failing, requests=400)
    run_load(url, staged(many), concurrency=1, timeout_s=10, progress=progress)
    counts = [re.fullmatch(r"(\d+) of 400 requests, \d+ in the last second(?:, (\d+) failed)?", step) for step in steps]
    assert all(counts)
    assert all(found[1] == (found[2] or "0") for found in counts)


def replay(*, index: int, e2e_s: float, late_s: float, cpu_s: float) -> Replay:
    record = RequestRecord(
        index=index,
        sent_s=0.0,
        intended_s=0.0,
        first_token_s=e2e_s,
        finished_s=e2e_s,
        outcome=RequestOutcome.OK,
        detail="",
    )
    return Replay(records=[record], dispatch_s=[late_s], lateness_s=[0.0], cpu_s=cpu_s, wall_s=1.0)


def test_a_stage_is_vetoed_for_what_is_little_beside_the_whole():
    calm = replay(index=0, e2e_s=0.02, late_s=0.08, cpu_s=0.1)
    flooded = replay(index=1, e2e_s=9.0, late_s=0.08, cpu_s=0.2)
    whole = summarise_stages("d", [("10 a second", calm), ("900 a second", flooded)], None)
    assert generator_veto(dataclasses.replace(whole, stages=())) is None
    assert "stage 10 a second: load generator: it sent requests 80 ms late" in (generator_veto(whole) or "")
    busy = replay(index=1, e2e_s=9.0, late_s=0.0, cpu_s=0.95)
    easy = replay(index=0, e2e_s=9.0, late_s=0.0, cpu_s=0.1)
    assert "stage b: load generator: it used 95%" in (
        generator_veto(summarise_stages("d", [("a", easy), ("b", busy)], None)) or ""
    )
    assert generator_veto(summarise_stages("d", [("a", easy), ("b", easy)], None)) is None


def test_classes_of_a_mix_have_their_own_latencies():
    slow, fast = replay(index=4, e2e_s=2.0, late_s=0.0, cpu_s=0.0), replay(index=5, e2e_s=0.5, late_s=0.0, cpu_s=0.0)
    lost = dataclasses.replace(fast.records[0], index=6, outcome=RequestOutcome.ERROR)
    both = Replay(records=[*slow.records, *fast.records, lost], media_classes={4: "large", 5: "small", 6: "small"})
    result = summarise("d", both, None)
    assert [(each.name, each.sent, each.succeeded) for each in result.media] == [("large", 1, 1), ("small", 2, 1)]
    assert [each.e2e.p50_ms for each in result.media] == pytest.approx([2000.0, 500.0], rel=1e-3)
    assert msgspec.json.decode(msgspec.json.encode(result), type=LoadResult) == result


def test_the_client_tells_the_classes_of_its_schedule(server):
    url, _ = server
    mixed = load(StageSpec(requests=20, concurrency=3), media=(MediaSpec(name="a", weight=1),))
    requests = tuple(
        dataclasses.replace(each, media_class="ab"[each.index % 2])
        for each in staged(load(request=GET, requests=8)).requests
    )
    assert {each.media_class for each in staged(mixed).requests} == {"a"}
    schedule = dataclasses.replace(staged(load(request=GET, requests=8)), requests=requests)
    result = run_load(url, schedule, concurrency=2, timeout_s=10)
    assert [(each.name, each.sent) for each in result.media] == [("a", 4), ("b", 4)]
    assert result.stages == ()
