from __future__ import annotations

import base64
import json
import math
import re
import zlib

import pytest
from sample_results import HOSTILE

from perfguard.model.result import RoleProfile
from perfguard.report.flame import PRUNED_FRAME, Side, pack
from perfguard.report.packages import STANDARD_LIBRARY, own_package, package_of
from perfguard.report.preorder import merge, pruned


def side(stacks, *, name="Before"):
    return Side(name=name, label=name, profiles=(RoleProfile(role="rank-0", samples=9, trials=2, stacks=stacks),))


def document(packed):
    return json.loads(zlib.decompress(base64.b64decode(packed.text)))


def unpack(packed, role="rank-0", place=0):
    """Fold the packed tree back into {stack: ms}, as the viewer does."""
    data = document(packed)
    (tree,) = [each for each in data["roles"] if each["name"] == role]
    stacks, path, depth = {}, [], -1
    for up, frame, ms in zip(tree["up"], tree["frame"], tree["self"][place], strict=True):
        depth += 1 - up
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


def test_two_sides_share_one_tree():
    packed = pack(
        [side(((("a", "b"), 1.0), (("a",), 2.0))), side(((("a", "b"), 3.0), (("c",), 4.0)), name="After")],
        (),
        budget_bytes=10_000,
    )
    assert unpack(packed) == {("a", "b"): 1.0, ("a",): 2.0}
    assert unpack(packed, place=1) == {("a", "b"): 3.0, ("c",): 4.0}
    assert packed.stacks == 3
    assert len(document(packed)["roles"][0]["frame"]) == 3


def many_stacks(count):
    return tuple(((f"function number {n * 7919}", f"leaf {n * 104_729}"), float(n + 1)) for n in range(count))


def test_the_smallest_stacks_are_pruned_first_and_every_total_stays():
    stacks = many_stacks(500)
    whole = pack([side(stacks)], (), budget_bytes=10**6)
    budget = len(whole.text) // 3
    packed = pack([side(stacks)], (), budget_bytes=budget)
    assert budget * 0.7 < len(packed.text) <= budget
    left = unpack(packed)
    pruned = left.pop((PRUNED_FRAME,))
    assert sum(left.values()) + pruned == pytest.approx(500 * 501 / 2)
    assert packed.pruned_stacks == 500 - len(left) > 0
    assert set(left) == {frames for frames, ms in stacks if ms >= packed.pruned_below_ms}
    assert packed.pruned_share == pytest.approx(pruned / (500 * 501 / 2))


def test_what_is_pruned_stands_under_its_caller():
    stacks = ((("a", "b"), 0.1), (("a", "c", "d"), 0.2), (("a",), 5.0), (("a", "e"), 9.0), (("f", "g"), 0.3))
    tree = merge([{tuple(map("abcdefg".index, frames)): (ms, 0) for frames, ms in stacks}])
    left = pruned(tree, 1.0, frame=99)
    assert left.depth == [0, 1, 1, 0]
    assert left.frame == [0, 4, 99, 99]
    assert left.self_ms == [[5.0, 9.0, pytest.approx(0.3), 0.3]]
    assert left.weights == pytest.approx([14.3, 9.0, 0.3, 0.3])


def test_no_room_at_all_leaves_only_the_pruned_frame():
    packed = pack([side(((("a",), 1.0), (("b",), 2.0)))], (), budget_bytes=0)
    assert unpack(packed) == {(PRUNED_FRAME,): 3.0}
    assert packed.pruned_stacks == 2
    assert packed.pruned_share == 1.0


def test_classes_are_kept_a_stack():
    profile = RoleProfile(
        role="rank-0", samples=9, trials=2, stacks=((("a", "b"), 1.0), (("a",), 2.0)), classes=("pickle", "hash")
    )
    data = document(pack([Side(name="B", label="B", profiles=(profile,))], (), budget_bytes=10_000))
    (tree,) = data["roles"]
    assert [data["classes"][each] for each in tree["class"][0]] == ["hash", "pickle"]
    assert "class" not in document(pack([side(((("a",), 1.0),))], (), budget_bytes=10_000))["roles"][0]


def test_threads_are_kept_a_stack_also_where_nothing_was_classed():
    stacks = ((("a", "b"), 1.0), (("a",), 2.0), (("c",), 3.0))
    profile = RoleProfile(role="rank-0", samples=9, trials=2, stacks=stacks, threads=("pool", "main", ""))
    data = document(pack([Side(name="B", label="B", profiles=(profile,))], (), budget_bytes=10_000))
    (tree,) = data["roles"]
    assert [data["threads"][each] for each in tree["thread"][0]] == ["main", "pool", ""]
    assert "class" not in tree
    assert "gil" not in tree


def test_the_gil_of_a_role_goes_beside_its_tree(samples):
    profile = RoleProfile(role="rank-0", samples=9, trials=2, stacks=((("a",), 1.0),))
    told = (samples.role_gil("rank-0", 0.25, 0.125), samples.role_gil("rank-9", 1.0, 0.0))
    sides = [Side(name="B", label="B", profiles=(profile,), gil=told), Side(name="A", label="A", profiles=(profile,))]
    (tree,) = document(pack(sides, (), budget_bytes=10_000))["roles"]
    known = {"thread": "MainThread", "looks": 100, "unknown": "", "hold": 0.25, "wait": 0.125, "held": 0.25}
    assert tree["gil"] == [known, None]


def test_long_names_are_cut(samples):
    packed = pack([side(((("w" * 10_000,), 1.0),))], samples.grown_frames(), budget_bytes=10_000)
    assert max(len(name) for name in document(packed)["frames"]) == 500


def test_changes_carry_their_interval(samples):
    changes = document(pack([side(((("a",), 1.0),))], samples.grown_frames(), budget_bytes=10_000))["changes"]
    assert changes["rank-1"]["from_dict (sglang/srt/managers/schedule_batch.py)"] == [-2.5, -1.9, True]
    assert changes["rank-0"]["tensor_hash (sglang/srt/managers/mm_utils.py)"] == [None, None, False]


def test_the_text_cannot_leave_its_script_element():
    packed = pack([side((((HOSTILE,), 1.0), (("\u2028\ud800",), 2.0)))], (), budget_bytes=10_000)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed.text)
    assert unpack(packed) == {(HOSTILE,): 1.0, ("\u2028\ud800",): 2.0}


@pytest.mark.parametrize(
    ("frame", "package"),
    [
        ("f (sglang/srt/a.py:3)", "sglang"),
        ("f (/opt/venv/lib/python3.11/site-packages/torch/nn/a.py)", "torch"),
        ("f (/usr/lib/python3.11/json/decoder.py:3)", STANDARD_LIBRARY),
        ("spawn_main (multiprocessing/spawn.py:122)", STANDARD_LIBRARY),
        ("<module> (<string>:1)", STANDARD_LIBRARY),
        ("f (<frozen importlib._bootstrap>:1)", STANDARD_LIBRARY),
        ("f (~/work/server/main.py:9)", "server"),
        ("f (server.py:9)", "server"),
        ("native_call", ""),
    ],
)
def test_the_package_of_a_frame(frame, package):
    assert package_of(frame) == package


def test_the_own_package_is_the_outermost_one_by_time():
    stacks = (
        (("run (threading.py:1)", "serve (uvicorn/server.py:2)", "handle (sglang/a.py:3)"), 1.0),
        (("spawn (multiprocessing/spawn.py:1)", "loop (sglang/b.py:3)", "forward (torch/nn.py:2)"), 3.0),
    )
    assert own_package(stacks) == "sglang"
    assert own_package(()) == ""
