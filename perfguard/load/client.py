"""The client: it replays a schedule against a server, times every request, and watches its own health."""

from __future__ import annotations

import asyncio
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from perfguard.load.stream import Plain, Stream
from perfguard.load.summary import TICK_S, Replay, summarise, summarise_stages
from perfguard.model.scenario import AnswerKind, SloSpec
from perfguard.model.trial import LoadResult, RequestOutcome, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.load.schedule import Schedule, ScheduledRequest
    from perfguard.model.progress import Progress

# The client's one thread is what bounds it: driven by a server that costs nothing it used 0.94 to 1.00 of a core, at
# 8,000 requests of 5 kB or 6,000 of 180 kB a second, and 0.06 under a real server on two cores.
CPU_LIMIT_FRAC = 0.9
# Lateness is no sign of the client's own limit (a client at its limit ran 12 to 36 ms late): it comes from the run
# queue of a machine that the server keeps busy, where up to 230 ms were seen in sound loads. Twice that is starvation.
LAG_LIMIT_MS = 500.0
# In an open loop latencies count from the intended time, so the dispatcher's lateness is part of what is measured: it
# must be small beside it, or beside a few of the event loop's own turns.
DISPATCH_LIMIT_FRAC = 0.1
DISPATCH_FLOOR_MS = 50.0
_DETAIL_CHARS = 300
_ERROR_BODY_BYTES = 4096
# Shorter than servers keep an idle connection (uvicorn 5 s, gunicorn 2 s): else an open loop now and then sends into
# one that is just being closed, and counts an error that no user would see.
_KEEPALIVE_S = 1.5
_PROGRESS_S = 1.0
_ACCEPT = {AnswerKind.OPENAI_STREAM: "text/event-stream", AnswerKind.PLAIN: "*/*"}


def run_load(
    base_url: str,
    schedule: Schedule,
    *,
    concurrency: int,
    timeout_s: float,
    slo: SloSpec | None = None,
    progress: Progress | None = None,
) -> LoadResult:
    """Send every request of `schedule` to the server at `base_url` and wait for all the answers.

    Closed loop: `concurrency` clients take the next request in order, each as soon as its last one ended; every
    client keeps its connection. Open loop, where requests are due at a time: each is sent then, counted from the first,
    or as soon as fewer than `concurrency` are in flight; its latencies count from the intended time either way, so that
    a server that stands still is charged for the requests that it kept waiting.

    A request that fails is recorded and counted, and never raises; `timeout_s` bounds one request from its sending to
    its last byte. Ctrl-C closes the connections and raises `KeyboardInterrupt`. `slo` is what goodput counts by;
    `progress` is told once a second how far the load is.

    Time to first token ends with the first event that carries a choice, the role-only delta included: servers send
    that delta together with the first token's text, and a first token that is half a character has no text at all.
    Source: SGLang's `serving_chat.py`, `_generate_chat_stream` (the role delta is written inside the loop over the
    generator's outputs).

    Throughput is the number of succeeded requests over the time from the first sending to the last end.
    """
    with warnings.catch_warnings():
        # aiohttp warns of bodies over 1 MiB that may block the loop; `generator_lag_p99_ms` measures just that.
        warnings.simplefilter("ignore", ResourceWarning)
        if not schedule.stages:
            replay = asyncio.run(
                _replay(base_url, schedule, concurrency=concurrency, timeout_s=timeout_s, progress=progress)
            )
            return summarise(schedule.digest, replay, slo)
        stages: list[tuple[str, Replay]] = []
        start_s = time.perf_counter()
        for stage in schedule.stages:
            replaying = _replay(
                base_url,
                stage,
                concurrency=stage.concurrency,
                timeout_s=timeout_s,
                progress=progress,
                start_s=start_s,
            )
            stages.append((stage.name, asyncio.run(replaying)))
    return summarise_stages(schedule.digest, stages, slo)


def generator_veto(
    result: LoadResult, *, cpu_limit_frac: float = CPU_LIMIT_FRAC, lag_limit_ms: float = LAG_LIMIT_MS
) -> str | None:
    """Say why `result` shows the load generator's limits instead of the server's; None where it does not.

    A ramp is judged stage by stage: what is little beside the whole of it may be much in one.
    """
    for stage in result.stages:
        veto = generator_veto(stage.result, cpu_limit_frac=cpu_limit_frac, lag_limit_ms=lag_limit_ms)
        if veto is not None:
            return f"stage {stage.name}: {veto}"
    if result.stages:
        return None
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
    limit_ms = max(DISPATCH_FLOOR_MS, DISPATCH_LIMIT_FRAC * result.e2e.p99_ms) if result.e2e else DISPATCH_FLOOR_MS
    if result.dispatch_lag_p99_ms is not None and result.dispatch_lag_p99_ms > limit_ms:
        return (
            f"load generator: it sent requests {result.dispatch_lag_p99_ms:.0f} ms late (p99, limit {limit_ms:.0f} ms) "
            "through no fault of the server; lower the rate, or leave it more of the machine"
        )
    return None


