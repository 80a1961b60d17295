"""The frozen schedule: every request of a load, in order, ready to send; the same for every revision of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfguard.load.arrivals import due_times_s
from perfguard.load.mix import Carried, carried
from perfguard.load.prompts import MIN_PROMPT_CHARS, NUMBER_DIGITS, prompt_of_chars, prompt_of_trace
from perfguard.load.trace import TraceEntry, read_trace
from perfguard.model.errors import UsageError
from perfguard.model.scenario import AnswerKind

if TYPE_CHECKING:
    from perfguard.model.scenario import LoadSpec, RequestSpec

CHAT_PATH = "/v1/chat/completions"

_MEDIA_MARK = "@media-{}@"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRequest:
    """One request: its number in the whole schedule and its body, cut where images and videos stand.

    Requests share the bytes of an image, so a schedule costs the memory of its distinct images only. `due_s` is when
    it is due in the whole schedule, in seconds; None in a closed loop. `output_tokens` is what it asks for, None where
    that is not known. `media_class` is the class of a mix that it is of, else empty.
    """

    index: int
    parts: tuple[bytes, ...]
    method: str = "POST"
    path: str = CHAT_PATH
    content_type: str = "application/json"
    answer: AnswerKind = AnswerKind.OPENAI_STREAM
    due_s: float | None = None
    output_tokens: int | None = None
    media_class: str = ""

    @property
    def body(self) -> bytes:
        """The request's body, as one piece."""
        return b"".join(self.parts)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Requests in the order in which they are sent, with at most `concurrency` in flight.

    `stages`, where there are any, are pieces of it that follow one another, with a `name` and a concurrency of their
    own; the due times of an open loop begin anew in each.
    """

    requests: tuple[ScheduledRequest, ...]
    concurrency: int
    name: str = ""
    stages: tuple[Schedule, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the concurrency and every request; equal digests mean equal loads."""
        sha = hashlib.sha256(f"concurrency={self.concurrency}\n".encode())
        for stage in self.stages:
            sha.update(f"stage={len(stage.requests)}:{stage.concurrency}\n".encode())
        for request in self.requests:
            sha.update(b"%d:%d\n" % (request.index, sum(map(len, request.parts))))
            if request.due_s is not None:
                sha.update(f"due={request.due_s:.6f}\n".encode())
            if request.answer is not AnswerKind.OPENAI_STREAM or request.path != CHAT_PATH:
                sha.update(f"{request.method} {request.path} {request.content_type} {request.answer.value}\n".encode())
            for part in request.parts:
                sha.update(part)
        return sha.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasedSchedule:
    """The load of a trial: consecutive pieces of one schedule, and the digest of the whole of it.

    A trial begins with `warmup` on a server that was just started and with `settling` on one that was parked.
    """

    warmup: Schedule
    settling: Schedule
    measured: Schedule
    profiled: Schedule
    digest: str


def build_phases(load: LoadSpec, *, model: str = "default") -> PhasedSchedule:
    """Build the warm-up, settling, measured and profiled requests of trials; no two of them share a prompt.

    Every trial replays the same requests, later ones on the same server too: that server must not answer from a cache
    of prompts, which the targets turn off.

    Raises:
        UsageError: `load` cannot be built; see `build_schedule`.
    """
    whole = build_schedule(load, model=model)
    left = iter(whole.requests)

    def piece(requests: int) -> Schedule:
        return Schedule(requests=tuple(itertools.islice(left, requests)), concurrency=load.concurrency)

    warmup, settling = piece(load.warmup_requests), piece(load.settling_requests)
    measured = in_stages(load, piece(load.requests))
    return PhasedSchedule(
        warmup=warmup,
        settling=settling,
        measured=measured,
        profiled=piece(load.profiled_requests),
        digest=hashlib.sha256(f"{whole.digest} {measured.digest}".encode()).hexdigest()
        if load.stages
        else whole.digest,
    )


def in_stages(load: LoadSpec, schedule: Schedule) -> Schedule:
    """Cut `schedule`, the measured requests of `load`, into the load's stages; without any it stays as it is.

    Every stage of an open loop has the same sequence of arrivals, stretched to its own rate.
    """
    if not load.stages:
        return schedule
    left = iter(schedule.requests)
    stages = []
    for spec in load.stages:
        requests = tuple(itertools.islice(left, spec.requests))
        if load.arrival is not None and spec.request_rate is not None:
            arrival = dataclasses.replace(load.arrival, request_rate=spec.request_rate)
            due_s = due_times_s(arrival, seed=load.seed, count=len(requests))
            requests = tuple(dataclasses.replace(each, due_s=due) for each, due in zip(requests, due_s, strict=True))
        concurrency = load.concurrency if spec.concurrency is None else spec.concurrency
        name = f"{concurrency} clients" if spec.request_rate is None else f"{spec.request_rate:g} a second"
        stages.append(Schedule(requests=requests, concurrency=concurrency, name=name))
    return Schedule(
        requests=tuple(request for stage in stages for request in stage.requests),
        concurrency=load.concurrency,
        stages=tuple(stages),
    )


