"""The GIL as layers of the flamegraph: the stacks that held it, and those that waited for it, beside those that ran."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perfguard.model.result import RoleProfile
from perfguard.report.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.gil_stacks import GilLayers
    from perfguard.report.flame import Side, Unit

HOLD, WAIT = "hold", "wait"
# The name of each layer in the viewer, and what its time was spent in.
LAYERS = {HOLD: ("Holding the GIL", "holding the GIL"), WAIT: ("Waiting for the GIL", "waiting for the GIL")}
_NAME_LIMIT = 500
_MOST_FRAMES = 30
_MOST_HOLDERS = 5
_LINE = re.compile(r":\d+\)$")
_NOT_LOOKED_AT = "the stacks that held the GIL or waited for it were not read when this was recorded"


def layer_sides(sides: Sequence[Side], layer: str) -> list[Side]:
    """Give the profiles of one layer for every side."""
    return [replace(side, profiles=tuple(_layer_of(profile, layer) for profile in side.profiles)) for side in sides]


def layer_unit(unit: Unit, layer: str) -> Unit:
    """Give the unit of a layer beside a flamegraph in `unit`: milliseconds, a request where that is per request."""
    _, doing = LAYERS[layer]
    per = " per request" if unit.key == "ms_per_request" else ""
    return replace(
        unit,
        name=f"ms{per} {doing}",
        amount=f"ms{per}",
        symbol="ms",
        key=f"gil_{layer}_ms{per.replace(' ', '_')}",
    )


def has_layers(sides: Sequence[Side]) -> bool:
    """Whether anything is known of any role's GIL by stack; also that nobody held it or waited for it."""
    return any(_told(profile) for side in sides for profile in side.profiles)


def why_no_layers(sides: Sequence[Side]) -> str:
    """Say why there are no layers; for pages that have none."""
    reasons = [profile.gil.unknown for side in sides for profile in side.profiles if profile.gil is not None]
    reason = next(filter(None, reasons), _NOT_LOOKED_AT)
    return f"No layer of the GIL is offered: {shorten(reason, _NAME_LIMIT)}."


def unknown_of(side: Side, role: str) -> str:
    """Say why the layers have nothing of a role on a side; empty where they have, or where it has no profile."""
    for profile in side.profiles:
        if profile.role == role:
            return shorten(_NOT_LOOKED_AT if profile.gil is None else profile.gil.unknown, _NAME_LIMIT)
    return ""


def meanwhile_of(side: Side, role: str) -> list[list[Any]]:
    """Give what held the GIL while what waited: [function that waited, function that held it, cost] each."""
    found: list[list[Any]] = []
    for profile in side.profiles:
        if profile.role == role and profile.gil is not None:
            found += [
                [shorten(waiting, _NAME_LIMIT), shorten(holding, _NAME_LIMIT), round(ms, 6)]
                for waiting, holding, ms in profile.gil.meanwhile
            ]
    return found


def gil_frames(
    before: Sequence[RoleProfile], after: Sequence[RoleProfile], *, most: int = _MOST_FRAMES
) -> list[dict[str, Any]]:
    """Give for a document the functions that waited for the GIL or held it, by the innermost frame, of every role.

    At most `most` of a role, the costliest first, in milliseconds per request. A side that could not be told has null
    for its costs; a role of which nothing can be told says why.
    """
    sides = [{profile.role: profile for profile in side} for side in (before, after)]
    return [
        entry
        for role in sorted(sides[0].keys() | sides[1].keys())
        for entry in _role_frames(role, [side.get(role) for side in sides], most)
    ]


def _role_frames(role: str, sides: Sequence[RoleProfile | None], most: int) -> list[dict[str, Any]]:
    told = [None if profile is None else _told(profile) for profile in sides]
    if not any(told):
        reasons = [profile.gil.unknown for profile in sides if profile is not None and profile.gil is not None]
        return [{"role": role, "unknown": reason} for reason in filter(None, reasons[:1])]
    waits = [_by_function(gil.waiting) if gil else {} for gil in told]
    holds = [_by_function(gil.holding) if gil else {} for gil in told]
    largest = {
        name: max(costs.get(name, 0.0) for costs in (*waits, *holds)) for side in (*waits, *holds) for name in side
    }
    shown = sorted(largest, key=lambda name: (-largest[name], name))[:most]
    return [
        {
            "role": role,
            "frame": name,
            **{
                f"{side}_{doing}_ms_per_request": costs[place].get(name, 0.0) if gil else None
                for place, (side, gil) in enumerate(zip(("before", "after"), told, strict=True))
                for doing, costs in (("waiting", waits), ("holding", holds))
            },
            "held_meanwhile": [
                {"frame": held, "after_ms_per_request": ms} for waiting, held, ms in _pairs(told[1]) if waiting == name
            ][:_MOST_HOLDERS],
        }
        for name in shown
    ]


def _pairs(gil: GilLayers | None) -> tuple[tuple[str, str, float], ...]:
    return gil.meanwhile if gil is not None else ()


def _by_function(stacks: Sequence[tuple[tuple[str, ...], float]]) -> dict[str, float]:
    costs: dict[str, float] = {}
    for frames, ms in stacks:
        name = _LINE.sub(")", frames[-1])
        costs[name] = costs.get(name, 0.0) + ms
    return costs


def _told(profile: RoleProfile) -> GilLayers | None:
    return None if profile.gil is None or profile.gil.unknown else profile.gil


def _layer_of(profile: RoleProfile, layer: str) -> RoleProfile:
    gil = _told(profile)
    if gil is None:
        return replace(profile, samples=0, stacks=(), classes=(), threads=())
    stacks, threads = (gil.holding, gil.holding_threads) if layer == HOLD else (gil.waiting, gil.waiting_threads)
    return replace(profile, samples=gil.looks, stacks=stacks, classes=(), threads=threads)
