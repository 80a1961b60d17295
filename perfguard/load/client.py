"""The closed-loop client: it replays a schedule against a server, times every request, and watches its own health."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from hdrh.histogram import HdrHistogram

from perfguard.model.scenario import AnswerKind
from perfguard.model.trial import LatencySummary, LoadResult, RequestOutcome, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from perfguard.load.schedule import Schedule, ScheduledRequest

# The client's one thread is what bounds it: driven by a server that costs nothing it used 0.94 to 1.00 of a core, at
# 8,000 requests of 5 kB or 6,000 of 180 kB a second, and 0.06 under a real server on two cores.
CPU_LIMIT_FRAC = 0.9
# Lateness is no sign of the client's own limit (a client at its limit ran 12 to 36 ms late): it comes from the run
# queue of a machine that the server keeps busy, where up to 230 ms were seen in sound loads. Twice that is starvation.
LAG_LIMIT_MS = 500.0
_DETAIL_CHARS = 300
_ERROR_BODY_BYTES = 4096
_TICK_S = 0.010
_MICROSECONDS_PER_HOUR = 3_600_000_000
_SIGNIFICANT_DIGITS = 3
_ACCEPT = {AnswerKind.OPENAI_STREAM: "text/event-stream", AnswerKind.PLAIN: "*/*"}


def run_load(base_url: str, schedule: Schedule, *, concurrency: int, timeout_s: float) -> LoadResult:
    """Send every request of `schedule` to the server at `base_url` and wait for all the answers.

    A closed loop: `concurrency` clients take the next request in order, each as soon as its last one ended; every
    client keeps its connection. A request that fails is recorded and counted, and never raises; `timeout_s` bounds one
    request from its sending to its last byte. Ctrl-C closes the connections and raises `KeyboardInterrupt`.

    Time to first token ends with the first event that carries a choice, the role-only delta included: servers send
    that delta together with the first token's text, and a first token that is half a character has no text at all.
    Source: SGLang's `serving_chat.py`, `_generate_chat_stream` (the role delta is written inside the loop over the
    generator's outputs).

    Throughput is the number of succeeded requests over the time from the first sending to the last end.
    """
    with warnings.catch_warnings():
        # aiohttp warns of bodies over 1 MiB that may block the loop; `generator_lag_p99_ms` measures just that.
        warnings.simplefilter("ignore", ResourceWarning)
        run = asyncio.run(_replay(base_url, schedule.requests, concurrency, timeout_s))
    return _summarise(schedule.digest, run)


def generator_veto(
    result: LoadResult, *, cpu_limit_frac: float = CPU_LIMIT_FRAC, lag_limit_ms: float = LAG_LIMIT_MS
) -> str | None:
    """Say why `result` shows the load generator's limits instead of the server's; None where it does not."""
    if result.generator_cpu_frac > cpu_limit_frac:
        return (
            f"load generator: it used {result.generator_cpu_frac:.0%} of its core (limit {cpu_limit_frac:.0%}), so the "
            "load was as fast as the generator and not as the server"
        )
    if result.generator_lag_p99_ms > lag_limit_ms:
        return (
            f"load generator: its event loop ran {result.generator_lag_p99_ms:.0f} ms late (p99, limit "
            f"{lag_limit_ms:.0f} ms), so its clock readings are late too; leave it more of the machine"
        )
    return None


@dataclass(slots=True, kw_only=True)
class _Run:
    """What one replay collected: the requests in the order of their ends, and the generator's own health."""

    records: list[RequestRecord] = field(default_factory=list)
    lateness_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0


async def _replay(base_url: str, requests: Sequence[ScheduledRequest], concurrency: int, timeout_s: float) -> _Run:
    """Run the clients and the ticker until the schedule is through."""
    run = _Run()
    url = base_url.rstrip("/")
    waiting = iter(requests)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=timeout_s, ceil_threshold=3600.0),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        ticker = asyncio.create_task(_tick(run.lateness_s))
        cpu_s, start_s = time.thread_time(), time.perf_counter()
        try:
            await asyncio.gather(
                *(_client(session, url, waiting, start_s, run.records) for _ in range(min(concurrency, len(requests))))
            )
        finally:
            run.cpu_s, run.wall_s = time.thread_time() - cpu_s, time.perf_counter() - start_s
            ticker.cancel()
    return run


async def _tick(lateness_s: list[float]) -> None:
    """Note, every 10 ms, how late the event loop woke this task."""
    while True:
        due_s = time.perf_counter() + _TICK_S
        await asyncio.sleep(_TICK_S)
        lateness_s.append(max(0.0, time.perf_counter() - due_s))


