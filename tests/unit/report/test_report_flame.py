from __future__ import annotations

import json
import math

import pytest

from perfguard.model.result import RoleProfile
from perfguard.report.flame import PRUNED_FRAME, Side, pack, script_safe


def side(stacks, *, name="Before"):
    return Side(name=name, label=name, profiles=(RoleProfile(role="rank-0", samples=9, trials=2, stacks=stacks),))


def unpack(packed, role="rank-0", place=0):
    """Fold the packed tree back into {stack: ms}."""
    data = json.loads(packed.json_text)
    nodes = data["sides"][place]["roles"][role]["nodes"]
    stacks, path = {}, []
    for depth, frame, ms in zip(nodes[::3], nodes[1::3], nodes[2::3], strict=True):
        path[depth:] = [data["frames"][frame]]
        if ms:
            stacks[tuple(path)] = ms
    return stacks


def test_packed_stacks_come_back():
    stacks = {("a", "b", "c"): 1.5, ("a", "b"): 0.25, ("a", "d"): 2.0, ("e",): 0.0625, ("a", "a", "a"): 3.0}
    packed = pack([side(tuple(stacks.items()))], (), budget_bytes=10_000)
    assert unpack(packed) == stacks
    assert packed.pruned_stacks == 0
    assert packed.stacks == 5


def test_equal_stacks_are_added_and_useless_ones_left_out():
    stacks = ((("a",), 1.0), (("a",), 2.0), (("b",), 0.0), (("c",), math.nan), (("d",), -1.0))
    assert unpack(pack([side(stacks)], (), budget_bytes=10_000)) == {("a",): 3.0}


def test_a_deep_stack_does_not_exhaust_the_interpreter():
    deep = tuple(f"f{n % 7}" for n in range(5_000))
    assert unpack(pack([side(((deep, 1.0),))], (), budget_bytes=10**6)) == {deep: 1.0}


def test_the_smallest_stacks_are_pruned_first_and_the_total_stays():
    stacks = tuple(((f"function number {n}", f"leaf {n}"), float(n + 1)) for n in range(500))
    whole = pack([side(stacks)], (), budget_bytes=10**6)
    budget = len(whole.json_text) // 3
    packed = pack([side(stacks)], (), budget_bytes=budget)
    assert len(packed.json_text) <= budget
    left = unpack(packed)
    pruned = left.pop((PRUNED_FRAME,))
    assert sum(left.values()) + pruned == pytest.approx(500 * 501 / 2)
    assert packed.pruned_stacks == 500 - len(left) > 0
    assert min(left.values()) >= packed.pruned_below_ms
    assert set(left) == {frames for frames, ms in stacks if ms >= packed.pruned_below_ms}
    assert packed.pruned_share == pytest.approx(pruned / (500 * 501 / 2))


def test_no_room_at_all_leaves_only_the_pruned_frame():
    packed = pack([side(((("a",), 1.0), (("b",), 2.0)))], (), budget_bytes=0)
    assert unpack(packed) == {(PRUNED_FRAME,): 3.0}
    assert packed.pruned_stacks == 2
    assert packed.pruned_share == 1.0


def test_long_names_are_cut(samples):
    packed = pack([side(((("w" * 10_000,), 1.0),))], samples.grown_frames(), budget_bytes=10_000)
    assert len(packed.json_text) < 4_000


def test_changes_carry_their_interval(samples):
    changes = json.loads(pack([side(((("a",), 1.0),))], samples.grown_frames(), budget_bytes=10_000).json_text)[
        "changes"
    ]
    assert changes["rank-1"]["from_dict (sglang/srt/managers/schedule_batch.py)"] == [-2.5, -1.9, True]
    assert changes["rank-0"]["tensor_hash (sglang/srt/managers/mm_utils.py)"] == [None, None, False]


def test_json_cannot_leave_its_script_element():
    hostile = ["</script><!--", "<![CDATA[", "&lt;", "\u2028\u2029", "quote\" ' \\"]
    text = script_safe(hostile)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == hostile


def test_json_refuses_what_no_browser_reads():
    with pytest.raises(ValueError, match="JSON"):
        script_safe([math.nan])
