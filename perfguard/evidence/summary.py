"""One profile in numbers: its threads, its hottest functions, and what its samples were doing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.eventloop import blocking_site, is_loop_frame
from perfguard.evidence.reading import ProfileFormat, WeightUnit
from perfguard.evidence.stacks import function_key
from perfguard.evidence.stacktable import StackTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfguard.evidence.callsites import CallSites
    from perfguard.evidence.cprofile import FunctionRow
    from perfguard.evidence.reading import ReadProfile
    from perfguard.evidence.stacktable import Ints
    from perfguard.model.profile import Frame, Stack

DEFAULT_TOP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSummary:
    """One thread and how many of the profile's samples are its own."""

    thread: str
    tid: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSummary:
    """One function, `function (file)`: the share of samples that end in it, and that hold it at all."""

    frame: str
    self_frac: float
    total_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSummary:
    """A line, `function (file:line)`, that decided the class of a share of the samples."""

    call_class: CallClass
    site: str
    frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSummary:
    """The threads of asyncio loops: their samples, and the share of them in calls that do not yield.

    `top_site` is the line with most of them, empty where there are none.
    """

    samples: int
    blocked_frac: float
    top_site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSummary:
    """What one profile says. All shares are fractions of one.

    `samples` counts samples, or microseconds where `unit` says so. `class_frac` and `sites` are shares of all samples.
    `pickle_frac` is the share of the samples that are no polling, with its interval at the level asked for; the
    interval takes samples for independent draws and is None where no samples were counted. `unclassed_frac` is the
    share of samples whose class is unknown: their source was not found, or they hold no frame. A cProfile table has
    only `functions`.
    """

    name: str
    role: str
    format: ProfileFormat
    unit: WeightUnit
    interval_s: float | None
    samples: int
    distinct_stacks: int
    threads: tuple[ThreadSummary, ...]
    top_self: tuple[FrameSummary, ...]
    top_total: tuple[FrameSummary, ...]
    class_frac: Mapping[CallClass, float]
    sites: tuple[SiteSummary, ...]
    polling_frac: float
    unclassed_frac: float
    pickle_frac: float
    pickle_low: float | None
    pickle_high: float | None
    loop: LoopSummary | None
    functions: tuple[FunctionRow, ...]


def summarise(
    profile: ReadProfile,
    sites: CallSites,
    *,
    name: str,
    role: str,
    confidence: float = 0.95,
    top: int = DEFAULT_TOP,
) -> ProfileSummary:
    """Summarise one profile.

    Args:
        profile: as read.
        sites: classes its stacks by the source that was running.
        name: what the profile is called.
        role: whose it is.
        confidence: the level of the interval, between 0 and 1.
        top: how many functions and lines to keep of each list.
    """
    counts = _count(profile.stacks, sites)
    whole = counts.samples or 1
    classes = {kind: counts.classes[kind] / whole for kind in CallClass if counts.classes[kind]}
    working = counts.samples - counts.classes[CallClass.POLL]
    low, high = None, None
    if profile.unit is WeightUnit.SAMPLES and working:
        low, high = share_interval(counts.classes[CallClass.PICKLE], working, confidence)
    return ProfileSummary(
        name=name,
        role=role,
        format=profile.format,
        unit=profile.unit,
        interval_s=profile.interval_s,
        samples=counts.samples,
        distinct_stacks=len(profile.stacks),
        threads=_threads(profile.stacks),
        top_self=_ranked(counts, counts.selfs, top),
        top_total=_ranked(counts, counts.totals, top),
        class_frac=classes,
        sites=tuple(
            SiteSummary(call_class=kind, site=str(frame), frac=samples / whole)
            for (kind, frame), samples in counts.sites.most_common(top)
        ),
        polling_frac=counts.classes[CallClass.POLL] / whole,
        unclassed_frac=counts.classes[CallClass.UNKNOWN] / whole,
        pickle_frac=counts.classes[CallClass.PICKLE] / working if working else 0.0,
        pickle_low=low,
        pickle_high=high,
        loop=_loop(counts),
        functions=profile.functions[:top],
    )


