"""JUnit XML and SARIF: what a CI reads of a result."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from perfguard.model.result import CompareVerdict
from perfguard.report.junit import to_junit
from perfguard.report.sarif import to_sarif

EVERY = ["bisect", "no_change", "unknown", "compare", "run", "hostile"]


def suite_of(result):
    (suite,) = ET.fromstring(to_junit(result).encode()).findall("testsuite")  # noqa: S314 - just written
    return suite


def kinds(suite):
    return {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}


def test_a_regression_fails_with_its_commit(samples):
    suite = suite_of(samples.bisect_result())
    found = kinds(suite)
    assert found["verdict"] == ["failure"]
    assert found["Throughput"] == ["failure"]
    assert found["TTFT p50"] == ["system-out"]  # inside the noise
    assert found["revision 3d17a57fd can be tested"] == ["skipped"]
    failure = suite.find("testcase[@name='verdict']/failure")
    assert failure.get("message").startswith("4017a57fd lowered throughput by 17.8%")
    assert "pickle-in-hot-path (rank-0)" in failure.text
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "3", "1")


def test_an_unknown_verdict_is_skipped_and_no_change_passes(samples):
    assert kinds(suite_of(samples.unknown_result()))["verdict"] == ["skipped"]
    passed = suite_of(samples.no_change_result())
    assert passed.get("failures") == "0"
    faster = suite_of(samples.compare_result(verdict=CompareVerdict.FASTER))
    assert faster.get("failures") == "0"  # the verdict decides, and it is no regression


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_is_well_formed_and_private(samples, name):
    text = to_junit(getattr(samples, f"{name}_result")())
    assert "abc123veryprivate" not in text
    assert ET.fromstring(text.encode()).tag == "testsuites"  # noqa: S314 - just written


def test_a_regression_is_an_error_at_the_culprit_s_hunks(samples):
    (run,) = to_sarif(samples.bisect_result())["runs"]
    verdict, fired = run["results"]
    assert (verdict["ruleId"], verdict["level"]) == ("performance-regression", "error")
    place = verdict["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == samples.SCHEDULER
    assert place["region"] == {"startLine": 1150, "endLine": 1155}
    assert (fired["ruleId"], fired["level"]) == ("pickle-in-hot-path", "warning")
    place = fired["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "torch/distributed/distributed_c10d.py"
    assert place["region"]["startLine"] == 3483
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {each["ruleId"] for each in run["results"]}


def test_no_regression_is_no_result_and_unknown_a_note(samples):
    assert to_sarif(samples.no_change_result())["runs"][0]["results"] == []
    assert to_sarif(samples.run_result())["runs"][0]["results"] == []
    (note,) = to_sarif(samples.unknown_result())["runs"][0]["results"]
    assert note["level"] == "note"


def test_fingerprints_stay_from_run_to_run(samples):
    def prints(result):
        return [each["partialFingerprints"] for each in to_sarif(result)["runs"][0]["results"]]

    again = samples.bisect_result(sentence="Other numbers", run=samples.run_info(seed=8))
    assert prints(samples.bisect_result()) == prints(again)


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_is_json_with_safe_addresses(samples, name):
    log = to_sarif(getattr(samples, f"{name}_result")())
    text = json.dumps(log, allow_nan=False)
    assert "abc123veryprivate" not in text
    for result in log["runs"][0]["results"]:
        assert result["message"]["text"]
        for location in result.get("locations", []):
            uri = location["physicalLocation"]["artifactLocation"]["uri"]
            assert uri.isascii()
            assert not set(uri) & set(" <>\"'`")
