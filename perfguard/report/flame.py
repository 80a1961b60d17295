"""Packs the profiles of a result for the flamegraph viewer, within a budget of bytes.

The packed form is a JSON document, deflated and in base64: it cannot leave its script element, and is a fifth of the
size. `docs/report.md` describes it. The trees of all sides of a role are merged into one, in preorder: `up` is how many
levels a node lies above where a child of the node before it would, `frame` its name's number, `self` one list of self
times a side. Nodes of two revisions are one where their frames are equal, lines included; the viewer merges on. The
layers of the GIL, where they are known, are trees of the same form beside it.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass
from operator import neg
from typing import TYPE_CHECKING, Any

from perfguard.report.gil_layers import (
    LAYERS,
    WAIT,
    has_layers,
    layer_sides,
    layer_unit,
    meanwhile_of,
    unknown_of,
    why_no_layers,
)
from perfguard.report.packages import own_package, package_of
from perfguard.report.preorder import Tree, merge, pruned
from perfguard.report.words import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perfguard.model.gil_trial import RoleGil
    from perfguard.model.result import GrownFrame, RoleProfile

FORMAT = 2
CPU = "cpu"
PRUNED_FRAME = "(pruned: small stacks)"
Place = tuple[str, str]  # a layer and a role
Mark = tuple[str, str]  # what the code of a stack was doing, and in which thread; empty where that is not known
_FRAME_NAME_LIMIT = 500
_THREAD_NAME_LIMIT = 60
_DIGITS = 6
_MOST_TURNS = 8
_CLOSE_ENOUGH = 0.9  # of the budget: a closer fit is not worth another turn
_AIM = 0.95
_LEVEL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What the costs of a profile are in: its `name`, an amount of it in a sentence, its symbol, its part in a key."""

    name: str
    amount: str
    symbol: str
    key: str