def share_interval(part: int, whole: int, confidence: float) -> tuple[float, float]:
    """Bound the true share behind `part` of `whole` independent samples.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22
        (1927).
    """
    reach = float(stats.norm.ppf((1.0 + confidence) / 2.0))
    share, weight = part / whole, reach * reach / whole
    middle = (share + weight / 2.0) / (1.0 + weight)
    half = reach * math.sqrt(share * (1.0 - share) / whole + weight / (4.0 * whole)) / (1.0 + weight)
    # Rounding must not put the share itself outside.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


@dataclass(slots=True, kw_only=True)
class _Counts:
    """Samples of a profile, added up over its stacks."""

    samples: int
    selfs: Counter[str]
    totals: Counter[str]
    classes: Counter[CallClass]
    sites: Counter[tuple[CallClass, Frame]]
    loop_samples: int
    blocked: Counter[Frame]


def _count(stacks: tuple[Stack, ...], sites: CallSites) -> _Counts:
    table = StackTable(stacks)
    counts = _Counts(
        samples=sum(stack.samples for stack in stacks),
        selfs=Counter(),
        totals=Counter(),
        classes=Counter(),
        sites=Counter(),
        loop_samples=0,
        blocked=Counter(),
    )
    _count_functions(table, counts)
    loop_frames = np.array([is_loop_frame(frame) for frame in table.frames], dtype=np.bool_)
    on_loop = table.per_stack(loop_frames[table.index]).tolist()
    for stack, verdict, looping in zip(table.stacks, sites.table(table), on_loop, strict=True):
        counts.classes[verdict.call_class] += stack.samples
        if verdict.site is not None:
            counts.sites[verdict.call_class, verdict.site] += stack.samples
        if looping:
            counts.loop_samples += stack.samples
            blocking = blocking_site(stack.frames, verdict)
            if blocking is not None:
                counts.blocked[blocking] += stack.samples
    # Samples without frames cannot be classed.
    counts.classes[CallClass.UNKNOWN] += counts.samples - int(table.samples.sum())
    return counts


def _count_functions(table: StackTable, counts: _Counts) -> None:
    """Add up the samples that end in each function, and those that hold it: once a stack, however often it recurs."""
    keys: dict[str, int] = {}
    of_frame = np.array([keys.setdefault(function_key(frame), len(keys)) for frame in table.frames], dtype=np.int64)
    functions = of_frame[table.index]
    # Sorted by hand: `np.unique` hashes, which takes ten times as long where nearly all is distinct.
    once = np.sort(table.owners * max(1, len(keys)) + functions)
    once = once[np.append(True, once[1:] != once[:-1])] if len(once) else once
    totals = _add_up(once % max(1, len(keys)), table.samples[once // max(1, len(keys))], len(keys))
    selfs = _add_up(functions[table.ends - 1], table.samples, len(keys))
    counts.totals = Counter(dict(zip(keys, totals, strict=True)))
    counts.selfs = Counter(dict(zip(keys, selfs, strict=True)))


def _add_up(groups: Ints, samples: Ints, count: int) -> list[int]:
    sums = np.zeros(count, dtype=np.int64)
    np.add.at(sums, groups, samples)
    found: list[int] = sums.tolist()
    return found


def _threads(stacks: tuple[Stack, ...]) -> tuple[ThreadSummary, ...]:
    samples: Counter[tuple[str, int]] = Counter()
    for stack in stacks:
        samples[stack.thread, stack.tid] += stack.samples
    return tuple(ThreadSummary(thread=thread, tid=tid, samples=count) for (thread, tid), count in samples.most_common())


def _ranked(counts: _Counts, by: Counter[str], top: int) -> tuple[FrameSummary, ...]:
    whole = counts.samples or 1
    ranked = sorted(((key, samples) for key, samples in by.items() if samples), key=lambda item: (-item[1], item[0]))
    return tuple(
        FrameSummary(frame=key, self_frac=counts.selfs[key] / whole, total_frac=counts.totals[key] / whole)
        for key, _ in ranked[:top]
    )


def _loop(counts: _Counts) -> LoopSummary | None:
    if not counts.loop_samples:
        return None
    top = counts.blocked.most_common(1)
    return LoopSummary(
        samples=counts.loop_samples,
        blocked_frac=sum(counts.blocked.values()) / counts.loop_samples,
        top_site=str(top[0][0]) if top else "",
    )
