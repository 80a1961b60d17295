"""Drive a server that runs already: a scenario's load, changed by the command line, sent once."""

from __future__ import annotations

import dataclasses
import re
import socket
import urllib.parse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import build_schedule, in_stages
from perfguard.load.trace import read_trace
from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.progress import Progress
from perfguard.model.scenario import ArrivalKind, ArrivalSpec, LoadSpec, Scenario, SloSpec, StageSpec
from perfguard.model.trial import LoadResult
from perfguard.workflows.scenarios import check_scenario

_CONNECT_TIMEOUT_S = 10.0
_LIMITS = ("ttft", "e2e", "tpot")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RAMP = re.compile(r"(?P<over>clients|rate)=(?P<values>\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadChanges:
    """What the command line changes of a scenario's load; None leaves a value as it is."""

    rate: float | None = None
    arrival: ArrivalKind | None = None
    trace: Path | None = None
    requests: int | None = None
    concurrency: int | None = None
    seed: int | None = None
    ramp: str | None = None
    slo: str | None = None


def changed_load(scenario: Scenario, changes: LoadChanges) -> LoadSpec:
    """Apply the command line's changes to the scenario's load.

    A rate alone means Poisson arrivals where the scenario has none; a trace without a number of requests is replayed
    once. Every stage of a ramp has as many requests as the changes ask for, else as many as the scenario has.

    Raises:
        UsageError: the changes contradict each other, or the load that they make cannot be.
    """
    load = scenario.load
    if load.stages and changes.ramp is None and (changes.requests, changes.rate, changes.arrival) != (None,) * 3:
        raise UsageError(
            "--requests, --rate and --arrival do not fit a scenario with stages", hint="--ramp replaces its stages"
        )
    ramp = None if changes.ramp is None else _ramp(changes.ramp, changes)
    requests = changes.requests
    if changes.trace is not None:
        if changes.rate is not None or changes.arrival not in {None, ArrivalKind.TRACE}:
            raise UsageError(
                "--trace excludes --rate and other arrivals: its timestamps say when requests are due",
                hint="leave one of them out",
            )
        requests = len(read_trace(changes.trace)) if requests is None else requests
        arrival: ArrivalSpec | None = ArrivalSpec(kind=ArrivalKind.TRACE, trace_file=str(changes.trace))
    elif ramp is not None and ramp.over_rate:
        arrival = _arrival(load.arrival, dataclasses.replace(changes, rate=ramp.values[0]))
    elif changes.rate is not None or changes.arrival is not None:
        arrival = _arrival(load.arrival, changes)
    elif ramp is not None:
        arrival = None
    else:
        arrival = load.arrival
    load = dataclasses.replace(
        load,
        arrival=arrival,
        requests=load.requests if requests is None else requests,
        concurrency=load.concurrency if changes.concurrency is None else changes.concurrency,
        seed=load.seed if changes.seed is None else changes.seed,
        slo=load.slo if changes.slo is None else _slo(changes.slo),
    )
    if ramp is not None:
        stages = ramp.stages(load.requests if requests is None else requests)
        load = dataclasses.replace(load, stages=stages, requests=sum(stage.requests for stage in stages))
    check_scenario(dataclasses.replace(scenario, load=load), "command line")
    return load


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ramp:
    """The values of a ramp's stages: requests a second, or clients."""

    over_rate: bool
    values: tuple[float, ...]

    def stages(self, requests: int) -> tuple[StageSpec, ...]:
        """Make stages of `requests` requests each."""
        if self.over_rate:
            return tuple(StageSpec(requests=requests, request_rate=value) for value in self.values)
        return tuple(StageSpec(requests=requests, concurrency=int(value)) for value in self.values)


def _ramp(text: str, changes: LoadChanges) -> _Ramp:
    """Read `clients=1,8,32` or `rate=10,20,40`.

    Raises:
        UsageError: it is neither, or something else on the command line says the same.
    """
    found = _RAMP.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--ramp {text} is no ramp", hint="give clients=1,8,32 (a closed loop) or rate=10,20,40 (requests a second)"
        )
    over_rate = found["over"] == "rate"
    given: dict[str, object] = {"--trace": changes.trace, "--rate": changes.rate}
    if not over_rate:
        given |= {"--arrival": changes.arrival, "--concurrency": changes.concurrency}
    if excluded := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"--ramp {text} and {excluded[0]} exclude each other", hint="leave one of them out")
    values = tuple(float(value) for value in found["values"].split(","))
    if not over_rate and any(value != int(value) for value in values):
        raise UsageError(f"--ramp {text}: clients are whole numbers")
    return _Ramp(over_rate=over_rate, values=values)


def _slo(text: str) -> SloSpec:
    """Read `ttft=500,e2e=2000,tpot=50`, any of them, in milliseconds.

    Raises:
        UsageError: it is something else.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    names = [name for name, _, _ in pairs]
    if not all(name in _LIMITS and _NUMBER.fullmatch(value) for name, _, value in pairs) or len({*names}) < len(names):
        raise UsageError(
            f"--slo {text} is no service level", hint="give milliseconds, any of ttft=500,e2e=2000,tpot=50"
        )
    return SloSpec(**{f"{name}_ms": float(value) for name, _, value in pairs})


def _arrival(arrival: ArrivalSpec | None, changes: LoadChanges) -> ArrivalSpec:
    if changes.arrival is ArrivalKind.TRACE and (arrival is None or arrival.trace_file is None):
        raise UsageError("--arrival trace needs a trace", hint="give --trace FILE")
    if arrival is None and changes.rate is None:
        raise UsageError("--arrival needs a rate, and the scenario has none", hint="give --rate REQUESTS_PER_SECOND")
    known = arrival or ArrivalSpec(kind=ArrivalKind.POISSON)
    kind = changes.arrival or known.kind
    return dataclasses.replace(
        known,
        kind=kind,
        request_rate=known.request_rate if changes.rate is None else changes.rate,
        trace_file=known.trace_file if kind is ArrivalKind.TRACE else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """What a server that was driven once gave; `veto` says why it tells of the generator instead, if it does."""

    load: LoadSpec
    result: LoadResult
    veto: str | None


def drive(url: str, load: LoadSpec, *, model: str, progress: Progress, warmup: int = 0) -> Driven:
    """Send the measured requests of `load` to the server at `url`, after `warmup` others that are not measured.

    Raises:
        UsageError: `url` is none, or the load cannot be built.
        PerfguardError: nothing answers there.
    """
    check_answers(url)
    progress.step(f"making {load.requests + warmup} requests")
    schedule = in_stages(load, build_schedule(load, requests=load.requests, model=model, usage=True))
    send = partial(run_load, url, concurrency=load.concurrency, timeout_s=load.request_timeout_s, progress=progress)
    if warmup:
        send(build_schedule(load, requests=warmup, offset=load.requests, model=model, usage=True))
    result = send(schedule, slo=load.slo)
    return Driven(load=load, result=result, veto=generator_veto(result))


def check_answers(url: str) -> None:
    """Connect to the server once, before minutes go into a load that nobody answers.

    Raises:
        UsageError: `url` is none.
        PerfguardError: nothing listens there.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--url {url}: {error}", hint="for example: --url http://127.0.0.1:30000") from error
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise UsageError(f"--url {url} is no server's address", hint="for example: --url http://127.0.0.1:30000")
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise PerfguardError(
            f"nothing answers at {url}: {error.strerror or error}", hint="start the server, or correct --url"
        ) from error
