from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import jsonschema
import pytest

from perfguard.model.errors import PerfguardError
from perfguard.model.result import RoleProfile
from perfguard.report.exports import folded, functions_csv, speedscope, write_exports
from perfguard.report.flame import Side

SCHEMA = json.loads((Path(__file__).parent / "speedscope-file-format-schema.json").read_text(encoding="utf-8"))


def profile(*stacks, role="rank-0"):
    return RoleProfile(role=role, samples=9, trials=2, stacks=stacks)


def test_folded_stacks_count_nanoseconds():
    given = profile((("a (x.py:1)", "b;c"), 1.5), (("a\nb",), 1e-9), (("gone",), 0.0), (("odd",), math.nan), ((), 1.0))
    assert folded(given) == "a (x.py:1);b:c 1500000\na b 1\n"


def test_speedscope_follows_its_schema_and_keeps_every_cost(samples):
    sides = [
        Side(name="Before", label="good", profiles=samples.before_profiles()),
        Side(name="After", label="bad", profiles=samples.after_profiles()),
    ]
    document = speedscope(sides, "small-images")
    jsonschema.validate(document, SCHEMA)
    assert [each["name"] for each in document["profiles"]][:1] == ["Before: rank-0 (good)"]
    frames = document["shared"]["frames"]
    for side, of in zip([0, 0, 1, 1], document["profiles"], strict=True):
        expected = sides[side].profiles[0 if "rank-0" in of["name"] else 1]
        assert sum(of["weights"]) == pytest.approx(sum(ms for _, ms in expected.stacks))
        assert of["endValue"] == pytest.approx(sum(of["weights"]))
        assert [len(stack) for stack in of["samples"]] == [len(names) for names, _ in expected.stacks]
    assert {"name": "_object_to_tensor", "file": "torch/distributed/distributed_c10d.py", "line": 2921} in frames


def test_the_schema_would_notice(samples):
    document = speedscope([Side(name="B", label="b", profiles=samples.before_profiles())], "x")
    document["profiles"][0]["unit"] = "parsecs"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_csv_has_every_function_and_no_formula(samples):
    grown = [*samples.grown_frames(), *samples.hostile_result().grown_frames]
    hostile = samples._grown('=cmd|"/c calc"!A1, x', "@role", 1.0, 2.0, None, None, significant=False)
    rows = list(csv.DictReader(io.StringIO(functions_csv([*grown, hostile]))))
    assert len(rows) == len(grown) + 1
    assert rows[-1]["function"] == '\'=cmd|"/c calc"!A1, x'
    assert rows[-1]["role"] == "'@role"
    assert rows[-1]["change_low_ms_per_request"] == ""
    assert rows[3]["function"] == "broadcast_object_list (torch/distributed/distributed_c10d.py)"
    assert float(rows[3]["after_ms_per_request"]) == 4.5
    assert [row["significant"] for row in rows[:2]] == ["no", "yes"]


def test_every_file_is_written_and_redacted(samples, tmp_path):
    files = write_exports(samples.bisect_result(), tmp_path / "new" / "exports")
    assert sorted(each.name for each in files) == [
        "after-rank-0.folded",
        "after-rank-1.folded",
        "before-rank-0.folded",
        "before-rank-1.folded",
        "functions.csv",
        "profile.speedscope.json",
    ]
    assert all(each.stat().st_size > 100 for each in files)
    home = profile((("f (/home/ada/server.py:3)",), 1.0))
    files = write_exports(samples.compare_result(baseline_profiles=(home,), candidate_profiles=()), tmp_path / "b")
    assert "f (~/server.py:3) 1000000" in files[0].read_text(encoding="utf-8")


def test_a_result_without_profiles_has_none_to_write(samples, tmp_path):
    assert write_exports(samples.unknown_result(), tmp_path) == ()


def test_hostile_names_make_safe_files(samples, tmp_path):
    files = write_exports(samples.hostile_result(), tmp_path)
    assert {each.parent for each in files} == {tmp_path}
    assert min(each.name for each in files) == "after-__proto__.folded"
    jsonschema.validate(json.loads((tmp_path / "profile.speedscope.json").read_text(encoding="utf-8")), SCHEMA)


def test_a_place_that_cannot_be_written_is_one_clear_line(samples, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerfguardError, match=r"cannot write the exports to .*file") as caught:
        write_exports(samples.bisect_result(), tmp_path / "file")
    assert caught.value.hint
