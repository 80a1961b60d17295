"""speedscope's JSON: sampled and evented profiles as stacks.

Source: https://www.speedscope.app/file-format-schema.json
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from perfguard.evidence.stacks import FrameTable, read_thread
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame, Stack

# In microseconds; bytes and counts of other things are no time.
_MICROSECONDS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}
_COUNTS = "none"
_THREAD = re.compile(r'(?:Process \d+ )?Thread (?P<tid>0[xX][0-9a-fA-F]{1,16}|\d{1,7})(?: "(?P<name>.*)")?', re.DOTALL)
# Deeper stacks than Python's own limits allow come from damaged or hostile files only.
_MAX_DEPTH = 20_000
# An evented file of some megabytes may stand for stacks of many gigabytes; this is 160 MB of references.
_MAX_TOTAL_FRAMES = 20_000_000
_MAX_WEIGHT = 1e15
_EVEN = 1e-6

Indices = tuple[int, ...]


class _Frame(msgspec.Struct):
    name: str
    file: str | None = None
    line: float | None = None


class _Shared(msgspec.Struct):
    frames: list[_Frame]


class _Event(msgspec.Struct):
    type: str
    at: float
    frame: int


class _Profile(msgspec.Struct):
    type: str
    unit: str
    name: str = ""
    samples: list[msgspec.Raw] = []
    weights: list[float] = []
    events: list[_Event] = []


class _File(msgspec.Struct):
    shared: _Shared
    profiles: list[_Profile]


def read_speedscope(data: bytes, *, strip_prefixes: Sequence[str] = ()) -> tuple[tuple[Stack, ...], float | None, bool]:
    """Read a speedscope file; one profile in it is one thread.

    Returns:
        The stacks; the seconds between two samples, where the file's samples are even; and whether the stacks'
        `samples` are microseconds (events, or samples of uneven weight) and not samples.

    Raises:
        PerfguardError: it is no JSON, no speedscope file, counts something else than time, or contradicts itself.
    """
    try:
        document = msgspec.json.decode(data.lstrip(b"\xef\xbb\xbf"), type=_File)
    except RecursionError as error:
        raise PerfguardError("it is JSON nested too deep to be a profile") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PerfguardError(
            f"it is JSON, but no speedscope file: {error}", hint="a file that was cut off has to be recorded again"
        ) from error
    table = FrameTable(strip_prefixes, lambda name: Frame(function=name, file="", line=0))
    frames = [table.add(_frame(frame)) for frame in document.shared.frames]
    interval_us = _even_interval_us(document.profiles)
    stacks: list[Stack] = []
    for number, profile in enumerate(document.profiles):
        of_profile = _thread(profile.name)
        for indices, weight in _weights(profile, frames, number, interval_us):
            samples = round(weight)
            if samples > 0:
                stack = tuple([table.frames[index] for index in indices])
                # py-spy repeats the thread as the outermost frame when it was asked for threads.
                of_stack = read_thread(stack[0].function) if stack and not stack[0].file else None
                thread, tid = of_stack or of_profile
                frames_only = stack[1:] if of_stack else stack
                stacks.append(Stack(thread=thread, tid=tid, frames=frames_only, samples=samples))
    timed = interval_us is None
    return tuple(stacks), interval_us / 1e6 if interval_us else None, timed


def _even_interval_us(profiles: Sequence[_Profile]) -> float | None:
    """Return the one time that all samples stand for; 0.0 where the file only counts, None where they differ."""
    smallest, largest = math.inf, 0.0
    counted = timed = False
    for profile in profiles:
        if profile.type == "evented":
            timed = True
        if profile.unit == _COUNTS:
            counted = True
            continue
        scale = _scale(profile)
        smallest = min(smallest, min(profile.weights, default=math.inf) * scale)
        largest = max(largest, max(profile.weights, default=0.0) * scale)
    if counted and (timed or largest > 0.0):
        raise PerfguardError("it holds counts beside times", hint="export its profiles one by one")
    if counted:
        return 0.0
    even = not timed and smallest > 0.0 and largest - smallest <= _EVEN * largest
    return largest if even and math.isfinite(smallest) else None


def _weights(
    profile: _Profile, frames: Sequence[int], number: int, interval_us: float | None
) -> Iterable[tuple[Indices, float]]:
    if profile.type == "evented":
        return _evented(profile, frames, number).items()
    if profile.type != "sampled":
        raise PerfguardError(f"profile {number} is of the unknown type {profile.type[:40]!r}")
    if len(profile.weights) != len(profile.samples):
        raise PerfguardError(
            f"profile {number} has {len(profile.samples)} samples, but {len(profile.weights)} weights",
            hint="a file that was cut off has to be recorded again",
        )
    if not all(0.0 <= weight <= _MAX_WEIGHT for weight in profile.weights):
        raise PerfguardError(f"profile {number} holds a weight that is negative or beyond all measure")
    # Most samples repeat an earlier one, text and all: each text is read once.
    totals: dict[bytes, float] | Counter[bytes]
    if interval_us:
        totals = Counter(map(bytes, profile.samples))
    else:
        totals = {}
        scale = _scale(profile)
        for raw, weight in zip(profile.samples, profile.weights, strict=True):
            text = bytes(raw)
            totals[text] = totals.get(text, 0.0) + weight * scale
    sampled: dict[Indices, float] = {}
    for text, weight in totals.items():
        indices = _indices(text, frames, number)
        sampled[indices] = sampled.get(indices, 0.0) + weight
    return sampled.items()


def _indices(text: bytes, frames: Sequence[int], number: int) -> Indices:
    try:
        places = msgspec.json.decode(text, type=list[int])
    except (msgspec.DecodeError, RecursionError) as error:
        raise PerfguardError(f"profile {number} holds a sample that is no list of frames: {error}") from error
    if places and not 0 <= min(places) <= max(places) < len(frames):
        raise PerfguardError(f"profile {number} names frame {max(places)}, but there are only {len(frames)}")
    return tuple([frames[place] for place in places])


def _evented(profile: _Profile, frames: Sequence[int], number: int) -> dict[Indices, float]:
    """Give every stack the time in which it was the open one."""
    scale = _scale(profile)
    # A stack is a chain of nodes (its caller's node, its innermost frame), so that each event costs the same.
    nodes: dict[tuple[int, int], int] = {}
    chain: list[tuple[int, int]] = []
    spent: dict[int, float] = {}
    node, depth, last_at = -1, 0, -math.inf
    for event in profile.events:
        if not last_at <= event.at <= _MAX_WEIGHT:
            raise PerfguardError(f"profile {number} goes back in time, at {event.at!r}")
        if node >= 0:
            spent[node] = spent.get(node, 0.0) + (event.at - last_at) * scale
        last_at = event.at
        if not 0 <= event.frame < len(frames):
            raise PerfguardError(f"profile {number} names frame {event.frame}, but there are only {len(frames)}")
        if event.type == "O":
            key = (node, event.frame)
            if key not in nodes:
                nodes[key] = len(chain)
                chain.append(key)
            node, depth = nodes[key], depth + 1
        elif event.type == "C" and node >= 0 and chain[node][1] == event.frame:
            node, depth = chain[node][0], depth - 1
        else:
            raise PerfguardError(f"profile {number} closes frame {event.frame}, which is not the innermost open one")
        if depth > _MAX_DEPTH:
            raise PerfguardError(f"profile {number} is deeper than {_MAX_DEPTH} frames")
    if node >= 0:
        raise PerfguardError(f"profile {number} ends with {depth} frames open", hint="it was cut off: record it again")
    return _unchained({each: weight for each, weight in spent.items() if weight > 0.0}, chain, frames, number)


def _unchained(
    spent: dict[int, float], chain: Sequence[tuple[int, int]], frames: Sequence[int], number: int
) -> dict[Indices, float]:
    stacks: dict[Indices, float] = {}
    total = 0
    for node, weight in spent.items():
        path = []
        while node >= 0:
            node, frame = chain[node]  # noqa: PLW2901 - walks from the leaf to the root
            path.append(frames[frame])
        total += len(path)
        if total > _MAX_TOTAL_FRAMES:
            raise PerfguardError(f"profile {number} holds more than {_MAX_TOTAL_FRAMES} frames over all its stacks")
        indices = tuple(reversed(path))
        stacks[indices] = stacks.get(indices, 0.0) + weight
    return stacks


def _scale(profile: _Profile) -> float:
    if profile.unit == _COUNTS:
        return 1.0
    if profile.unit not in _MICROSECONDS:
        raise PerfguardError(
            f"it counts {profile.unit[:40]}, not time or samples", hint="record it with a profiler of time"
        )
    return _MICROSECONDS[profile.unit]


def _frame(frame: _Frame) -> Frame:
    line = frame.line or 0.0
    return Frame(function=frame.name, file=frame.file or "", line=int(line) if 0.0 < line < _MAX_WEIGHT else 0)


def _thread(name: str) -> tuple[str, int]:
    match = _THREAD.fullmatch(name)
    if match is None:
        return name, 0
    tid = match["tid"]
    return match["name"] or "", 0 if tid[:2].lower() == "0x" else int(tid)
