from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from perfguard.model.gil_stacks import GilLayers
from perfguard.model.result import RoleProfile
from perfguard.report.flame import SAMPLES, Side, pack
from perfguard.report.gil import gil_frame_rows
from perfguard.report.gil_layers import gil_frames
from perfguard.report.jsonable import to_json_document

POLL, PARSE = "poll (helper.py:3)", "parse (server.py:7)"


def layers(scale=1.0, **changes):
    told = GilLayers(
        looks=100,
        holding=((("main (a.py:1)", PARSE), 4.0 * scale),),
        holding_threads=("loop",),
        waiting=((("main (a.py:1)", POLL), 3.0 * scale),),
        waiting_threads=("helper",),
        meanwhile=(("poll (helper.py)", "parse (server.py)", 3.0 * scale),),
    )
    return replace(told, **changes)


def profile(gil=None, role="server"):
    return RoleProfile(role=role, samples=9, trials=2, stacks=((("main (a.py:1)", PARSE), 1.0),), gil=gil)


def document(*sides, **options):
    made = [Side(name=name, label=name, profiles=profiles) for name, profiles in zip("BA", sides, strict=False)]
    packed = pack(made, (), budget_bytes=100_000, **options)
    return json.loads(zlib.decompress(base64.b64decode(packed.text)))


def tree_of(data, role, layer):
    tree = role["layers"][layer]
    return [data["frames"][number] for number in tree["frame"]], tree["self"]


def test_both_layers_stand_beside_the_cpu_with_a_unit_of_their_own():
    data = document((profile(layers()),), (profile(layers(2.0)),))
    assert [(layer["key"], layer["unit"]["name"]) for layer in data["layers"]] == [
        ("hold", "ms per request holding the GIL"),
        ("wait", "ms per request waiting for the GIL"),
    ]
    (role,) = data["roles"]
    assert tree_of(data, role, "hold") == (["main (a.py:1)", PARSE], [[0, 4.0], [0, 8.0]])
    assert tree_of(data, role, "wait") == (["main (a.py:1)", POLL], [[0, 3.0], [0, 6.0]])
    assert [data["threads"][each] for each in role["layers"]["wait"]["thread"][0]] == ["", "helper"]
    assert role["layers"]["wait"]["meanwhile"][1] == [["poll (helper.py)", "parse (server.py)", 6.0]]
    assert role["layers"]["wait"]["samples"] == [100, 100]
    assert role["self"] == [[0, 1.0], [0, 1.0]]
    assert "no_layers" not in data


def test_a_recording_has_milliseconds():
    data = document((profile(layers()),), unit=SAMPLES)
    assert [layer["unit"]["key"] for layer in data["layers"]] == ["gil_hold_ms", "gil_wait_ms"]


@pytest.mark.parametrize(
    ("gil", "reason"),
    [(None, "not read when this was recorded"), (GilLayers(looks=0, unknown="no layout is known"), "no layout")],
)
def test_without_data_no_layer_is_offered_and_the_page_says_why(gil, reason):
    data = document((profile(gil),))
    assert data["layers"] == []
    assert reason in data["no_layers"]
    assert "layers" not in data["roles"][0]


def test_a_role_of_which_nothing_is_known_says_so_beside_one_that_is():
    data = document((profile(layers()), profile(role="worker")))
    worker = next(role for role in data["roles"] if role["name"] == "worker")
    assert worker["layers"]["hold"]["frame"] == []
    assert "not read" in worker["gil_unknown"][0]
    assert next(role for role in data["roles"] if role["name"] == "server")["gil_unknown"] == [""]


def test_the_document_tells_functions_of_both_sides():
    parse, poll = gil_frames((profile(layers()),), (profile(layers(2.0)),))
    assert (parse["frame"], parse["before_holding_ms_per_request"], parse["after_holding_ms_per_request"]) == (
        "parse (server.py)", 4.0, 8.0,
    )  # fmt: skip
    assert parse["after_waiting_ms_per_request"] == 0.0
    assert poll["frame"] == "poll (helper.py)"
    assert poll["after_waiting_ms_per_request"] == 6.0
    assert poll["held_meanwhile"] == [{"frame": "parse (server.py)", "after_ms_per_request": 6.0}]
    (parse, _) = gil_frames((profile(),), (profile(layers()),))
    assert parse["before_holding_ms_per_request"] is None
    unknown = GilLayers(looks=0, unknown="denied")
    assert gil_frames((profile(unknown),), (profile(unknown),)) == [{"role": "server", "unknown": "denied"}]
    assert gil_frames((profile(),), (profile(),)) == []


def test_the_page_tells_the_functions_without_a_script():
    sides = [
        Side(name=name, label=name, profiles=(each,)) for name, each in (("B", profile()), ("A", profile(layers())))
    ]
    parse, poll = gil_frame_rows(sides)
    assert (poll.role, poll.frame, poll.waits, poll.holds) == (
        "server",
        "poll (helper.py)",
        ("n/a", "3.00"),
        ("n/a", "0"),
    )
    assert poll.meanwhile == "parse (server.py) 3.00"
    assert parse.holds == ("n/a", "4.00")
    assert gil_frame_rows(sides[:1]) == ()


def test_documents_with_and_without_layers_follow_the_schema(samples):
    schema = json.loads((Path(__file__).parents[3] / "docs" / "result-schema.json").read_text(encoding="utf-8"))
    for before, after in (
        (profile(layers()), profile(layers())),
        (profile(), profile(GilLayers(looks=0, unknown="?"))),
    ):
        result = samples.compare_result(baseline_profiles=(before,), candidate_profiles=(after,))
        told = to_json_document(result, None)
        jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(told)))
        assert told["gil_frames"]
