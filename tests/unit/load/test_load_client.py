"""The client against a server that behaves as it is told: every way to end is counted, every time is right."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import Future

import numpy as np
import pytest
from aiohttp import web

from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import CHAT_PATH, Schedule, ScheduledRequest
from perfguard.load.summary import latency_summary
from perfguard.model.scenario import AnswerKind
from perfguard.model.trial import RequestOutcome

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
TEXT = {"choices": [{"index": 0, "delta": {"content": 'an "error" in quotes'}}]}
USAGE = {"choices": [], "usage": {"completion_tokens": 2}}


def event(payload) -> bytes:
    return b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"


RESET = object()
ANSWER = event(ROLE) + event(TEXT) + event(USAGE)
DONE = event(b"[DONE]")
# What an answer consists of: bytes are written, numbers are seconds of silence, RESET drops the connection.
SCRIPTS: dict[str, list] = {
    "ok": [event(ROLE), event(TEXT), event(USAGE), DONE],
    "slow": [0.15, event(ROLE), 0.25, event(TEXT), DONE],
    "split": [bytes([byte]) for byte in ANSWER + DONE.replace(b"\n", b"\r\n")],
    "late-choice": [event(USAGE), 0.15, event(ROLE), DONE],
    "unterminated": [ANSWER, b"data: [DONE]"],
    "error-event": [event({"error": {"message": "out of memory", "code": 500}}), DONE],
    "error-after-token": [event(ROLE), event({"error": {"message": "rank died"}}), DONE],
    "not-json": [event(b"{oops"), DONE],
    "no-token": [event(USAGE), DONE],
    "cut": [ANSWER],
    "reset": [event(ROLE), RESET],
    "hang": [60.0],
    "hang-after-token": [event(ROLE), 60.0],
}


class Server:
    """A chat endpoint in a thread of its own; the body of a request names the behaviour it gets."""

    def __init__(self) -> None:
        self.seen: list[dict] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.connections: set[object] = set()
        self.closed_early = 0
        port: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(port)), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{port.result(10)}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self, port: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post(CHAT_PATH, self._chat)
        app.router.add_route("*", "/plain/{status}", self._plain)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.set_result(runner.addresses[0][1])
        await self._stop.wait()
        await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.connections.add(request.transport)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._behave(request, body["behaviour"])
        except asyncio.CancelledError:
            self.closed_early += 1
            raise
        finally:
            self.in_flight -= 1

    async def _plain(self, request: web.Request) -> web.Response:
        self.seen.append({"method": request.method, "type": request.content_type, "body": await request.text()})
        status = int(request.match_info["status"])
        return web.Response(status=status) if status == 204 else web.Response(status=status, text="some answer")

    async def _behave(self, request: web.Request, behaviour: str) -> web.StreamResponse:
        if behaviour == "500":
            return web.Response(status=500, text="the scheduler\n  is gone")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for step in SCRIPTS[behaviour]:
            if step is RESET:
                request.transport.abort()
                return response
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await response.write(step)
        await response.write_eof()
        return response


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


def schedule(*behaviours: str, first: int = 0) -> Schedule:
    return Schedule(
        requests=tuple(
            ScheduledRequest(index=first + place, parts=(b'{"behaviour":"', behaviour.encode(), b'"}'))
            for place, behaviour in enumerate(behaviours)
        ),
        concurrency=4,
    )


def test_all_succeed(server):
    plan = schedule(*["ok"] * 20, first=100)
    result = run_load(server.url, plan, concurrency=4, timeout_s=5)
    assert (result.sent, result.succeeded, result.errors, result.timeouts, result.first_error) == (20, 20, 0, 0, "")
    assert [record.index for record in result.records] == list(range(100, 120))
    assert all(r.sent_s < r.first_token_s <= r.finished_s for r in result.records if r.first_token_s is not None)
    assert result.ttft is not None
    assert result.e2e is not None
    assert result.ttft.count == result.e2e.count == 20
    assert result.schedule_digest == plan.digest
    span = max(r.finished_s for r in result.records) - min(r.sent_s for r in result.records)
    assert result.duration_s == pytest.approx(span)
    assert result.throughput_rps == pytest.approx(20 / span)
    assert 0 < result.generator_cpu_frac <= 1.05


def test_requests_go_out_in_order_over_kept_connections(server):
    plan = Schedule(
        requests=tuple(ScheduledRequest(index=n, parts=(b'{"behaviour":"ok","n":%d}' % n,)) for n in range(30)),
        concurrency=1,
    )
    run_load(server.url + "/", plan, concurrency=1, timeout_s=5)
    assert [body["n"] for body in server.seen] == list(range(30))
    assert len(server.connections) == 1


def test_the_loop_is_closed_at_its_concurrency(server):
    result = run_load(server.url, schedule(*["slow"] * 9), concurrency=3, timeout_s=5)
    assert server.most_in_flight == 3
    assert len(server.connections) == 3
    # Three rounds of 0.4 s each.
    assert 1.2 <= result.duration_s < 2.0


def test_the_first_token_is_the_role_delta_and_the_end_is_the_last_byte(server):
    result = run_load(server.url, schedule("slow"), concurrency=1, timeout_s=5)
    assert result.ttft is not None
    assert result.e2e is not None
    assert 150 <= result.ttft.p50_ms < 300
    assert 400 <= result.e2e.p50_ms < 600


def test_an_event_without_a_choice_is_no_token(server):
    result = run_load(server.url, schedule("late-choice"), concurrency=1, timeout_s=5)
    assert result.succeeded == 1
    assert result.ttft is not None
    assert result.ttft.p50_ms >= 150


@pytest.mark.parametrize("behaviour", ["split", "unterminated"])
def test_events_may_be_cut_anywhere(server, behaviour):
    result = run_load(server.url, schedule(behaviour), concurrency=1, timeout_s=5)
    assert (result.succeeded, result.first_error) == (1, "")


@pytest.mark.parametrize(
    ("behaviour", "outcome", "detail"),
    [
        ("500", RequestOutcome.ERROR, "HTTP 500: the scheduler is gone"),
        ("error-event", RequestOutcome.ERROR, "out of memory"),
        ("error-after-token", RequestOutcome.ERROR, "rank died"),
        ("cut", RequestOutcome.ERROR, "without [DONE]"),
        ("no-token", RequestOutcome.ERROR, "held no token"),
        ("not-json", RequestOutcome.ERROR, "not JSON: {oops"),
        ("reset", RequestOutcome.ERROR, "ClientPayloadError"),
        ("hang", RequestOutcome.TIMEOUT, "timeout"),
        ("hang-after-token", RequestOutcome.TIMEOUT, "timeout"),
    ],
)
def test_a_request_that_fails_is_recorded_with_its_reason(server, behaviour, outcome, detail):
    result = run_load(server.url, schedule(behaviour), concurrency=1, timeout_s=0.5)
    (record,) = result.records
    assert record.outcome is outcome
    assert detail in record.detail
    assert result.first_error == record.detail
    assert (result.sent, result.succeeded) == (1, 0)
    assert (result.ttft, result.e2e, result.throughput_rps) == (None, None, 0.0)


def test_failures_are_counted_exactly_and_kept_out_of_the_latencies(server):
    behaviours = ["ok"] * 12 + ["500"] * 5 + ["hang"] * 2 + ["error-event"] * 3 + ["cut"] + ["reset"] + ["ok"] * 8
    result = run_load(server.url, schedule(*behaviours), concurrency=4, timeout_s=0.6)
    assert (result.sent, result.succeeded, result.errors, result.timeouts) == (32, 20, 10, 2)
    assert Counter(r.outcome for r in result.records) == {
        RequestOutcome.OK: 20,
        RequestOutcome.ERROR: 10,
        RequestOutcome.TIMEOUT: 2,
    }
    assert [r.outcome is RequestOutcome.OK for r in result.records] == [b == "ok" for b in behaviours]
    assert result.e2e is not None
    assert result.e2e.count == 20
    assert result.e2e.max_ms < 500
    assert result.throughput_rps == pytest.approx(20 / result.duration_s)
    assert result.first_error.startswith("HTTP 500")


def test_a_server_that_is_not_there_gives_errors_and_no_exception():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = run_load(url, schedule(*["ok"] * 50), concurrency=4, timeout_s=5)
    assert (result.sent, result.errors) == (50, 50)
    assert "ClientConnectorError" in result.first_error


def test_long_error_texts_are_shortened(server):
    plan = Schedule(requests=(ScheduledRequest(index=0, parts=(b'{"behaviour":"' + b"x" * 9000,)),), concurrency=1)
    result = run_load(server.url, plan, concurrency=1, timeout_s=5)  # not JSON: the server answers 500
    assert result.errors == 1
    assert len(result.first_error) <= 300


def test_a_large_body_arrives_whole(server, recwarn):
    plan = Schedule(
        requests=(ScheduledRequest(index=0, parts=(b'{"behaviour":"ok","image":"', b"x" * 3_000_000, b'"}')),),
        concurrency=1,
    )
    assert run_load(server.url, plan, concurrency=1, timeout_s=5).succeeded == 1
    assert len(server.seen[0]["image"]) == 3_000_000
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


def test_an_empty_schedule_gives_an_empty_result(server):
    result = run_load(server.url, schedule(), concurrency=4, timeout_s=5)
    assert (result.sent, result.duration_s, result.throughput_rps, result.records) == (0, 0.0, 0.0, ())


def test_ctrl_c_ends_at_once_and_closes_the_connections(server, request):
    # A shell that put the tests into the background lets them ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt_when_busy() -> None:
        deadline = time.monotonic() + 5
        while server.in_flight < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_busy).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_load(server.url, schedule(*["hang"] * 8), concurrency=4, timeout_s=60)
    assert time.monotonic() - began < 3
    deadline = time.monotonic() + 5
    while server.in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (server.in_flight, server.closed_early, len(server.seen)) == (0, 4, 4)


def test_the_generators_own_lateness_is_seen(server, monkeypatch):
    blocked = schedule(*["ok"] * 40)
    whole = ScheduledRequest.body.fget

    def slow_body(request: ScheduledRequest) -> bytes:
        time.sleep(0.02)  # four clients that do this in a row keep the loop for 80 ms
        return whole(request)

    calm = run_load(server.url, blocked, concurrency=4, timeout_s=5)
    monkeypatch.setattr(ScheduledRequest, "body", property(slow_body))
    late = run_load(server.url, blocked, concurrency=4, timeout_s=5)
    assert late.generator_lag_p99_ms > 20
    assert late.generator_lag_p99_ms > calm.generator_lag_p99_ms
    assert generator_veto(late, lag_limit_ms=15) is not None


def test_a_generator_at_its_limit_is_vetoed(server):
    sound = dataclasses.replace(
        run_load(server.url, schedule("ok"), concurrency=1, timeout_s=5),
        generator_cpu_frac=0.3,
        generator_lag_p99_ms=20.0,
    )
    assert generator_veto(sound) is None
    busy = generator_veto(dataclasses.replace(sound, generator_cpu_frac=0.95))
    assert busy is not None
    assert busy.startswith("load generator: it used 95% of its core")
    late = generator_veto(dataclasses.replace(sound, generator_lag_p99_ms=750.0))
    assert late is not None
    assert "750 ms late" in late
    assert generator_veto(dataclasses.replace(sound, generator_cpu_frac=0.95), cpu_limit_frac=0.99) is None


@pytest.mark.parametrize("count", [1, 2, 100, 997, 1000])
def test_percentiles_agree_with_numpy(count):
    values_s = np.random.default_rng(count).lognormal(-2.0, 1.0, count)
    summary = latency_summary(values_s.tolist())
    assert summary is not None
    assert summary.count == count
    for got, percentile in ((summary.p50_ms, 50), (summary.p90_ms, 90), (summary.p99_ms, 99)):
        low, high = (1e3 * float(np.percentile(values_s, percentile, method=m)) for m in ("lower", "higher"))
        assert low * 0.999 <= got <= high * 1.001
        if count % 100 == 0:  # the percentile is one of the values, without a choice
            want = 1e3 * float(np.percentile(values_s, percentile, method="inverted_cdf"))
            assert got == pytest.approx(want, rel=1e-3)
    assert summary.mean_ms == pytest.approx(1e3 * values_s.mean())
    assert summary.max_ms == pytest.approx(1e3 * values_s.max())


def test_no_latencies_have_no_summary():
    assert latency_summary([]) is None


@pytest.mark.parametrize(("status", "good"), [(200, True), (204, True), (404, False), (500, False)])
def test_a_plain_answer_is_good_by_its_status(server, status, good):
    request = ScheduledRequest(
        index=3,
        parts=(b"a,b", b";c"),
        method="PUT",
        path=f"/plain/{status}",
        content_type="text/csv",
        answer=AnswerKind.PLAIN,
    )
    result = run_load(server.url, Schedule(requests=(request,), concurrency=1), concurrency=1, timeout_s=5)
    assert server.seen == [{"method": "PUT", "type": "text/csv", "body": "a,b;c"}]
    assert (result.succeeded, result.errors) == ((1, 0) if good else (0, 1))
    (record,) = result.records
    if good:
        assert record.sent_s < record.first_token_s <= record.finished_s
    else:
        assert record.detail.startswith(f"HTTP {status}")
