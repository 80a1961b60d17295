"""Packing and pruning keep every stack, or at least every total."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfguard.model.result import RoleProfile
from perfguard.report.flame import Side, pack
from perfguard.report.preorder import merge, pruned

STACKS = st.dictionaries(
    st.lists(st.integers(0, 5), min_size=1, max_size=6).map(tuple),
    st.floats(0.001, 100.0).map(lambda ms: float(f"{ms:.4g}")),
    max_size=25,
)


def folded(depths, frames, self_ms):
    stacks, path = {}, []
    for depth, frame, ms in zip(depths, frames, self_ms, strict=True):
        path[depth:] = [frame]
        if ms:
            stacks[tuple(path)] = stacks.get(tuple(path), 0.0) + ms
    return stacks


@given(STACKS, STACKS)
def test_every_stack_comes_back_on_its_own_side(before, after):
    sides = [
        Side(
            name=name,
            label=name,
            profiles=(
                RoleProfile(
                    role="rank-0",
                    samples=1,
                    trials=1,
                    stacks=tuple((tuple(map(str, frames)), ms) for frames, ms in stacks.items()),
                ),
            ),
        )
        for name, stacks in (("Before", before), ("After", after))
    ]
    data = json.loads(zlib.decompress(base64.b64decode(pack(sides, (), budget_bytes=10**6).text)))
    (role,) = data["roles"]
    depths = []
    for up in role["up"]:
        depths.append((depths[-1] if depths else -1) + 1 - up)
    for place, stacks in enumerate((before, after)):
        unpacked = folded(depths, [int(data["frames"][number]) for number in role["frame"]], role["self"][place])
        assert unpacked == stacks


@given(STACKS, STACKS, st.floats(0.0, 200.0))
def test_pruning_keeps_the_totals_of_all_that_stays(before, after, floor_ms):
    tree = merge([{frames: (ms, 0) for frames, ms in side.items()} for side in (before, after)])
    left = pruned(tree, floor_ms, frame=-1)
    for place, stacks in enumerate((before, after)):
        kept = folded(left.depth, left.frame, left.self_ms[place])
        assert sum(kept.values()) == pytest.approx(sum(stacks.values()))
        for frames, ms in kept.items():
            if frames[-1] != -1:
                assert stacks[frames] == ms
            under = sum(cost for each, cost in kept.items() if each[: len(frames) - 1] == frames[:-1])
            assert under == pytest.approx(
                sum(cost for each, cost in stacks.items() if each[: len(frames) - 1] == frames[:-1])
            )
    assert all(weight >= floor_ms for weight, frame in zip(left.weights, left.frame, strict=True) if frame != -1)
