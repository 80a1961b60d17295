"""The open loop against a server that stands still once, and what an answer's pieces tell."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from concurrent.futures import Future

import msgspec
import pytest
from aiohttp import web

from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import Schedule, ScheduledRequest
from perfguard.load.stream import Stream
from perfguard.load.summary import Replay, summarise
from perfguard.model.scenario import AnswerKind, SloSpec
from perfguard.model.trial import RequestOutcome, RequestRecord

STALL_S = 1.0
STALLED = 50


@pytest.fixture
def url():
    """Serve in a thread; after its 50th request the server answers nothing for a second, then goes on."""
    port: Future[int] = Future()
    loops = []

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loops.append((loop, stop))
        state = {"seen": 0, "until": 0.0}

        async def answer(_request: web.Request) -> web.Response:
            state["seen"] += 1
            if state["seen"] == STALLED:
                state["until"] = loop.time() + STALL_S
            await asyncio.sleep(max(0.0, state["until"] - loop.time()))
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.set_result(runner.addresses[0][1])
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port.result(10)}"
    loop, stop = loops[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def schedule(count: int, rate: float | None, concurrency: int, first: int = 0) -> Schedule:
    return Schedule(
        requests=tuple(
            ScheduledRequest(
                index=number,
                parts=(b"{}",),
                path="/",
                answer=AnswerKind.PLAIN,
                due_s=None if rate is None else number / rate,
            )
            for number in range(first, first + count)
        ),
        concurrency=concurrency,
    )


def p99_of_sending_ms(result) -> float:
    waits_s = sorted(record.finished_s - record.sent_s for record in result.records)
    return 1e3 * waits_s[int(0.99 * len(waits_s))]


def test_a_closed_loop_hides_a_stall(url):
    result = run_load(url, schedule(300, None, 1), concurrency=1, timeout_s=30)
    assert result.succeeded == 300
    assert result.e2e.max_ms > 900
    assert result.e2e.p99_ms < 500
    assert all(record.intended_s is None for record in result.records)
    assert (result.send_lag_p99_ms, result.dispatch_lag_p99_ms) == (None, None)


def test_an_open_loop_shows_it(url):
    # Those of the 100 requests a second that come while nothing is answered wait from a second down to nothing.
    result = run_load(url, schedule(300, 100.0, 300, first=1000), concurrency=300, timeout_s=30)
    assert result.succeeded == 300
    assert result.e2e.p99_ms > 800
    assert result.records[0].intended_s == 0.0
    gaps = {round(b.intended_s - a.intended_s, 6) for a, b in zip(result.records, result.records[1:], strict=False)}
    assert gaps == {0.01}
    assert all(record.sent_s >= record.intended_s for record in result.records)


def test_it_shows_it_also_where_its_requests_must_wait_for_a_place(url):
    result = run_load(url, schedule(300, 100.0, 1), concurrency=1, timeout_s=30)
    assert result.succeeded == 300
    assert p99_of_sending_ms(result) < 500  # what a client that counts from the sending would tell
    assert result.e2e.p99_ms > 800
    assert result.ttft.p99_ms > 800
    assert result.send_lag_p99_ms > 800
    # The wait for a place is the server's doing.
    assert result.dispatch_lag_p99_ms < 500


def test_a_dispatcher_that_is_late_is_vetoed(url):
    result = run_load(url, schedule(20, 1000.0, 20), concurrency=20, timeout_s=30)
    e2e = dataclasses.replace(result.e2e, p99_ms=900.0)
    sound = dataclasses.replace(
        result, e2e=e2e, generator_cpu_frac=0.3, generator_lag_p99_ms=20.0, dispatch_lag_p99_ms=85.0
    )
    assert generator_veto(sound) is None
    late = generator_veto(dataclasses.replace(sound, dispatch_lag_p99_ms=95.0))
    assert late is not None
    assert "95 ms late (p99, limit 90 ms)" in late
    fast = dataclasses.replace(sound, e2e=dataclasses.replace(e2e, p99_ms=5.0), dispatch_lag_p99_ms=51.0)
    assert "limit 50 ms" in (generator_veto(fast) or "")


def event(**choice) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


ROLE, TEXT = event(delta={"role": "assistant", "content": ""}), event(delta={"content": "amber"})
END = event(delta={"content": None}, finish_reason="length")


@pytest.mark.parametrize(
    ("reads", "gaps"),
    [
        ([ROLE, TEXT, TEXT, END], 1),
        ([ROLE + TEXT, TEXT + TEXT + TEXT, END], 1),
        ([ROLE, TEXT, END], 0),
        ([ROLE + TEXT + TEXT + END], 0),
        ([TEXT, TEXT[:9], TEXT[9:], TEXT], 2),
        ([event(text="a"), event(text="b")], 1),
        ([event(delta={"reasoning_content": "a"}), event(delta={"tool_calls": [{}]})], 1),
    ],
)
def test_gaps_lie_between_the_reads_that_brought_text(reads, gaps):
    stream = Stream()
    for read in reads:
        stream.feed(read)
    assert len(stream.gaps_s) == gaps


def test_gaps_are_as_long_as_the_silence(monkeypatch):
    clock = iter([10.0, 10.0, 10.5, 12.5])
    monkeypatch.setattr("perfguard.load.stream.time.perf_counter", lambda: next(clock))
    stream = Stream()
    for read in (TEXT, TEXT, TEXT + b'data: {"choices": [], "usage": {"completion_tokens": 41}}\n'):
        stream.feed(read)
    assert (stream.first_token_at, stream.gaps_s, stream.output_tokens) == (10.0, [0.5, 2.0], 41)


def record(index: int, *, first: float, end: float, tokens: int | None, outcome=RequestOutcome.OK) -> RequestRecord:
    return RequestRecord(
        index=index,
        sent_s=1.0,
        intended_s=0.5,
        first_token_s=first,
        finished_s=end,
        outcome=outcome,
        detail="",
        output_tokens=tokens,
    )


def test_goodput_counts_what_met_every_limit_from_the_intended_time():
    replay = Replay(
        records=[
            record(0, first=1.0, end=2.0, tokens=11),  # ttft 500, e2e 1500, tpot 100
            record(1, first=1.1, end=2.0, tokens=11),  # ttft 600
            record(2, first=1.0, end=3.0, tokens=11),  # tpot 200
            record(3, first=1.0, end=5.0, tokens=None),  # e2e 4500, no tpot
            record(4, first=1.0, end=3.0, tokens=1),  # e2e 2500, no tpot
            record(5, first=1.0, end=2.0, tokens=11, outcome=RequestOutcome.ERROR),
        ]
    )
    assert summarise("d", replay, None).goodput_rps is None

    def good(**limits: float) -> float:
        result = summarise("d", replay, SloSpec(**limits))
        assert result.duration_s == 4.0
        return result.goodput_rps * 4.0

    assert good() == 5
    assert good(ttft_ms=500.0) == 4
    assert good(tpot_ms=100.0) == 4
    assert good(e2e_ms=1500.0) == 2
    assert good(ttft_ms=500.0, e2e_ms=2500.0, tpot_ms=100.0) == 2
    result = summarise("d", replay, None)
    assert (result.tpot.count, result.tpot.max_ms) == (3, pytest.approx(200.0))
    assert result.send_lag_p99_ms == pytest.approx(500.0, rel=1e-3)


def test_a_record_that_was_stored_before_there_were_arrivals_still_reads():
    old = b'{"index":1,"sent_s":0.5,"first_token_s":0.6,"finished_s":0.75,"outcome":"ok","detail":""}'
    read = msgspec.json.decode(old, type=RequestRecord)
    assert (read.intended_s, read.output_tokens, read.start_s, read.tpot_s) == (None, None, 0.5, None)
