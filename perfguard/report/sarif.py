"""A result as SARIF 2.1.0, for a CI that shows findings at lines of code: the regression, its commit, what fired.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from perfguard import __version__
from perfguard.model.result import BisectResult, CompareResult, Culprit, Finding
from perfguard.report import words
from perfguard.report.clean import AnyResult, clean
from perfguard.report.view import Page, build_page

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_REGRESSIONS = ("culprit", "slower")
_VERDICT_RULE = "performance-regression"
_FRAME = re.compile(r"\((?P<file>[^()<>]+\.\w+)(?::(?P<line>\d+))?\)\Z")
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_./-]+")
_LIMIT = 2_000
_MOST_LOCATIONS = 10


def to_sarif(result: AnyResult) -> Json:
    """Give `result` as a SARIF log of one run, as plain data for `json.dumps`.

    A regression is an error at the culprit's hunks, a rule that fired a warning at the lines it was measured at, and an
    undecided run a note. Home directories and secrets are redacted.
    """
    shown = clean(result, home=str(Path.home()))
    page = build_page(shown)
    judged = shown if isinstance(shown, (BisectResult, CompareResult)) else None
    culprit = shown.culprit if isinstance(shown, BisectResult) else None
    findings = [finding for finding in judged.findings if finding.fired] if judged else []
    paths = [hunk.path for hunk in culprit.hunks] if culprit else []
    results = [*_verdict(page, culprit), *(_finding(finding, paths) for finding in findings)]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "perfguard",
                        "semanticVersion": __version__,
                        "rules": _rules(page, findings),
                    }
                },
                "invocations": [{"executionSuccessful": True, "commandLine": words.shorten(page.run.command, _LIMIT)}],
                "results": results,
            }
        ],
    }


def _rules(page: Page, findings: Iterable[Finding]) -> list[Json]:
    rules = [
        {
            "id": _VERDICT_RULE,
            "shortDescription": {"text": f"{page.metric} became worse between two revisions."},
        }
    ]
    thresholds = {_rule_id(finding): finding.threshold for finding in findings}
    rules += [
        {"id": rule, "shortDescription": {"text": words.shorten(f"{rule}: {threshold}", _LIMIT)}}
        for rule, threshold in sorted(thresholds.items())
    ]
    return rules


def _rule_id(finding: Finding) -> str:
    return _NOT_A_NAME.sub("-", finding.rule)[:100].strip("-") or "rule"


def _verdict(page: Page, culprit: Culprit | None) -> list[Json]:
    if page.banner.look not in (*_REGRESSIONS, "unknown"):
        return []
    level = "error" if page.banner.look in _REGRESSIONS else "note"
    locations = [
        _location(hunk.path, hunk.new_start, hunk.new_start + max(0, hunk.new_lines - 1))
        for hunk in (culprit.hunks if culprit else ())
    ]
    said = _result(_VERDICT_RULE, level, page.banner.sentence, locations)
    said["partialFingerprints"] = {
        "perfguard/v1": _fingerprint(page.run.scenario, culprit.revision.commit if culprit else "")
    }
    return [said]


def _finding(finding: Finding, changed_paths: list[str]) -> Json:
    locations = []
    for evidence in finding.evidence:
        match = _FRAME.search(evidence.what)
        if match is None or match["file"].startswith(("/", "~")):
            continue
        # A profiler names a file from the import path on; the commit names it from the repository's root on.
        file = match["file"]
        path = next((path for path in changed_paths if path == file or path.endswith(f"/{file}")), file)
        line = int(match["line"] or 1)
        locations.append(_location(path, line, line))
    said = _result(_rule_id(finding), "warning", f"{finding.role}: {finding.effect}", locations)
    said["partialFingerprints"] = {"perfguard/v1": _fingerprint(finding.rule, finding.role)}
    return said


def _result(rule: str, level: str, text: str, locations: list[Json]) -> Json:
    said: Json = {"ruleId": rule, "level": level, "message": {"text": words.shorten(text, _LIMIT)}}
    return said | ({"locations": locations[:_MOST_LOCATIONS]} if locations else {})


def _location(path: str, first_line: int, last_line: int) -> Json:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(words.shorten(path, 1_000), safe="/"), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": max(1, first_line), "endLine": max(1, first_line, last_line)},
        }
    }


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="backslashreplace")).hexdigest()[:32]
