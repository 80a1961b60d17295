"""Packs the profiles of a result for the flamegraph viewer, within a budget of bytes.

The packed form is plain JSON data: one table of frame names, and for every side and role a tree in preorder as a flat
list of (depth, frame, self ms) triples. The viewer merges the trees of the two sides that are looked at.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.report.words import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perfguard.model.result import GrownFrame, RoleProfile

PRUNED_FRAME = "(pruned: small stacks)"
_FRAME_NAME_LIMIT = 500
_DIGITS = 6
_FULL_ENOUGH = 0.95

Stacks = tuple[tuple[tuple[str, ...], float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The profiles of one revision, under the name that the viewer shows."""

    name: str
    label: str
    profiles: tuple[RoleProfile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What goes into the page: `json_text`, safe inside a script element, and what was left out to keep it small.

    `pruned_share` is the largest share of one profile's CPU time that was pruned.
    """

    json_text: str
    stacks: int
    pruned_stacks: int
    pruned_below_ms: float
    pruned_share: float


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node]
    self_ms: float = 0.0


def script_safe(document: object) -> str:
    """Write `document` as JSON that cannot end a script element, open a comment or break a line of JavaScript.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def pack(sides: Sequence[Side], grown: Sequence[GrownFrame], *, budget_bytes: int) -> Packed:
    """Pack every profile of `sides`; where that is larger than `budget_bytes`, drop the smallest stacks first.

    The time of a dropped stack is kept under one frame that says so: every total stays true. With no room at all only
    that frame is left. `grown` tells the viewer which changes lie outside the noise.
    """
    costs = sorted(ms for side in sides for profile in side.profiles for _, ms in _usable(profile.stacks))
    text = _encode(sides, grown, 0.0)
    floor_ms = 0.0
    if len(text) > budget_bytes and costs:
        text, floor_ms = _prune(sides, grown, costs, budget_bytes)
    return Packed(
        json_text=text,
        stacks=len(costs),
        pruned_stacks=sum(1 for ms in costs if ms < floor_ms),
        pruned_below_ms=floor_ms if math.isfinite(floor_ms) else (costs[-1] if costs else 0.0),
        pruned_share=max((_share_below(p.stacks, floor_ms) for s in sides for p in s.profiles), default=0.0),
    )


def _prune(
    sides: Sequence[Side], grown: Sequence[GrownFrame], costs: Sequence[float], budget_bytes: int
) -> tuple[str, float]:
    """Find the most stacks that fit; close to the budget is good enough, since every try packs all of them again."""
    floor_ms = math.inf
    text = _encode(sides, grown, floor_ms)
    low, high = 0, len(costs)  # the smallest index whose `costs[index:]` fit lies between
    while low < high and len(text) < _FULL_ENOUGH * budget_bytes:
        middle = (low + high) // 2
        tried = _encode(sides, grown, costs[middle])
        if len(tried) <= budget_bytes:
            high, text, floor_ms = middle, tried, costs[middle]
        else:
            low = middle + 1
    return text, floor_ms


def _usable(stacks: Stacks) -> Stacks:
    return tuple((frames, ms) for frames, ms in stacks if ms > 0 and math.isfinite(ms))


def _share_below(stacks: Stacks, floor_ms: float) -> float:
    usable = _usable(stacks)
    total = sum(ms for _, ms in usable)
    return sum(ms for _, ms in usable if ms < floor_ms) / total if total else 0.0


def _encode(sides: Sequence[Side], grown: Sequence[GrownFrame], floor_ms: float) -> str:
    numbers: dict[str, int] = {}
    packed_sides = [
        {
            "name": side.name,
            "label": shorten(side.label, _FRAME_NAME_LIMIT),
            "roles": {
                profile.role: {
                    "samples": profile.samples,
                    "trials": profile.trials,
                    "nodes": _flatten(_tree(profile.stacks, floor_ms), numbers),
                }
                for profile in side.profiles
            },
        }
        for side in sides
    ]
    changes: dict[str, dict[str, object]] = {}
    for frame in grown:
        interval = [_finite(frame.low_ms), _finite(frame.high_ms), frame.significant]
        changes.setdefault(frame.role, {})[shorten(frame.frame, _FRAME_NAME_LIMIT)] = interval
    return script_safe({"frames": list(numbers), "sides": packed_sides, "changes": changes})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _tree(stacks: Stacks, floor_ms: float) -> _Node:
    root = _Node(children={})
    for frames, ms in _usable(stacks):
        node = root
        for name in frames if ms >= floor_ms else (PRUNED_FRAME,):
            node = node.children.setdefault(shorten(name, _FRAME_NAME_LIMIT), _Node(children={}))
        node.self_ms += ms
    return root


def _flatten(root: _Node, numbers: dict[str, int]) -> list[float]:
    """List the tree below `root` in preorder; an explicit pile, since a stack may be deeper than Python's own."""
    flat: list[float] = []
    pile = [(0, name, node) for name, node in reversed(_in_order(root.children))]
    while pile:
        depth, name, node = pile.pop()
        flat += (depth, numbers.setdefault(name, len(numbers)), _rounded(node.self_ms))
        pile += [(depth + 1, child, below) for child, below in reversed(_in_order(node.children))]
    return flat


def _in_order(children: Mapping[str, _Node]) -> list[tuple[str, _Node]]:
    return sorted(children.items())


def _rounded(ms: float) -> float:
    """Round to significant digits: relative accuracy is what a picture needs, and digits cost bytes."""
    if ms == 0:
        return 0
    return round(ms, max(0, _DIGITS - 1 - math.floor(math.log10(ms))))