def build_schedule(
    load: LoadSpec, *, requests: int | None = None, offset: int = 0, model: str = "default", usage: bool = False
) -> Schedule:
    """Build `requests` requests of the endless sequence that `load` describes, from number `offset` on.

    `requests` None means all of a trial's: warm-up, settling, measured and profiled. The same `load` and number always
    give the same body. Every prompt starts with text of its own, so that no server answers it from a prefix cache,
    unless a trace says which it shares; images repeat as the load says. Sampling is greedy and ignores the end token,
    so the output's length is fixed; with `usage` the server is asked to tell it all the same. A trace gives every
    request its lengths; a word of its prompt stands for a token, which it is to most tokenizers.

    Raises:
        UsageError: too short a prompt to be unique, no image to choose from, a count below one, or no such trace.
    """
    own = load.warmup_requests + load.settling_requests + load.requests + load.profiled_requests
    total = own if requests is None else requests
    _check(load, last=offset + total - 1)
    numbers = range(offset, offset + total)
    media = carried(load, offset + total)
    arrival = load.arrival
    traced = read_trace(Path(arrival.trace_file)) if arrival is not None and arrival.trace_file is not None else ()
    built = tuple(_request(load, number, media[number], traced, model=model, usage=usage) for number in numbers)
    if arrival is not None:
        due_s = due_times_s(arrival, seed=load.seed, count=offset + total, trace=traced)
        built = tuple(dataclasses.replace(each, due_s=due_s[each.index]) for each in built)
    return Schedule(requests=built, concurrency=load.concurrency)


def _check(load: LoadSpec, *, last: int) -> None:
    """Raise `UsageError` where `load` cannot give requests that differ."""
    if load.concurrency < 1 or load.output_tokens < 1:
        raise UsageError(
            f"the load's concurrency ({load.concurrency}) and output_tokens ({load.output_tokens}) must be at least 1"
        )
    if load.prompt_chars < MIN_PROMPT_CHARS:
        raise UsageError(
            f"the load's prompt_chars is {load.prompt_chars}: at least {MIN_PROMPT_CHARS} are needed to give every "
            "request a prompt of its own"
        )
    if last >= 10**NUMBER_DIGITS:
        raise UsageError(f"the load has more than {10**NUMBER_DIGITS} requests; ask for fewer")
    if load.media and load.image is not None:
        raise UsageError("load.image and load.media exclude each other", hint="make the image a class of load.media")
    if load.stages and sum(stage.requests for stage in load.stages) != load.requests:
        raise UsageError(
            "the load's requests are not the sum of its stages'", hint="leave the stages out, or match them"
        )
    if load.carries_media and load.distinct_images < 1:
        raise UsageError(f"the load's distinct_images is {load.distinct_images}: at least 1 is needed")
    if load.image is not None and load.image.count < 1:
        raise UsageError(f"the load's images per request are {load.image.count}: at least 1 is needed")


def _request(
    load: LoadSpec, number: int, media: Carried, traced: Sequence[TraceEntry] = (), *, model: str, usage: bool
) -> ScheduledRequest:
    """Build request `number`, as long as a trace says: its JSON is written with marks for the media and cut there."""
    if not traced:
        prompt, output_tokens = prompt_of_chars(load.seed, number, load.prompt_chars), load.output_tokens
    else:
        prompt, output_tokens = prompt_of_trace(load.seed, number, traced), traced[number % len(traced)].output_length
    if load.request is not None:
        return _own_request(load.request, number, prompt)
    content: list[dict[str, object]] = [{"type": "text", "text": prompt}]
    marks = [_MEDIA_MARK.format(place) for place in range(len(media.urls))]
    content += [{"type": media.part, media.part: {"url": mark}} for mark in marks]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        **({"stream_options": {"include_usage": True}} if usage else {}),
    }
    rest = json.dumps(body, separators=(",", ":")).encode()
    parts: list[bytes] = []
    for mark, url in zip(marks, media.urls, strict=True):
        before, _, rest = rest.partition(mark.encode())
        parts += [before, url]
    return ScheduledRequest(
        index=number, parts=(*parts, rest), output_tokens=output_tokens, media_class=media.media_class
    )


def _own_request(spec: RequestSpec, number: int, prompt: str) -> ScheduledRequest:
    """Build request `number` as the scenario describes it."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{prompt}", prompt).replace("{number}", str(number))
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return [fill(inner) for inner in value] if isinstance(value, list) else value

    body = fill(spec.text or "") if spec.json is None else json.dumps(fill(spec.json), separators=(",", ":"))
    return ScheduledRequest(
        index=number,
        parts=(body.encode(),),
        method=spec.method,
        path=fill(spec.path),
        content_type=spec.content_type,
        answer=spec.answer,
    )
