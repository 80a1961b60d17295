"""Holding the GIL and waiting for it, by Python frame: who waits where, and what held the GIL meanwhile.

How long a thread held the GIL and waited for it is what `evidence.gil` tells of it; the stacks that were read in the
looks that found it so only divide that time among the places in the code. Looks whose stack could not be read have a
frame that says so, so that the sum stays true.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perfguard.evidence.gil import gil_seconds
from perfguard.evidence.stacks import function_key, merge, parse_folded, parse_frame
from perfguard.model.gil_stacks import GilLayers, GilStacks
from perfguard.model.profile import Frame, Stack
from perfguard.model.recording import GilFrame, HeldMeanwhile
from perfguard.model.threads import GilAnswer, ProcessTicks, ThreadTicks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

UNREAD = Frame(function="<stack could not be read>", file="", line=0)
NO_PYTHON = Frame(function="<no Python code>", file="", line=0)
NOBODY = Frame(function="<nobody, or not to be told>", file="", line=0)
_MICROSECONDS = 1e6
_US_PER_MS = 1000.0
_MOST_PAIRS = 300
_NOT_ASKED = "its stacks were not asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class GilCosts:
    """The stacks of a process that held its GIL and that waited for it; `samples` of a stack are microseconds.

    `meanwhile` has stacks of two frames: the innermost one that waited, and the innermost one that held the GIL.
    `unknown` says why there are none, and is empty where there may be.
    """

    looks: int
    holding: tuple[Stack, ...] = ()
    waiting: tuple[Stack, ...] = ()
    meanwhile: tuple[Stack, ...] = ()
    unknown: str = ""


def gil_costs(process: ProcessTicks) -> GilCosts:
    """Divide the time that each thread of a process held the GIL and waited for it among its stacks."""
    found = process.gil_stacks
    unknown = process.gil_reason if process.gil is not GilAnswer.WATCHED else found.unknown if found else _NOT_ASKED
    if found is None or unknown:
        return GilCosts(looks=process.ticks, unknown=unknown)
    stacks = [_frames(stack.frames) for stack in found.stacks]
    holding: list[Stack] = []
    waiting: list[Stack] = []
    meanwhile: list[Stack] = []
    for thread in process.threads:
        if thread.gil_unknown:
            continue
        own = [(place, stack) for place, stack in enumerate(found.stacks) if stack.tid == thread.tid]
        hold_s, wait_s = gil_seconds(thread)
        held = [(stacks[place], stack.hold_ticks) for place, stack in own]
        waited = [(stacks[place], stack.wait_ticks) for place, stack in own]
        holding += _divided(thread, hold_s, thread.gil_hold_ticks, held, unread=(UNREAD,))
        waiting += _divided(thread, wait_s, thread.gil_wait_ticks, waited, unread=(UNREAD,))
        pairs = _pairs(found, stacks, {place for place, _ in own})
        meanwhile += _divided(thread, wait_s, thread.gil_wait_ticks, pairs, unread=(UNREAD, NOBODY))
    return GilCosts(looks=process.ticks, holding=merge(holding), waiting=merge(waiting), meanwhile=merge(meanwhile))


def add_costs(costs: Sequence[GilCosts]) -> GilCosts:
    """Add up what several processes of one role did; a reason of one stands for all only where none could be told."""
    known = [each for each in costs if not each.unknown]
    if not known:
        return costs[0] if costs else GilCosts(looks=0, unknown="not watched")
    return GilCosts(
        looks=sum(each.looks for each in known),
        holding=merge(*(each.holding for each in known)),
        waiting=merge(*(each.waiting for each in known)),
        meanwhile=merge(*(each.meanwhile for each in known)),
    )


def read_costs(texts: Mapping[str, str], *, looks: int, unknown: str, strip_prefixes: Sequence[str] = ()) -> GilCosts:
    """Read costs back from their folded stacks by name: `holding`, `waiting`, `meanwhile`.

    Raises:
        PerfguardError: a text is no folded stacks.
    """
    read = {name: parse_folded(text, strip_prefixes=strip_prefixes) for name, text in texts.items()}
    return GilCosts(looks=looks, unknown=unknown, **read)


def with_names(costs: GilCosts, stacks: Iterable[Stack]) -> GilCosts:
    """Name threads as other stacks of the same processes do: by Python's names, where the kernel's are cut off."""
    names = {stack.tid: stack.thread for stack in stacks if stack.tid and stack.thread}

    def renamed(of: tuple[Stack, ...]) -> tuple[Stack, ...]:
        return tuple(replace(stack, thread=names.get(stack.tid, stack.thread)) for stack in of)

    return replace(
        costs, holding=renamed(costs.holding), waiting=renamed(costs.waiting), meanwhile=renamed(costs.meanwhile)
    )


def gil_layers(trials: Sequence[tuple[GilCosts, float]]) -> GilLayers | None:
    """Merge the costs of one role over trials, each with what it is divided by (its requests); None without any.

    Costs are means over the trials in which they could be told, in milliseconds.
    """
    if not trials:
        return None
    known = [(costs, divisor) for costs, divisor in trials if not costs.unknown and divisor > 0]
    if not known:
        return GilLayers(looks=0, unknown=next((costs.unknown for costs, _ in trials if costs.unknown), "not watched"))
    holding, holding_threads = _mean([(costs.holding, divisor) for costs, divisor in known])
    waiting, waiting_threads = _mean([(costs.waiting, divisor) for costs, divisor in known])
    pairs: dict[tuple[str, str], float] = {}
    for costs, divisor in known:
        for stack in costs.meanwhile:
            waited, held = (_function(frame) for frame in stack.frames)
            pairs[waited, held] = pairs.get((waited, held), 0.0) + stack.samples / _US_PER_MS / divisor / len(known)
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return GilLayers(
        looks=sum(costs.looks for costs, _ in known),
        holding=holding,
        holding_threads=holding_threads,
        waiting=waiting,
        waiting_threads=waiting_threads,
        meanwhile=tuple((waited, held, ms) for (waited, held), ms in ranked[:_MOST_PAIRS]),
    )


def most_waiting(layers: GilLayers | None) -> str:
    """Say in a sentence which function waits most and what holds the GIL meanwhile; empty where that is not known."""
    if layers is None or not layers.meanwhile:
        return ""
    waiting, holding, ms = layers.meanwhile[0]
    whole = sum(each for _, _, each in layers.meanwhile)
    return f"Most of the waiting ({ms / whole:.0%} of {whole:.3g} ms/request): {waiting}, while {holding} holds it."


def top_frames(costs: GilCosts, *, most: int) -> tuple[GilFrame, ...]:
    """Tell which functions held the GIL and waited for it, by the innermost frame; those that waited most first.

    Args:
        costs: of one process.
        most: how many functions that waited, and how many that held it, at the most.
    """
    held, waited = _by_function(costs.holding), _by_function(costs.waiting)
    shown = [*_largest(waited, most), *_largest(held, most)]
    return tuple(
        GilFrame(
            frame=name,
            hold_s=held.get(name, 0.0),
            wait_s=waited.get(name, 0.0),
            held_meanwhile=_meanwhile(costs.meanwhile, name, most),
        )
        for name in dict.fromkeys(shown)
    )


def _by_function(stacks: Sequence[Stack]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for stack in stacks:
        name = _function(stack.frames[-1])
        seconds[name] = seconds.get(name, 0.0) + stack.samples / _MICROSECONDS
    return seconds


def _largest(seconds: Mapping[str, float], most: int) -> list[str]:
    return sorted(seconds, key=lambda name: (-seconds[name], name))[:most]


def _meanwhile(pairs: Sequence[Stack], waiting: str, most: int) -> tuple[HeldMeanwhile, ...]:
    of_it = [stack for stack in pairs if _function(stack.frames[0]) == waiting]
    held = _by_function(of_it)
    whole = sum(held.values())
    return tuple(HeldMeanwhile(frame=name, wait_frac=held[name] / whole) for name in _largest(held, most))


def frame_name(frame: Frame) -> str:
    """Name a frame as other layers do; one that stands for no code has no file."""
    return str(frame) if frame.file else frame.function


def _function(frame: Frame) -> str:
    return function_key(frame) if frame.file else frame.function


def _frames(names: Iterable[str]) -> tuple[Frame, ...]:
    return tuple(parse_frame(name) for name in names) or (NO_PYTHON,)


def _pairs(
    found: GilStacks, stacks: Sequence[tuple[Frame, ...]], places: set[int]
) -> list[tuple[tuple[Frame, ...], int]]:
    return [
        ((stacks[pair.waiting][-1], NOBODY if pair.holding is None else stacks[pair.holding][-1]), pair.ticks)
        for pair in found.pairs
        if pair.waiting in places
    ]


def _divided(
    thread: ThreadTicks,
    seconds: float,
    ticks: int,
    stacks: Sequence[tuple[tuple[Frame, ...], int]],
    *,
    unread: tuple[Frame, ...],
) -> list[Stack]:
    """Divide a thread's time by its looks; what the stacks lack of `ticks` could not be read."""
    if not ticks:
        return []
    parts = [*stacks, (unread, ticks - sum(count for _, count in stacks))]
    return [
        Stack(thread=thread.name, tid=thread.tid, frames=frames, samples=microseconds)
        for frames, count in parts
        if (microseconds := round(seconds * _MICROSECONDS * count / ticks)) > 0
    ]


_Costs = tuple[tuple[tuple[str, ...], float], ...]


def _mean(trials: Sequence[tuple[Sequence[Stack], float]]) -> tuple[_Costs, tuple[str, ...]]:
    """Give the mean cost of every stack in milliseconds, and the thread that each was seen in most."""
    costs: dict[tuple[str, ...], float] = {}
    threads: dict[tuple[str, ...], dict[str, float]] = {}
    for stacks, divisor in trials:
        for stack in stacks:
            names = tuple(frame_name(frame) for frame in stack.frames)
            ms = stack.samples / _US_PER_MS / divisor / len(trials)
            costs[names] = costs.get(names, 0.0) + ms
            shares = threads.setdefault(names, {})
            shares[stack.thread] = shares.get(stack.thread, 0.0) + ms
    ordered = tuple(sorted(costs.items()))
    return ordered, tuple(max(threads[names].items(), key=lambda item: (item[1], item[0]))[0] for names, _ in ordered)