async def _client(
    session: aiohttp.ClientSession,
    url: str,
    waiting: Iterator[ScheduledRequest],
    start_s: float,
    records: list[RequestRecord],
) -> None:
    """Send one request after the other until none is left; all clients draw from the same iterator."""
    for request in waiting:
        body = request.body
        headers = {"Content-Type": request.content_type, "Accept": _ACCEPT[request.answer]}
        sent_s = time.perf_counter()
        stream = _Stream() if request.answer is AnswerKind.OPENAI_STREAM else _Plain()
        try:
            async with session.request(request.method, url + request.path, data=body, headers=headers) as response:
                if 200 <= response.status < 300:  # noqa: PLR2004 - HTTP's own numbers
                    async for chunk in response.content.iter_any():
                        stream.feed(chunk)
                    outcome, detail = stream.verdict()
                else:
                    text = (await response.content.read(_ERROR_BODY_BYTES)).decode(errors="replace")
                    outcome, detail = RequestOutcome.ERROR, f"HTTP {response.status}: {text}"
        except asyncio.TimeoutError:
            # Before OSError: from Python 3.11 on it is one.
            outcome, detail = RequestOutcome.TIMEOUT, "no complete answer within the timeout"
        except (aiohttp.ClientError, OSError) as error:
            outcome, detail = RequestOutcome.ERROR, f"{type(error).__name__}: {error}"
        records.append(
            RequestRecord(
                index=request.index,
                sent_s=sent_s - start_s,
                first_token_s=None if stream.first_token_at is None else stream.first_token_at - start_s,
                finished_s=time.perf_counter() - start_s,
                outcome=outcome,
                detail=" ".join(detail.split())[:_DETAIL_CHARS],
            )
        )


@dataclass(slots=True)
class _Plain:
    """Takes one answer of any kind; its first byte counts as its first token."""

    first_token_at: float | None = None

    def feed(self, _chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()

    def verdict(self) -> tuple[RequestOutcome, str]:
        """Judge the answer once the connection gave its last byte: a whole answer is a good one."""
        if self.first_token_at is None:  # no body at all, as of a 204
            self.first_token_at = time.perf_counter()
        return RequestOutcome.OK, ""


@dataclass(slots=True)
class _Stream:
    """Reads one answer's server-sent events; JSON is parsed until the first token, and where an error may stand."""

    first_token_at: float | None = None
    done: bool = False
    error: str = ""
    _tail: bytes = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def verdict(self) -> tuple[RequestOutcome, str]:
        """Judge the answer once the connection gave its last byte."""
        if self._tail.startswith(b"data:"):
            self._event(self._tail[5:].strip())
        if self.error:
            return RequestOutcome.ERROR, self.error
        if not self.done:
            return RequestOutcome.ERROR, "the stream ended without [DONE]"
        if self.first_token_at is None:
            return RequestOutcome.ERROR, "the stream held no token"
        return RequestOutcome.OK, ""

    def _event(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        # Inside a JSON string the quotes would be escaped, so this finds every error and next to nothing else.
        may_be_error = b'"error"' in payload
        if self.first_token_at is not None and not may_be_error:
            return
        try:
            event = json.loads(payload)
        except ValueError:
            self.error = self.error or f"an event is not JSON: {payload[:80].decode(errors='replace')}"
            return
        if not isinstance(event, dict):
            return
        if may_be_error and event.get("error") and not self.error:
            self.error = f"error event: {json.dumps(event['error'])}"
        elif self.first_token_at is None and event.get("choices"):
            self.first_token_at = time.perf_counter()


def _summarise(digest: str, run: _Run) -> LoadResult:
    """Turn a replay into its result."""
    records = tuple(sorted(run.records, key=lambda record: record.index))
    good = [record for record in records if record.outcome is RequestOutcome.OK]
    failed = sorted((r for r in records if r.outcome is not RequestOutcome.OK), key=lambda record: record.finished_s)
    duration_s = (max(r.finished_s for r in records) - min(r.sent_s for r in records)) if records else 0.0
    return LoadResult(
        schedule_digest=digest,
        duration_s=duration_s,
        sent=len(records),
        succeeded=len(good),
        errors=sum(record.outcome is RequestOutcome.ERROR for record in records),
        timeouts=sum(record.outcome is RequestOutcome.TIMEOUT for record in records),
        first_error=failed[0].detail if failed else "",
        throughput_rps=len(good) / duration_s if duration_s else 0.0,
        ttft=latency_summary(r.first_token_s - r.sent_s for r in good if r.first_token_s is not None),
        e2e=latency_summary(record.finished_s - record.sent_s for record in good),
        generator_cpu_frac=run.cpu_s / run.wall_s if run.wall_s else 0.0,
        generator_lag_p99_ms=_lag_p99_ms(run.lateness_s),
        records=records,
    )


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
        histogram.record_corrected_value(_microseconds(late_s), int(_TICK_S * 1e6))
    return float(histogram.get_value_at_percentile(99)) / 1e3


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, _MICROSECONDS_PER_HOUR, _SIGNIFICANT_DIGITS)


def _microseconds(value_s: float) -> int:
    return min(max(1, round(value_s * 1e6)), _MICROSECONDS_PER_HOUR)
