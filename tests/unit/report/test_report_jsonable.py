from __future__ import annotations

import json
from pathlib import Path

import pytest

from perfguard.report.clean import REDACTED
from perfguard.report.jsonable import to_json_document

JUDGED = {"schema_version", "verdict", "effect", "effects", "trials", "revisions_measured", "findings", "rules_judged",
          "grown_frames", "environment", "report"}  # fmt: skip


def test_bisect_document(samples):
    document = to_json_document(samples.bisect_result(), Path("/srv/out/report.html"))
    assert set(document) == JUDGED | {"culprit", "credible_set", "fix"}
    assert document["fix"] is None
    assert document["schema_version"] == 1
    assert document["verdict"] == "culprit"
    assert document["culprit"] == {
        "revision": samples.revision(64).label,
        "commit": samples.revision(64).commit,
        "subject": "[Feature] Broadcast multimodal inputs from the entry rank (#11910)",
        "posterior": 0.981,
    }
    assert document["credible_set"] == [{key: document["culprit"][key] for key in ("revision", "commit", "subject")}]
    assert document["effect"] == {"metric": "throughput_rps", "ratio": 0.822, "low": 0.781, "high": 0.866}
    assert document["trials"] == 23
    assert document["revisions_measured"] == 11
    assert [each["rule"] for each in document["findings"]] == ["pickle-in-hot-path"]
    assert document["findings"][0]["evidence"][0] == {
        "what": samples.OBJECT_LIST, "unit": "CPU ms/request", "before": 0.0, "after": 4.5,
    }  # fmt: skip
    assert [each["fired"] for each in document["rules_judged"]] == [False, True]
    assert document["report"] == "/srv/out/report.html"
    assert document["environment"]["HF_TOKEN"] == REDACTED
    assert document["environment"]["stand_ins"]


def test_grown_frames_carry_interval_and_significance(samples):
    frames = to_json_document(samples.bisect_result(), None)["grown_frames"]
    gone = next(each for each in frames if each["frame"].startswith("from_dict"))
    assert gone["after_ms_per_request"] == 0.0
    assert (gone["change_low_ms_per_request"], gone["change_high_ms_per_request"], gone["significant"]) == (
        -2.5,
        -1.9,
        True,
    )


def test_no_change_and_unknown_name_nobody(samples):
    for result, verdict in ((samples.no_change_result(), "no_change"), (samples.unknown_result(), "unknown")):
        document = to_json_document(result, None)
        assert document["verdict"] == verdict
        assert document["culprit"] is None
        assert document["report"] is None
    assert to_json_document(samples.unknown_result(), None)["effect"] is None
    assert len(to_json_document(samples.unknown_result(), None)["credible_set"]) == 3


def test_compare_document(samples):
    document = to_json_document(samples.compare_result(), None)
    assert set(document) == JUDGED | {"baseline", "candidate"}
    assert document["verdict"] == "slower"
    assert document["candidate"]["commit"] == samples.revision(2).commit


def test_run_document(samples):
    document = to_json_document(samples.run_result(), None)
    assert [each["metric_mean"] for each in document["revisions"]] == [150.0, 140.0, None]
    assert document["revisions"][2]["untestable_reason"].startswith("ImportError")
    assert document["revisions_measured"] == 2


@pytest.mark.parametrize("name", ["bisect", "no_change", "unknown", "compare", "run", "hostile"])
def test_every_document_is_strict_json(samples, name):
    document = to_json_document(getattr(samples, f"{name}_result")(), None)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_what_is_not_finite_is_null(samples):
    document = to_json_document(samples.hostile_result(), None)
    assert document["effect"]["ratio"] is None
    assert document["effect"]["low"] == 0.1
    assert document["findings"][0]["evidence"][0]["before"] is None
