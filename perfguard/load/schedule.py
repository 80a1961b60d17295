"""The frozen schedule: every request of a load, in order, ready to send; the same for every revision of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfguard.load import media
from perfguard.load.arrivals import due_times_s
from perfguard.load.trace import TraceEntry, read_trace
from perfguard.model.errors import UsageError
from perfguard.model.scenario import AnswerKind

if TYPE_CHECKING:
    from perfguard.model.scenario import LoadSpec, RequestSpec

CHAT_PATH = "/v1/chat/completions"

_NUMBER_DIGITS = 7
MIN_PROMPT_CHARS = _NUMBER_DIGITS + 1
_WORD_LIST = (
    "amber anchor apple arrow autumn basket beacon birch bottle branch bridge bronze candle canyon carbon castle "
    "cedar circle cloud cobalt copper coral cotton crystal dawn desert drift eagle ember fabric falcon feather "
    "field flint forest frost garden glacier granite harbor hazel helmet hollow horizon island ivory jasper "
    "kettle"
)
_WORDS = _WORD_LIST.split()
_IMAGE_MARK = "@image-{}@"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRequest:
    """One request: its number in the whole schedule and its body, cut where the images stand.

    Requests share the bytes of an image, so a schedule costs the memory of its distinct images only. `due_s` is when
    it is due in the whole schedule, in seconds; None in a closed loop. `output_tokens` is what it asks for, None where
    that is not known.
    """

    index: int
    parts: tuple[bytes, ...]
    method: str = "POST"
    path: str = CHAT_PATH
    content_type: str = "application/json"
    answer: AnswerKind = AnswerKind.OPENAI_STREAM
    due_s: float | None = None
    output_tokens: int | None = None

    @property
    def body(self) -> bytes:
        """The request's body, as one piece."""
        return b"".join(self.parts)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Requests in the order in which they are sent, with at most `concurrency` in flight."""

    requests: tuple[ScheduledRequest, ...]
    concurrency: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the concurrency and every request; equal digests mean equal loads."""
        sha = hashlib.sha256(f"concurrency={self.concurrency}\n".encode())
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

    return PhasedSchedule(
        warmup=piece(load.warmup_requests),
        settling=piece(load.settling_requests),
        measured=piece(load.requests),
        profiled=piece(load.profiled_requests),
        digest=whole.digest,
    )


def build_schedule(load: LoadSpec, *, requests: int | None = None, offset: int = 0, model: str = "default") -> Schedule:
    """Build `requests` requests of the endless sequence that `load` describes, from number `offset` on.

    `requests` None means all of a trial's: warm-up, settling, measured and profiled. The same `load` and number always
    give the same body. Every prompt starts with text of its own, so that no server answers it from a prefix cache;
    images repeat after `load.distinct_images`. Sampling is greedy and ignores the end token, so the output's length is
    fixed. A trace gives every request its lengths; a word of its prompt stands for a token, which it is to most
    tokenizers.

    Raises:
        UsageError: too short a prompt to be unique, no image to choose from, a count below one, or no such trace.
    """
    own = load.warmup_requests + load.settling_requests + load.requests + load.profiled_requests
    total = own if requests is None else requests
    _check(load, last=offset + total - 1)
    numbers = range(offset, offset + total)
    arrival = load.arrival
    if arrival is None:
        closed = tuple(_request(load, number, model) for number in numbers)
        return Schedule(requests=closed, concurrency=load.concurrency)
    trace = read_trace(Path(arrival.trace_file)) if arrival.trace_file is not None else ()
    due_s = due_times_s(arrival, seed=load.seed, count=offset + total, trace=trace)
    return Schedule(
        requests=tuple(
            dataclasses.replace(
                _request(load, number, model, trace[number % len(trace)] if trace else None), due_s=due_s[number]
            )
            for number in numbers
        ),
        concurrency=load.concurrency,
    )


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
    if last >= 10**_NUMBER_DIGITS:
        raise UsageError(f"the load has more than {10**_NUMBER_DIGITS} requests; ask for fewer")
    if load.image is not None and (load.distinct_images < 1 or load.image.count < 1):
        raise UsageError(
            f"the load's distinct_images ({load.distinct_images}) and images per request ({load.image.count}) must be "
            "at least 1"
        )


def _request(load: LoadSpec, number: int, model: str, entry: TraceEntry | None = None) -> ScheduledRequest:
    """Build request `number`, as long as `entry` says: its JSON is written with marks for the images and cut there."""
    prompt = _prompt(load.seed, number, load.prompt_chars) if entry is None else _words(load.seed, number, entry)
    output_tokens = load.output_tokens if entry is None else entry.output_length
    if load.request is not None:
        return _own_request(load.request, number, prompt)
    content: list[dict[str, object]] = [{"type": "text", "text": prompt}]
    images = _images(load, number)
    content += [{"type": "image_url", "image_url": {"url": _IMAGE_MARK.format(place)}} for place in range(len(images))]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    rest = json.dumps(body, separators=(",", ":")).encode()
    parts: list[bytes] = []
    for place, image in enumerate(images):
        before, _, rest = rest.partition(_IMAGE_MARK.format(place).encode())
        parts += [before, image]
    return ScheduledRequest(index=number, parts=(*parts, rest), output_tokens=output_tokens)


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


def _images(load: LoadSpec, number: int) -> tuple[bytes, ...]:
    """Choose the images of request `number`: the set is walked through in order, again and again."""
    if load.image is None:
        return ()
    urls = media.data_urls(load.image, load.seed, load.distinct_images)
    first = number * load.image.count
    return tuple(urls[(first + place) % len(urls)] for place in range(load.image.count))


def _prompt(seed: int, number: int, chars: int) -> str:
    """Write `chars` characters of words, led by the request's number.

    The number's digits are reversed: neighbours then differ in their first token already.
    """
    return " ".join(_led_words(seed, number, chars // 4 + 1))[:chars]


def _words(seed: int, number: int, entry: TraceEntry) -> str:
    """Write a prompt of as many words as `entry` has tokens, led by the request's number."""
    return " ".join(_led_words(seed, number, entry.input_length - 1))


def _led_words(seed: int, number: int, count: int) -> tuple[str, ...]:
    words = random.Random(f"{seed}:{number}").choices(_WORDS, k=count)  # noqa: S311 - a seeded text, no secret
    lead = f"{number:0{_NUMBER_DIGITS}d}"[::-1]
    return (lead, *words)