CPU_MS_PER_REQUEST = Unit(name="CPU ms per request", amount="ms per request", symbol="ms", key="ms_per_request")
SAMPLES = Unit(name="samples", amount="samples", symbol="samples", key="samples")
PERCENT = Unit(name="% of the working samples", amount="% of the working samples", symbol="%", key="percent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The profiles of one revision, under the name that the viewer shows, and what is known of its roles' GIL."""

    name: str
    label: str
    profiles: tuple[RoleProfile, ...]
    gil: tuple[RoleGil, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What goes into the page: `text`, safe inside a script element, and what was left out to keep it small.

    `unit` is what every cost is in.

    `stacks` are the distinct ones of every role. `pruned_below_ms` is the cost under which code was folded into its
    caller, `pruned_share` the largest share of one profile's CPU time that this took.
    """

    text: str
    unit: Unit
    stacks: int
    pruned_stacks: int
    pruned_below_ms: float
    pruned_share: float


def pack(
    sides: Sequence[Side], grown: Sequence[GrownFrame], *, budget_bytes: int, unit: Unit = CPU_MS_PER_REQUEST
) -> Packed:
    """Pack every profile of `sides`; where that is larger than `budget_bytes`, fold the cheapest code into its callers.

    The time of what goes is kept under one frame of its caller that says so: every total, and every self time that is
    left, stays true. With no room at all only that frame is left. `grown` tells the viewer which changes lie outside
    the noise.
    """
    names: dict[str, int] = {}
    marks: dict[Mark, int] = {("", ""): 0}
    roles = sorted({profile.role for side in sides for profile in side.profiles})
    layers = {CPU: sides, **({name: layer_sides(sides, name) for name in LAYERS} if has_layers(sides) else {})}
    whole = {
        (layer, role): merge([_numbered(side, role, names, marks) for side in of_layer])
        for layer, of_layer in layers.items()
        for role in roles
    }
    packer = _Packer(layers, grown, list(names), list(marks), unit)
    floor_ms, trees = 0.0, whole
    text = packer.text(whole)
    if len(text) > budget_bytes:
        floor_ms, trees, text = _fit(packer, whole, budget_bytes, len(text))
    stacks = sum(tree.stacks for tree in whole.values())
    left = sum(tree.stacks - tree.frame.count(packer.pruned) for tree in trees.values())
    costs = [weight for tree in whole.values() for weight in tree.weights]
    return Packed(
        text=text,
        unit=unit,
        stacks=stacks,
        pruned_stacks=stacks - left,
        pruned_below_ms=floor_ms if math.isfinite(floor_ms) else max(costs, default=0.0),
        pruned_share=max((_share_of(packer.pruned, tree) for tree in trees.values()), default=0.0),
    )


def _fit(
    packer: _Packer, whole: Mapping[Place, Tree], budget_bytes: int, size_bytes: int
) -> tuple[float, dict[Place, Tree], str]:
    """Find how much may stay; sizes grow about evenly with the number of nodes, so the next guess is interpolated."""
    weights = sorted((weight for tree in whole.values() for weight in tree.weights), reverse=True)

    def cut(floor_ms: float) -> tuple[float, dict[Place, Tree], str]:
        trees = {place: pruned(tree, floor_ms, packer.pruned) for place, tree in whole.items()}
        return floor_ms, trees, packer.text(trees)

    best = cut(math.inf)
    low, low_bytes, high, high_bytes = 0, len(best[2]), len(weights), size_bytes
    for _ in range(_MOST_TURNS):
        if high - low <= 1 or low_bytes >= _CLOSE_ENOUGH * budget_bytes:
            break
        share = (budget_bytes * _AIM - low_bytes) / max(1, high_bytes - low_bytes)
        keep = min(high - 1, max(low + 1, low + round((high - low) * share)))
        floor_ms = weights[keep - 1]
        tried = cut(floor_ms)
        if len(tried[2]) <= budget_bytes:
            best, low, low_bytes = tried, bisect_right(weights, -floor_ms, key=neg), len(tried[2])
        else:  # nodes of equal weight stay or go together
            high, high_bytes = bisect_left(weights, -floor_ms, key=neg) + 1, len(tried[2])
    return best


def _numbered(
    side: Side, role: str, names: dict[str, int], marks: dict[Mark, int]
) -> dict[tuple[int, ...], tuple[float, int]]:
    """Give the stacks of one role of one side by the numbers of their frames, each with its cost and its mark."""
    numbers = _Numbers(names)
    stacks: dict[tuple[int, ...], tuple[float, int]] = {}
    for profile in side.profiles:
        if profile.role != role:
            continue
        nothing = ("",) * len(profile.stacks)
        known = zip(profile.classes or nothing, profile.threads or nothing, strict=True)
        for (frames, ms), (kind, thread) in zip(profile.stacks, known, strict=True):
            if frames and ms > 0 and math.isfinite(ms):
                key = tuple(map(numbers.__getitem__, frames))
                mark = kind, shorten(thread, _THREAD_NAME_LIMIT)
                stacks[key] = (stacks.get(key, (0.0, 0))[0] + ms, marks.setdefault(mark, len(marks)))
    return stacks


class _Numbers(dict[str, int]):
    """Numbers frames by their shortened name; a frame is looked at once, however often it stands in a stack."""

    def __init__(self, names: dict[str, int]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, frame: str) -> int:
        number = self._names.setdefault(shorten(frame, _FRAME_NAME_LIMIT), len(self._names))
        self[frame] = number
        return number


class _Packer:
    """Writes trees as the text that goes into the page; `pruned` is the number of the frame that holds what was cut."""

    def __init__(
        self,
        layers: Mapping[str, Sequence[Side]],
        grown: Sequence[GrownFrame],
        frames: list[str],
        marks: list[Mark],
        unit: Unit,
    ) -> None:
        self._unit = unit
        self._layers = layers
        self._sides = sides = layers[CPU]
        self._frames = [*frames, PRUNED_FRAME]
        self.pruned = len(frames)
        # What a mark says is written as two numbers: of a kind of work, and of a thread.
        self._classes = list(dict.fromkeys(kind for kind, _ in marks))
        self._threads = list(dict.fromkeys(thread for _, thread in marks))
        self._class_of = [self._classes.index(kind) for kind, _ in marks]
        self._thread_of = [self._threads.index(thread) for _, thread in marks]
        self._own = own_package(stack for side in sides for profile in side.profiles for stack in profile.stacks)
        self._changes: dict[str, dict[str, object]] = {}
        for frame in grown:
            interval = [_finite(frame.low_ms), _finite(frame.high_ms), frame.significant]
            self._changes.setdefault(frame.role, {})[shorten(frame.frame, _FRAME_NAME_LIMIT)] = interval

    def text(self, trees: Mapping[Place, Tree]) -> str:
        used = sorted({number for tree in trees.values() for number in tree.frame})
        places = {number: place for place, number in enumerate(used)}
        frames = [self._frames[number] for number in used]
        document = {
            "format": FORMAT,
            "unit": asdict(self._unit),
            "frames": frames,
            "own_package": self._own,
            "own": [int(package_of(frame) in ("", self._own)) for frame in frames],
            "classes": self._classes,
            "threads": self._threads,
            "sides": [{"name": side.name, "label": shorten(side.label, _FRAME_NAME_LIMIT)} for side in self._sides],
            "roles": [self._role(role, trees, places) for layer, role in trees if layer == CPU],
            "changes": self._changes,
            "layers": [
                {"key": layer, "name": LAYERS[layer][0], "unit": asdict(layer_unit(self._unit, layer))}
                for layer in self._layers
                if layer != CPU
            ],
        }
        if not document["layers"]:
            document["no_layers"] = why_no_layers(self._sides)
        plain = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return base64.b64encode(zlib.compress(plain.encode(), _LEVEL)).decode()

    def _role(self, role: str, trees: Mapping[Place, Tree], places: Mapping[int, int]) -> dict[str, Any]:
        packed = {"name": role, **self._tree(self._sides, role, trees[CPU, role], places)}
        if any(gil := [_gil_of(side, role) for side in self._sides]):
            packed["gil"] = gil
        others = [layer for layer in self._layers if layer != CPU]
        if others:
            packed["layers"] = {
                layer: self._tree(self._layers[layer], role, trees[layer, role], places) for layer in others
            }
            packed["layers"][WAIT]["meanwhile"] = [meanwhile_of(side, role) for side in self._sides]
            packed["gil_unknown"] = [unknown_of(side, role) for side in self._sides]
        return packed

    def _tree(self, sides: Sequence[Side], role: str, tree: Tree, places: Mapping[int, int]) -> dict[str, Any]:
        by_side = [[profile for profile in side.profiles if profile.role == role] for side in sides]
        before = [-1, *tree.depth]
        packed: dict[str, Any] = {
            "samples": [sum(profile.samples for profile in profiles) for profiles in by_side],
            "trials": [max((profile.trials for profile in profiles), default=0) for profiles in by_side],
            "up": [last + 1 - depth for last, depth in zip(before, tree.depth, strict=False)],
            "frame": [places[number] for number in tree.frame],
            "self": [[_rounded(ms) for ms in selfs] for selfs in tree.self_ms],
        }
        for name, of in (("class", self._class_of), ("thread", self._thread_of)):
            if tree.classes and any(of):
                packed[name] = [[of[mark] for mark in marks] for marks in tree.classes]
        return packed


def _gil_of(side: Side, role: str) -> dict[str, Any] | None:
    told = next((told for told in side.gil if told.role == role), None)
    if told is None:
        return None
    fracs = {"hold": told.hold_frac, "wait": told.wait_frac, "held": told.held_frac}
    return {
        "thread": shorten(told.thread, _THREAD_NAME_LIMIT),
        "looks": told.looks,
        "unknown": shorten(told.unknown, _FRAME_NAME_LIMIT),
        **{name: None if frac is None else round(frac, 4) for name, frac in fracs.items()},
    }


def _share_of(frame: int, tree: Tree) -> float:
    """Give the largest share of one side's time that lies in nodes of `frame`."""
    shares = [0.0]
    for selfs in tree.self_ms:
        total = sum(selfs)
        folded = sum(ms for number, ms in zip(tree.frame, selfs, strict=True) if number == frame)
        shares.append(folded / total if total else 0.0)
    return max(shares)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(ms: float) -> float:
    """Round to significant digits: relative accuracy is what a picture needs, and digits cost bytes."""
    if ms == 0:
        return 0
    return round(ms, max(0, _DIGITS - 1 - math.floor(math.log10(ms))))