async def _replay(
    base_url: str,
    schedule: Schedule,
    *,
    concurrency: int,
    timeout_s: float,
    progress: Progress | None,
    start_s: float | None = None,
) -> Replay:
    """Send all requests, with the ticker running beside; times count from `start_s`, or from the first sending."""
    requests = schedule.requests
    replay = Replay(media_classes={each.index: each.media_class for each in requests if each.media_class})
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=_KEEPALIVE_S),
        timeout=aiohttp.ClientTimeout(total=timeout_s, ceil_threshold=3600.0),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        beside = [asyncio.create_task(_tick(replay.lateness_s))]
        if progress is not None:
            beside.append(asyncio.create_task(_tell(replay, schedule, progress)))
        cpu_s, begun_at = time.thread_time(), time.perf_counter()
        origin = begun_at if start_s is None else start_s
        sender = _Sender(session=session, url=base_url.rstrip("/"), start_s=origin, replay=replay)
        try:
            if requests and requests[0].due_s is not None:
                await _open_loop(sender, requests, concurrency, begun_at)
            else:
                await _closed_loop(sender, requests, concurrency)
        finally:
            replay.cpu_s, replay.wall_s = time.thread_time() - cpu_s, time.perf_counter() - begun_at
            for task in beside:
                task.cancel()
    return replay


async def _tick(lateness_s: list[float]) -> None:
    """Note, every 10 ms, how late the event loop woke this task."""
    while True:
        due_s = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        lateness_s.append(max(0.0, time.perf_counter() - due_s))


async def _tell(replay: Replay, schedule: Schedule, progress: Progress) -> None:
    """Tell, once a second, how many requests have ended."""
    stage = f"{schedule.name}: " if schedule.name else ""
    told = failed = 0
    while True:
        await asyncio.sleep(_PROGRESS_S)
        new = replay.records[told:]
        told += len(new)
        failed += sum(record.outcome is not RequestOutcome.OK for record in new)
        errors = f", {failed} failed" if failed else ""
        progress.step(f"{stage}{told} of {len(schedule.requests)} requests, {len(new)} in the last second{errors}")


async def _closed_loop(sender: _Sender, requests: Sequence[ScheduledRequest], concurrency: int) -> None:
    """Let `concurrency` clients draw from the schedule, one request after the other, until none is left."""
    waiting = iter(requests)

    async def client() -> None:
        for request in waiting:
            await sender.send(request)

    await asyncio.gather(*(client() for _ in range(min(concurrency, len(requests)))))


async def _open_loop(sender: _Sender, requests: Sequence[ScheduledRequest], concurrency: int, begun_at: float) -> None:
    """Send each request when it is due, the first at `begun_at`; later only where `concurrency` are in flight."""
    places = asyncio.Semaphore(concurrency)
    first_due_s = requests[0].due_s or 0.0
    tasks: list[asyncio.Task[None]] = []
    could_at = 0.0

    async def send(request: ScheduledRequest, intended_at: float, could_at: float) -> None:
        try:
            await sender.send(request, intended_at, could_at)
        finally:
            places.release()

    try:
        for request in requests:
            intended_at = begun_at + (request.due_s or 0.0) - first_due_s
            if (wait_s := intended_at - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            # When it could be sent: no request overtakes one that waits for a place.
            could_at = max(could_at, intended_at)
            full = places.locked()
            await places.acquire()
            if full:
                could_at = max(could_at, time.perf_counter())
            tasks.append(asyncio.create_task(send(request, intended_at, could_at)))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sender:
    """Sends single requests and records them; their times count from `start_s`."""

    session: aiohttp.ClientSession
    url: str
    start_s: float
    replay: Replay

    async def send(
        self, request: ScheduledRequest, intended_at: float | None = None, could_at: float | None = None
    ) -> None:
        """Send one request and wait for its whole answer.

        In an open loop `intended_at` is when it was due, `could_at` when it was due and had a place.
        """
        body = request.body
        headers = {"Content-Type": request.content_type, "Accept": _ACCEPT[request.answer]}
        stream = Stream() if request.answer is AnswerKind.OPENAI_STREAM else Plain()
        sent_at = time.perf_counter()
        if could_at is not None:
            self.replay.dispatch_s.append(max(0.0, sent_at - could_at))
        try:
            async with self.session.request(
                request.method, self.url + request.path, data=body, headers=headers
            ) as response:
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
        if outcome is RequestOutcome.OK:
            self.replay.gaps_s.extend(stream.gaps_s)
        self.replay.records.append(
            RequestRecord(
                index=request.index,
                sent_s=sent_at - self.start_s,
                first_token_s=None if stream.first_token_at is None else stream.first_token_at - self.start_s,
                finished_s=time.perf_counter() - self.start_s,
                outcome=outcome,
                detail=" ".join(detail.split())[:_DETAIL_CHARS],
                intended_s=None if intended_at is None else intended_at - self.start_s,
                output_tokens=request.output_tokens if stream.output_tokens is None else stream.output_tokens,
            )
        )
